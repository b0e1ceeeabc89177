"""What the tests of ops share: inputs, the plain and the exact computation of torch, the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from llmjp_core._core import ops

DTYPES = ["float32", "bfloat16", "float16"]
THREADS = (1, 2, 3, 7)


def randn(*shape: int, dtype: str = "float32", seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, rounded to `dtype`; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(getattr(torch, dtype))


def stored(x: Any) -> Any:
    """A tensor as the binding takes it: bits in uint16 for the half types."""
    if not isinstance(x, torch.Tensor):
        return x
    if x.dtype in (torch.bfloat16, torch.float16):
        return x.contiguous().view(torch.int16).numpy().view(np.uint16)
    return x.contiguous().numpy()


def tensor(x: Any, dtype: str) -> Any:
    """What the binding returned, as tensors."""
    if isinstance(x, tuple):
        return tuple(tensor(part, dtype) for part in x)
    if isinstance(x, np.ndarray) and x.dtype == np.uint16:
        return torch.from_numpy(x.view(np.int16)).view(getattr(torch, dtype))
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def call(op: Callable[..., Any], *args: Any, dtype: str = "float32", **named: Any) -> Any:
    """`op` on tensors of `dtype`."""
    result = op(*map(stored, args), dtype=dtype, **{name: stored(value) for name, value in named.items()})
    return tensor(result, dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """For torch: the sizes here are small, waiting for other threads would cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gradients(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], dy: torch.Tensor | None, kind: torch.dtype
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """function(*inputs) computed in `kind`, and the gradients of its inputs for the gradient dy of its result."""
    leaves = [x.detach().to(kind).requires_grad_() for x in inputs]
    with one_thread():
        result = function(*leaves)
        if dy is not None:
            result.backward(dy.to(result.dtype))
    return result.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


def plain_and_exact(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], dy: torch.Tensor | None = None
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """(result, gradient of each input) twice: as torch computes it in the dtype of the inputs, and in float64."""
    plain, plain_gradients = gradients(function, inputs, dy, inputs[0].dtype)
    exact, exact_gradients = gradients(function, inputs, dy, torch.float64)
    return (plain, *plain_gradients), (exact, *exact_gradients)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def assert_as_good(ours: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, factor: float = 2) -> None:
    """Our error against float64 is at most `factor` times that of the plain computation in the same dtype."""
    assert ours.shape == exact.shape
    allowed = factor * distance(plain, exact) + 1e-6 * float(exact.double().abs().max())
    error = distance(ours, exact)
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"  # NaN fails


def bits(result: Any) -> list[bytes]:
    parts = result if isinstance(result, tuple) else (result,)
    return [stored(part).tobytes() if isinstance(part, torch.Tensor) else np.asarray(part).tobytes() for part in parts]


def assert_same_bits_for_any_threads(function: Callable[[], Any]) -> None:
    before, results = ops.num_threads(), []
    try:
        for threads in THREADS:
            ops.set_num_threads(threads)
            assert ops.num_threads() == threads
            results.append(bits(function()))
    finally:
        ops.set_num_threads(before)
    assert all(result == results[0] for result in results)
