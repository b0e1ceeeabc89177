from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from cuda_on_cpu.build import ROOT, sources


@pytest.fixture(scope="module")
def roofline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_roofline", ROOT / "scripts/kernel_roofline.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_table(roofline: ModuleType) -> None:
    assert roofline.markdown() in (ROOT / "docs/cuda.md").read_text()


def test_each_line_is_a_kernel_bound_by_memory(roofline: ModuleType) -> None:
    for shape in roofline.SHAPES:
        for kernel, (bytes_, flops) in roofline.kernels(shape).items():
            assert kernel.split(",")[0].split(" ")[0] in sources()
            assert all(bytes_ / bandwidth > flops / rate for bandwidth, rate in roofline.GPUS.values()), kernel


def test_by_hand(roofline: ModuleType) -> None:
    """AdamW of 1.4e9 parameters: 30 bytes each over 1555 GB/s."""
    bytes_, flops = roofline.kernels(roofline.SHAPES[0])["adamw"]
    assert roofline.milliseconds(bytes_, flops, "A100-40") == pytest.approx(1e3 * 1.4e9 * 30 / 1.555e12)
