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


def test_each_line_is_a_kernel_and_its_bound(roofline: ModuleType) -> None:
    """Memory, but for the products of attention."""
    for shape in roofline.SHAPES:
        for kernel, (bytes_, flops) in roofline.kernels(shape).items():
            assert kernel.split(",")[0].split(" ")[0] in sources()
            for gpu, (bandwidth, _) in roofline.GPUS.items():
                by_memory = bytes_ / bandwidth > flops / roofline.rate(kernel, gpu)
                assert by_memory != (kernel in roofline.PRODUCTS), kernel


def test_by_hand(roofline: ModuleType) -> None:
    """AdamW of 1.4e9 parameters: 30 bytes each over 1555 GB/s. Attention of 13B: 40 heads of 128, 4096 queries that see
    2048.5 keys each, two products of 2 FLOPs over 312 TFLOP/s."""
    kernels = roofline.kernels(roofline.SHAPES[0])
    assert roofline.milliseconds("adamw", *kernels["adamw"], "A100-40") == pytest.approx(1e3 * 1.4e9 * 30 / 1.555e12)
    flops = 40 * 4096 * 2048.5 * 128 * 2 * 2
    assert roofline.kernels(roofline.SHAPES[1])["attention"][1] == pytest.approx(flops)
    times = [roofline.milliseconds("attention", 1.0, flops, gpu) for gpu in ("A100-40", "H100")]
    assert times == pytest.approx([1e3 * flops / 312e12, 1e3 * flops / 989e12])
