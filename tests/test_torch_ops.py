"""The ops inside torch: opcheck, torch.compile, autocast, checkpointing, and what the binding refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import assert_as_good, randn
from torch.utils.checkpoint import checkpoint
from torch_cases import ONE_EACH, Case, ours, table

from llmjp_core._core import torch as binding
from llmjp_core.errors import DeviceError, UnsupportedInputError
from llmjp_core.torch import losses, ops

Tensor = torch.Tensor


def arguments() -> dict[str, tuple[Any, ...]]:
    """Inputs of each op, as its schema has them."""

    def leaf(*shape: int, seed: int = 1) -> Tensor:
        return randn(*shape, seed=seed).requires_grad_()

    cos, sin = table(1, 5, 4, torch.float32)
    target = torch.tensor([1, -100, 2])
    loss = (-100, 0.1, 0.01)
    return {
        "rms_norm": (leaf(2, 3, 8), leaf(8, seed=2), 1e-6),
        "layer_norm": (leaf(2, 3, 8), leaf(8, seed=2), leaf(8, seed=3), 1e-5),
        "activation": (leaf(3, 7), "gelu"),
        "gated_mlp": (leaf(3, 7), leaf(3, 7, seed=2), "silu"),
        "linear": (leaf(2, 3, 8), leaf(5, 8, seed=2), leaf(5, seed=3)),
        "rotary": (leaf(2, 5, 3, 6), cos, sin, False),
        "attention": (
            leaf(1, 5, 4, 6),
            leaf(1, 5, 2, 6, seed=2),
            leaf(1, 5, 2, 6, seed=3),
            cos,
            sin,
            None,
            0.4,
            -1,
            0,
            False,
        ),
        "cross_entropy": (leaf(3, 6), target, *loss, None),
        "linear_cross_entropy": (leaf(3, 8), leaf(6, 8, seed=2), target, *loss, None, True),
    }


OPS = {name: getattr(ops, name, None) or getattr(losses, name) for name in arguments()}


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(OPS[name].library, arguments()[name])


def test_opcheck_of_other_forms() -> None:
    """Optional arguments left out, one fused tensor of queries, keys and values, losses apart."""
    attention, (q, k, *_) = ops.attention.library, arguments()["attention"]
    fused, angles = randn(1, 5, 4, 18).requires_grad_(), table(1, 5, 4, torch.float32)
    torch.library.opcheck(attention, (fused, None, None, *angles, None, 0.4, -1, 0, False))
    torch.library.opcheck(attention, (fused, None, None, None, None, torch.tensor([0, 2, 5]), 0.4, 3, 1, False))
    torch.library.opcheck(attention, (q, q, q, None, None, torch.tensor([[0, 0, 1, 1, 1]]), 0.4, -1, -1, False))
    heads_first = [x.detach().transpose(1, 2).requires_grad_() for x in (q, k, k)]
    torch.library.opcheck(attention, (*heads_first, None, None, None, 0.4, 2, 0, True))
    x, w, _, eps = arguments()["layer_norm"]
    torch.library.opcheck(ops.layer_norm.library, (x, w, None, eps))
    logits, target, *_ = arguments()["cross_entropy"]
    torch.library.opcheck(losses.cross_entropy.library, (logits, target, -100, 0.0, 0.0, 0.0))
    torch.library.opcheck(losses.linear_cross_entropy.library, (x[0].detach(), w[None].detach(), target.clamp(max=0),
                                                                -100, 0.0, 0.0, None, False))  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_the_dispatcher_gives_the_bits_of_the_short_way(name: str) -> None:
    def run(op: Any) -> list[Tensor]:
        inputs = arguments()[name]
        result = op(*inputs)
        result = result[0] if isinstance(result, tuple) else result
        result.sum().backward()
        return [result, *(x.grad for x in inputs if isinstance(x, Tensor) and x.grad is not None)]

    short, long = run(OPS[name]), run(OPS[name].library)
    assert len(short) == len(long) > 1
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_compiles_as_a_whole(case: Case) -> None:
    """With the same bits: what is compiled calls the same kernels."""

    def run(function: Any) -> list[Tensor]:
        inputs = [x.requires_grad_() for x in case.inputs()]
        result = function(*inputs)
        result.square().sum().backward()
        return [result.detach(), *(x.grad for x in inputs)]

    torch._dynamo.reset()
    compiled = torch.compile(case.ours, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(run(compiled), run(case.ours), strict=True))


@pytest.mark.slow
def test_compiles_with_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ops with torch's own between them."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what another version compiled is not ours
    w, x, target = randn(33, seed=2), randn(4, 33, seed=1), torch.arange(4)

    def model(x: Tensor, w: Tensor) -> Tensor:
        h = ours.rms_norm(x * 2, (33,), w, 1e-6)
        return ours.linear_cross_entropy(ours.swiglu(h, h + 1), w.outer(w), target)

    def run(function: Any) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        loss = function(*leaves)
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in leaves)]

    for a, b in zip(run(torch.compile(model, fullgraph=True)), run(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_checkpointing_gives_the_same_gradients(case: Case, reentrant: bool) -> None:
    def run(function: Any) -> list[Tensor]:
        inputs = [x.requires_grad_() for x in case.inputs()]
        function(*inputs).sum().backward()
        return [x.grad for x in inputs]

    again = run(lambda *inputs: checkpoint(case.ours, *inputs, use_reentrant=reentrant))
    assert all(torch.equal(a, b) for a, b in zip(again, run(case.ours), strict=True))


def test_autocast() -> None:
    """Products run in its dtype, as torch's; norms in the dtype of their input."""
    x, w, target = randn(4, 16, seed=1), randn(8, 16, seed=2), torch.arange(4)
    q = randn(1, 2, 5, 16, seed=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, plain = ours.linear(x, w), torch.nn.functional.linear(x, w)
        assert y.dtype == plain.dtype == torch.bfloat16
        assert_as_good(y, plain, x.double() @ w.double().T)
        assert ours.scaled_dot_product_attention(q, q, q).dtype == torch.bfloat16
        loss = ours.linear_cross_entropy(x, w, target)
        assert ours.rms_norm(x, (16,)).dtype == torch.float32
    half = ours.linear_cross_entropy(x.bfloat16(), w.bfloat16(), target)
    assert loss.dtype == torch.float32 and torch.equal(loss, half)


def test_autocast_gradients_have_the_dtype_of_the_leaves() -> None:
    x, w = randn(4, 16, seed=1).requires_grad_(), randn(8, 16, seed=2).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ours.linear_cross_entropy(x, w, torch.arange(4))
    loss.backward()
    assert x.grad.dtype == w.grad.dtype == torch.float32


# --- the binding trusts nobody

Y, X, W, R = torch.empty(2, 4), torch.ones(2, 4), torch.ones(4), torch.empty(2)
WRONG = {
    "not contiguous": ((Y, R, torch.ones(4, 2).T, W, 1e-6), UnsupportedInputError, "`input` must be contiguous"),
    "dtype": ((Y, R, X.half(), W, 1e-6), UnsupportedInputError, "dtype float16"),
    "shape": ((torch.empty(2, 3), R, X, W, 1e-6), UnsupportedInputError, "shape"),
    "rows": ((Y, torch.empty(3), X, W, 1e-6), UnsupportedInputError, "rstd"),
    "same memory": ((X, R, X, W, 1e-6), UnsupportedInputError, "`y` and `input` share memory"),
    "part of it": ((torch.empty(12)[4:].view(2, 4),) * 1 + (R, X, W, 1e-6), None, ""),
    "device": ((Y, R, X.to("meta"), W, 1e-6), DeviceError, "`input` is on the device meta"),
    "no width": ((torch.empty(2, 0), R, torch.ones(2, 0), torch.ones(0), 1e-6), UnsupportedInputError, "extent of 0"),
    "no tensor": ((Y, R, [1.0], W, 1e-6), AttributeError, "is_cpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_binding_checks_its_tensors(name: str) -> None:
    call, error, names = WRONG[name]
    if error is None:
        binding.rms_norm_forward(*call)
        return
    with pytest.raises(error, match=names):
        binding.rms_norm_forward(*call)


def test_a_class_of_its_own_is_asked_by_its_attributes() -> None:
    """As a tensor is where torch does not describe it in C."""

    class Own(torch.Tensor):
        pass

    x, y, z = randn(3, 7), torch.empty(3, 7), torch.empty(3, 7)
    binding.activation_forward(y, x, "gelu")
    binding.activation_forward(z.as_subclass(Own), x.as_subclass(Own), "gelu")
    assert torch.equal(y, z)
    with pytest.raises(UnsupportedInputError, match="`input` must be contiguous"):
        binding.activation_forward(z, randn(7, 3).mT.as_subclass(Own), "gelu")
    q = randn(1, 5, 2, 9).as_subclass(Own)
    out = [torch.empty(1, 5, 2, 3) for _ in range(2)]
    for inputs, result in ((q, out[0]), (q.as_subclass(torch.Tensor), out[1])):
        parts = inputs.split(3, -1)
        binding.attention_forward(result, None, None, *parts, None, None, None, 0.5, -1, 0, False)
    assert torch.equal(*out)


def test_overlapping_results_are_refused() -> None:
    whole = torch.empty(10)
    with pytest.raises(UnsupportedInputError, match="share memory"):
        binding.gated_mlp_backward(whole[:6], whole[4:], X.view(-1)[:6], X.view(-1)[:6], X.view(-1)[:6], "silu")


def test_an_empty_batch_has_an_empty_result() -> None:
    x = torch.ones(0, 4, requires_grad=True)
    y = ours.rms_norm(x, (4,), W.clone().requires_grad_())
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 4)


def test_a_thread_of_its_own() -> None:
    """Small work runs on the caller's thread, whichever it is, and large work after it in the pool."""
    from concurrent.futures import ThreadPoolExecutor

    small, large = randn(2, 8), randn(4000, 64)

    def work(_: int) -> list[Tensor]:
        return [ours.gelu(x) for x in (small, large, small)]

    with ThreadPoolExecutor(3) as threads:
        for results in threads.map(work, range(6)):
            assert all(torch.equal(a, b) for a, b in zip(results, work(0), strict=True))
