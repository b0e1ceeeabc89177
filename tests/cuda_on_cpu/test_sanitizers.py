"""The same tests with kernels and emulation built for the compiler's AddressSanitizer and UBSan, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cuda_on_cpu.build import COMPILER, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    names = ("libasan.so", "libubsan.so")
    found = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    missing = [name for name, path in zip(names, found, strict=True) if not os.path.isabs(path)]
    if missing:
        pytest.skip(f"{COMPILER} has no {' and no '.join(missing)}")
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        # Python's own memory is not the question; fibers have stacks of their own already.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "CUDA_ON_CPU_VARIANT": "sanitized",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900
    )


def test_kernels_are_clean(environment: dict[str, str]) -> None:
    tests = "not (bfloat16 or float16 or test_emulation or test_compile or test_sanitizers)"
    done = python(
        environment, "-m", "pytest", "-p", "no:faulthandler", "tests/cuda_on_cpu", "-m", "not slow", "-k", tests
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("i < n; i += step", "i <= n; i += step", "AddressSanitizer: heap-buffer-overflow"),
        ("u[j] + v[j]", "float(2147483647 + int(j + 1))", "runtime error: signed integer overflow"),
    ],
)
def test_a_mistake_is_seen(environment: dict[str, str], old: str, new: str, message: str) -> None:
    program = (
        "from cuda_on_cpu.checks import Mutant; from cuda_on_cpu.test_add import check_add;"
        f"check_add(Mutant('add', 'wrong', {old!r}, {new!r}).kernels('sanitized'), (129, 32, 2), 'float32')"
    )
    done = python(environment, "-c", program)
    assert done.returncode != 0 and message in done.stderr, done.stderr[-3000:]
