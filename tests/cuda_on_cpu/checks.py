"""What the tests of kernels share: schedules, and mutants, which are kernels with a planted mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
import torch
from parity import bits

from cuda_on_cpu import build
from cuda_on_cpu.emulator import KernelError, Kernels

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# 0: the lowest thread that can run, 1: the highest, others: at random.
SEEDS = (0, 1, 2, 3)

Result = TypeVar("Result")


def each_schedule(run: Callable[[int], Result]) -> Result:
    """run(seed) for all schedules, which must give the same bits."""
    results = [run(seed) for seed in SEEDS]
    assert all(bits(result) == bits(results[0]) for result in results), "the schedule changes the result"
    return results[0]


def name_of(tensor: torch.Tensor) -> str:
    return {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[tensor.dtype]


@dataclass(frozen=True)
class Mutant:
    """`op`.cu with `old` replaced by `new` wherever it stands, in the file or in what it includes."""

    op: str
    what: str
    old: str
    new: str

    def text(self) -> str:
        """Without one dtype, which saves a third of the compiler's time."""
        return build.flat(self.op).replace("ENTRY(bf16, __nv_bfloat16)", "")

    def kernels(self, variant: str = "checked") -> Kernels:
        text = self.text()
        assert self.old in text, f"{self.what}: {self.op}.cu has no `{self.old}`"
        texts = build.sources() | {self.op: text.replace(self.old, self.new)}
        return Kernels(build.library(texts, variant, name=f"{self.op}-mutant"))


def must_be_caught(mutant: Mutant, battery: Callable[[Kernels], None]) -> None:
    """`battery` is what the right kernel passes."""
    kernels = mutant.kernels()
    with pytest.raises((AssertionError, KernelError)):
        battery(kernels)


def mutants(*items: Mutant) -> pytest.MarkDecorator:
    """Each takes the compiler a second: together they are slow."""
    cases = [pytest.param(item, id=item.what.replace(" ", "-"), marks=pytest.mark.slow) for item in items]
    return pytest.mark.parametrize("mutant", cases)
