from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cuda_on_cpu import build
from cuda_on_cpu.emulator import Kernels
from cuda_on_cpu.runner import Runner


@pytest.fixture(scope="session", autouse=True)
def compiler() -> None:
    if not shutil.which(build.COMPILER):
        pytest.skip(f"no C++ compiler `{build.COMPILER}`: install g++ 12 or later, or name one by CXX")


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """All kernels, each access checked, or (test_sanitizers.py) as the variable says."""
    return Kernels(build.library(build.sources(), os.environ.get("CUDA_ON_CPU_VARIANT", "checked")))


@pytest.fixture(scope="session")
def driver() -> Path:
    return build.driver(build.sources())


@pytest.fixture
def run(driver: Path, tmp_path: Path) -> Runner:
    return Runner(driver, tmp_path)
