"""`llmjp_core.torch.functional` against torch, in float64 and in the same dtype; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from parity import (
    DTYPES,
    assert_as_good,
    assert_same_bits_for_any_threads,
    gradients,
    one_thread,
    plain_and_exact,
    randn,
)
from torch_cases import CASES, ONE_EACH, Case, ours, table

from llmjp_core.errors import DeviceError, UnsupportedInputError

Tensor = torch.Tensor


def both_passes(case: Case, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    result, all_gradients = gradients(case.ours, inputs, dy, inputs[0].dtype)
    return result, *all_gradients


def upstream(case: Case, inputs: list[Tensor]) -> Tensor:
    shape = case.plain(*(x.double() for x in inputs)).shape
    return randn(*shape, dtype=str(inputs[0].dtype).removeprefix("torch."), seed=99)


def assert_parity(case: Case, inputs: list[Tensor]) -> None:
    dy = upstream(case, inputs)
    result = both_passes(case, inputs, dy)
    plain, exact = plain_and_exact(case.plain, inputs, dy)
    assert len(result) == len(plain) == len(inputs) + 1
    for i, (o, p, e) in enumerate(zip(result, plain, exact, strict=True)):
        assert o.dtype == p.dtype or (i == 0 and "linear_cross" in case.name)
        assert_as_good(o, p, e, 3 if i else 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case: Case, dtype: str) -> None:
    assert_parity(case, case.inputs(dtype))


MUTANTS: dict[str, Callable[..., Tensor]] = {
    "rms_norm": lambda x, w: ours.rms_norm(x, x.shape[-1:], w, eps=1e-4),
    "layer_norm": lambda x, w, b: ours.layer_norm(x, x.shape[-1:], w, b, eps=1e-4),
    "gelu": lambda x: ours.gelu(x, "tanh"),
    "swiglu": lambda gate, up: ours.swiglu(up, gate),
    "attention-causal": lambda q, k, v: ours.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
    "attention-full": lambda q, k, v: ours.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
    "rotary": lambda x: ours.rotary(x, *reversed(table(3, 17, 16, x.dtype))),
    "rotary-interleaved": lambda x: ours.rotary(x, *table(3, 17, 16, x.dtype)),
    "attention-window": lambda q, k, v: ours.scaled_dot_product_attention(q, k, v, scale=0.3, window_size=(-1, 5)),
    "attention-documents": lambda q, k, v: ours.scaled_dot_product_attention(
        q, k, v, scale=0.3, enable_gqa=True, document_ids=(torch.arange(37) >= 21).long()[None]
    ),
    "varlen": lambda q, k, v: ours.varlen_attn(
        q, k, v, torch.tensor([0, 19, 37]), scale=0.3, enable_gqa=True, window_size=(-1, -1)
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_op_is_seen(name: str) -> None:
    (case,) = [case for case in ONE_EACH if case.name == name]
    mutant = Case(name, MUTANTS[name], case.plain, case.shapes)
    with pytest.raises(AssertionError):
        assert_parity(mutant, case.inputs())


@pytest.mark.parametrize("left", [8, 10])
def test_a_window_one_off_is_seen(left: int) -> None:
    (case,) = [case for case in CASES if case.name == "attention-window" and case.shapes[0][2] == 101]
    options = {"scale": 0.3, "enable_gqa": True, "window_size": (left, 0)}
    mutant = Case("one off", lambda *x: ours.scaled_dot_product_attention(*x, **options), case.plain, case.shapes)
    with pytest.raises(AssertionError):
        assert_parity(mutant, case.inputs())


def test_causal_is_a_window_without_a_right_side() -> None:
    q, k, v = (randn(2, 3, 50, 8, seed=i) for i in range(3))
    attend = ours.scaled_dot_product_attention
    causal = attend(q, k, v, is_causal=True)
    assert torch.equal(causal, attend(q, k, v, window_size=(-1, 0)))
    assert torch.equal(causal, attend(q, k, v, is_causal=True, window_size=(50, 7)))
    one = torch.zeros(2, 50, dtype=torch.int32)
    assert torch.equal(causal, attend(q, k, v, is_causal=True, document_ids=one))
    assert torch.equal(attend(q, k, v), attend(q, k, v, window_size=(49, 49)))
    assert not torch.equal(causal, attend(q, k, v, is_causal=True, window_size=(48, 0)))


def test_queries_keys_and_values_anywhere() -> None:
    """In one projection, heads before tokens, every other row: the same bits, and gradients of their own layout."""
    b, t, a, d = 2, 37, 3, 16
    wide = randn(b, t, 2 * a, 3 * d, seed=1)
    views = [x.transpose(1, 2) for x in wide[:, :, ::2].split(d, -1)]
    assert not any(x.is_contiguous() for x in views)
    dy = randn(b, t, a, d, seed=2).transpose(1, 2)
    results = []
    for inputs in (views, [x.contiguous() for x in views]):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = ours.scaled_dot_product_attention(*leaves, is_causal=True)
        results.append((out, *torch.autograd.grad(out, leaves, dy)))
        dense = torch.empty_like(leaves[0])
        assert all(x.stride() == dense.stride() for x in results[-1])
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_same_bits_for_any_threads_and_again(case: Case) -> None:
    inputs = case.inputs()
    dy = upstream(case, inputs)
    assert_same_bits_for_any_threads(lambda: both_passes(case, inputs, dy))


def test_same_bits_on_many_rows() -> None:
    x, w, dy = randn(2000, 33, seed=1), randn(33, seed=2), randn(2000, 33, seed=3)
    case = Case("rms_norm", lambda x, w: ours.rms_norm(x, (33,), w, 1e-6), lambda x, w: x, ())
    assert_same_bits_for_any_threads(lambda: both_passes(case, [x, w], dy))


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_strided_inputs_give_the_same_bits(case: Case) -> None:
    """Every other element of a larger tensor, and a gradient that is one number seen everywhere."""
    inputs = case.inputs()
    strided = [torch.stack((x, x), -1)[..., 0] for x in inputs]
    assert not any(x.is_contiguous() for x in strided if x.numel() > 1)
    dy = torch.ones(()).expand(upstream(case, inputs).shape)
    for a, b in zip(both_passes(case, inputs, dy), both_passes(case, strided, dy), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_no_gradient_wanted(case: Case) -> None:
    inputs = case.inputs()
    with torch.no_grad():
        result = case.ours(*(x.requires_grad_() for x in inputs))
    assert not result.requires_grad
    assert torch.equal(result, case.ours(*inputs).detach())


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_second_derivatives_are_refused(case: Case) -> None:
    inputs = [x.requires_grad_() for x in case.inputs()]
    (gradient, *_) = torch.autograd.grad(case.ours(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(UnsupportedInputError, match="no derivative of its own"):
        gradient.sum().backward()


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_retained_graph_gives_the_same_gradients(case: Case) -> None:
    inputs = [x.requires_grad_() for x in case.inputs()]
    loss = case.ours(*inputs).sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    kept = [x.clone() for x in first]
    second = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(kept, second, strict=True))


def test_float32_weights_of_half_inputs() -> None:
    """As under autocast: the weight is used unrounded, the result has the dtype of the input."""
    x, w, b = randn(7, 33, dtype="bfloat16", seed=1), randn(33, seed=2), randn(33, seed=3)
    for function, weights in ((ours.rms_norm, (w,)), (ours.layer_norm, (w, b))):
        y = function(x, (33,), *weights, eps=1e-5)
        library = F.rms_norm if function is ours.rms_norm else F.layer_norm
        exact = library(x.double(), (33,), *(v.double() for v in weights), eps=1e-5)
        assert y.dtype == torch.bfloat16
        assert_as_good(y, exact.bfloat16(), exact)


def test_no_weight_and_several_dimensions() -> None:
    x = randn(4, 3, 5, seed=1)
    assert_as_good(ours.rms_norm(x, (3, 5)), F.rms_norm(x, (3, 5)), F.rms_norm(x.double(), (3, 5), eps=1.1920929e-07))
    y, exact = ours.layer_norm(x, (3, 5)), F.layer_norm(x.double(), (3, 5))
    assert_as_good(y, F.layer_norm(x, (3, 5)), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eps_of_none_is_torchs(dtype: str) -> None:
    """Of the arithmetic, which is float32: seen on small numbers, where eps counts."""
    x = randn(3, 8, dtype=dtype, scale=1e-3)
    exact = F.rms_norm(x.double(), (8,), eps=torch.finfo(torch.float32).eps)
    assert_as_good(ours.rms_norm(x, (8,)), F.rms_norm(x, (8,)), exact)


def test_losses_apart() -> None:
    x, w, target = randn(9, 16, seed=1), randn(33, 16, seed=2), torch.arange(9)
    target[4] = -100
    with one_thread(), torch.no_grad():
        exact = F.cross_entropy(F.linear(x, w).double(), target, reduction="none")
        losses = ours.linear_cross_entropy(x, w, target, reduction="none")
    assert_as_good(losses, exact.float(), exact)
    assert losses[4] == 0
    logits = F.linear(x, w).requires_grad_()
    scales = randn(9, seed=3)
    ours.cross_entropy(logits, target, reduction="none").backward(scales)
    exact_logits = logits.detach().double().requires_grad_()
    F.cross_entropy(exact_logits, target, reduction="none").backward(scales.double())
    assert_as_good(logits.grad, exact_logits.grad.float(), exact_logits.grad, 3)


def test_lse_square_scale() -> None:
    logits, target = randn(5, 17, seed=1), torch.arange(5)
    exact = F.cross_entropy(logits.double(), target) + 0.01 * logits.double().logsumexp(-1).square().mean()
    assert_as_good(ours.cross_entropy(logits, target, lse_square_scale=0.01), exact.float(), exact)


def test_all_targets_ignored() -> None:
    x, w = randn(3, 4, seed=1).requires_grad_(), randn(5, 4, seed=2).requires_grad_()
    loss = ours.linear_cross_entropy(x, w, torch.full((3,), -100))
    loss.backward()
    assert loss.isnan() and not x.grad.any() and not w.grad.any()


def test_one_token_sees_itself() -> None:
    q, k, v = (randn(2, 3, 1, 8, seed=i) for i in range(3))
    assert torch.equal(ours.scaled_dot_product_attention(q, k, v, is_causal=True), v)
    q, k, v = (randn(2, 3, 50, 8, seed=i) for i in range(3))
    assert torch.equal(ours.scaled_dot_product_attention(q, k, v, window_size=(0, 0)), v)
    alone = torch.arange(50).expand(2, -1)
    assert torch.equal(ours.scaled_dot_product_attention(q, k, v, document_ids=alone), v)


@pytest.mark.parametrize("way", ["short", "dispatcher"])
def test_a_penalty_on_gradients_is_refused(way: str) -> None:
    """Not ignored: the gradient of the loss does not depend on `dy` alone."""
    from llmjp_core.torch.losses import linear_cross_entropy

    op = linear_cross_entropy if way == "short" else lambda *inputs: linear_cross_entropy.library(*inputs)[0]
    x, w = randn(3, 4, seed=1).requires_grad_(), randn(5, 4, seed=2).requires_grad_()
    loss = op(x, w, torch.arange(3), -100, 0.0, 0.0, None, True)
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(UnsupportedInputError, match="no derivative of its own"):
        (loss + dx.square().sum()).backward()


def test_divisor_is_a_division() -> None:
    x, w, target = randn(6, 4, seed=1).requires_grad_(), randn(5, 4, seed=2).requires_grad_(), torch.arange(6) % 5
    one = ours.linear_cross_entropy(x, w, target, reduction="sum", divisor=4.0)
    two = ours.linear_cross_entropy(x, w, target, reduction="sum") / 4.0
    assert torch.equal(one, two)
    for a, b in zip(torch.autograd.grad(one, (x, w)), torch.autograd.grad(two, (x, w)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


X, T = torch.ones(2, 4), torch.tensor([0, 1])
Q = torch.ones(1, 2, 3, 4)
REFUSED: list[tuple[str, Callable[[], object], str]] = [
    ("float64", lambda: ours.gelu(X.double()), "float32, bfloat16, float16"),
    ("integers", lambda: ours.gelu(X.long()), "floating point"),
    ("wrong width", lambda: ours.rms_norm(X, (4,), torch.ones(3)), "weight"),
    ("wrong shape", lambda: ours.rms_norm(X, (3,)), "normalized_shape"),
    ("two dtypes", lambda: ours.swiglu(X, X.half()), "one dtype"),
    ("two shapes", lambda: ours.swiglu(X, X[:1]), "one shape"),
    ("mask", lambda: ours.scaled_dot_product_attention(Q, Q, Q, torch.ones(3, 3)), "attn_mask"),
    ("dropout", lambda: ours.scaled_dot_product_attention(Q, Q, Q, dropout_p=0.1), "dropout_p"),
    ("window", lambda: ours.scaled_dot_product_attention(Q, Q, Q, window_size=(-2, 0)), "window_size"),
    ("half a key", lambda: ours.scaled_dot_product_attention(Q, Q, Q, window_size=(0.5, 0)), "window_size"),
    ("one side", lambda: ours.scaled_dot_product_attention(Q, Q, Q, window_size=2), "window_size"),
    ("ids", lambda: ours.scaled_dot_product_attention(Q, Q, Q, document_ids=T), "document_ids.*1, 3"),
    ("ids back", lambda: ours.scaled_dot_product_attention(Q, Q, Q, document_ids=torch.tensor([[0, 1, 0]])),
     "must not decrease, but 0 follows 1 at token 2"),
    ("lengths", lambda: ours.varlen_attn(Q[0], Q[0], Q[0], torch.tensor([0, 1])), "cu_seq_q.*number of tokens, 2"),
    ("lengths back", lambda: ours.varlen_attn(Q[0], Q[0], Q[0], torch.tensor([0, 2, 1, 2])), "must rise"),
    ("keys' lengths", lambda: ours.varlen_attn(Q[0], Q[0], Q[0], torch.tensor([0, 2]), torch.tensor([0, 1])), "seq_k"),
    ("float lengths", lambda: ours.varlen_attn(Q[0], Q[0], Q[0], torch.tensor([0.0, 2.0])), "int32 or int64"),
    ("varlen gqa", lambda: ours.varlen_attn(Q[0], Q[0, :, :1], Q[0, :, :1], torch.tensor([0, 2])), "enable_gqa"),
    ("varlen rows", lambda: ours.varlen_attn(Q, Q, Q, T), "tokens, heads, dim"),
    ("lengths", lambda: ours.scaled_dot_product_attention(Q, Q[:, :, :2], Q[:, :, :2]), "tokens"),
    ("gqa unasked", lambda: ours.scaled_dot_product_attention(Q, Q[:, :1], Q[:, :1]), "enable_gqa"),
    ("heads", lambda: ours.scaled_dot_product_attention(Q.repeat(1, 3, 1, 1)[:, :3], Q, Q, enable_gqa=True), "divide"),
    ("class", lambda: ours.cross_entropy(X, torch.tensor([0, 4])), "class 4 at position 1"),
    ("negative class", lambda: ours.cross_entropy(X, torch.tensor([-1, 0])), "class -1 at position 0"),
    ("class past int32", lambda: ours.cross_entropy(X, torch.tensor([0, 2**32 + 1])), "class 4294967297"),
    ("probabilities", lambda: ours.cross_entropy(X, X), "class indices"),
    ("class weights", lambda: ours.cross_entropy(X, T, torch.ones(4)), "weight"),
    ("reduction", lambda: ours.cross_entropy(X, T, reduction="median"), "reduction"),
    ("smoothing", lambda: ours.cross_entropy(X, T, label_smoothing=2.0), "label_smoothing"),
    ("bias", lambda: ours.linear_cross_entropy(X, X, T, linear_bias=torch.ones(2)), "linear_bias"),
    ("apart", lambda: ours.linear_cross_entropy(X.clone().requires_grad_(), X, T, reduction="none"), "no gradient"),
    ("interleaved", lambda: ours.rotary(Q, *[torch.arange(8.0).view(1, 2, 4)] * 2), "half"),
    ("halves", lambda: ours.rotary(Q, *[torch.arange(8.0).view(1, 2, 4)] * 2, interleaved=True), "twice"),
    ("odd", lambda: ours.rotary(Q, *[torch.ones(1, 2, 3)] * 2), "even"),
    ("approximate", lambda: ours.gelu(X, "erf"), "approximate"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "names"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_by_name(call: Callable[[], object], names: str) -> None:
    with pytest.raises(UnsupportedInputError, match=names):
        call()


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_other_devices_are_refused(case: Case) -> None:
    with pytest.raises(DeviceError, match="on the device meta"):
        case.ours(*(x.to("meta") for x in case.inputs()))


def test_torchs_defaults_do_not_matter() -> None:
    """Results follow their inputs, not the default device and dtype."""
    x, w, target = randn(3, 8, seed=1), randn(8, seed=2), torch.arange(3)
    calls = (
        lambda: ours.rms_norm(x.clone().requires_grad_(), (8,), w),
        lambda: ours.cross_entropy(x, target),
        lambda: ours.linear_cross_entropy(x.clone().requires_grad_(), x, target),
    )
    want = [call() for call in calls]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            got = [call() for call in calls]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(want, got, strict=True))
