from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from parity import DTYPES, assert_as_good, assert_same_bits_for_any_threads, call, plain_and_exact, randn
from torch_cases import sees

from llmjp_core import errors
from llmjp_core._core import ops

Heads = tuple[int, int, int, int]  # offset, stride, count, dim


class Layout(NamedTuple):
    """Where heads stand in a row."""

    q: Heads
    k: Heads
    v: Heads
    row: int


def separate(heads: int, kv: int, d: int) -> Layout:
    """Llama: all queries, all keys, all values; three more elements that belong to nobody."""
    k, v = heads * d, (heads + kv) * d
    return Layout((0, d, heads, d), (k, d, kv, d), (v, d, kv, d), (heads + 2 * kv) * d + 3)


def interleaved(heads: int, d: int) -> Layout:
    """NeoX: q, k, v of each head together."""
    q, k, v = ((i * d, 3 * d, heads, d) for i in range(3))
    return Layout(q, k, v, 3 * heads * d)


LAYOUTS = {
    "neox 2x16": interleaved(2, 16),
    "neox 3x80": interleaved(3, 80),
    "gqa 4/2x96": separate(4, 2, 96),
    "mqa 4/1x128": separate(4, 1, 128),
    "llama 1x5": separate(1, 1, 5),
}
TIMES = [1, 5, 65, 129]


def part(qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
    """(B, count, T, dim)"""
    offset, stride, count, dim = heads
    return torch.stack([qkv[..., offset + a * stride :][..., :dim] for a in range(count)], 1)


def attend(qkv: torch.Tensor, at: Layout, scale: float) -> torch.Tensor:
    q, k, v = (part(qkv, heads) for heads in at[:3])
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return out.transpose(1, 2).reshape(*qkv.shape[:2], -1)


def forward_backward(qkv: torch.Tensor, dout: torch.Tensor, at: Layout, scale: float, dtype: str) -> tuple[Any, ...]:
    out, lse = call(ops.attention_forward, qkv, at.q, at.k, at.v, scale, dtype=dtype)
    return out, call(ops.attention_backward, dout, out, lse, qkv, at.q, at.k, at.v, scale, dtype=dtype), lse


def inputs(at: Layout, time: int, dtype: str, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    width = at.q[2] * at.q[3]
    return randn(2, time, at.row, dtype=dtype, scale=scale), randn(2, time, width, dtype=dtype, seed=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_forward_and_backward(name: str, time: int, dtype: str) -> None:
    at = LAYOUTS[name]
    scale = at.q[3] ** -0.5
    qkv, dout = inputs(at, time, dtype)
    plain, exact = plain_and_exact(lambda x: attend(x, at, scale), [qkv], dout)
    out, dqkv, lse = forward_backward(qkv, dout, at, scale, dtype)
    assert_as_good(out, plain[0], exact[0])
    end = at.v[0] + (at.v[2] - 1) * at.v[1] + at.v[3]
    assert dqkv[..., end:].isnan().all()  # left as it was: nobody's
    for heads in at[:3]:
        ours, theirs, right = (part(x, heads) for x in (dqkv, plain[1], exact[1]))
        if time == 1 and heads != at.v:  # one key: its weight is 1 whatever q and k are
            assert float(ours.abs().max()) <= 1e-2 * float(dout.abs().max())
        else:
            assert_as_good(ours, theirs, right, factor=3)
    scores = part(qkv.double(), at.q) @ part(qkv.double(), at.k).repeat_interleave(at.q[2] // at.k[2], 1).mT * scale
    hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
    right = scores.masked_fill(hidden, -torch.inf).logsumexp(-1)
    assert_as_good(lse, right.float(), right)


def under_a_mask(
    at: Layout, time: int, mask: torch.Tensor, dtype: str, **masked: Any
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
    """(ours, torch's, exact, factor) of the result and of the gradients of q, k, v."""
    qkv, dout = inputs(at, time, dtype)

    def plain(qkv: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(qkv, heads) for heads in at[:3])
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
        return out.transpose(1, 2).reshape(*qkv.shape[:2], -1)

    theirs, exact = plain_and_exact(plain, [qkv], dout)
    out, lse = call(ops.attention_forward, qkv, at.q, at.k, at.v, 0.3, dtype=dtype, **masked)
    dqkv = call(ops.attention_backward, dout, out, lse, qkv, at.q, at.k, at.v, 0.3, dtype=dtype, **masked)
    yield out, theirs[0], exact[0], 2
    for heads in at[:3]:
        yield part(dqkv, heads), part(theirs[1], heads), part(exact[1], heads), 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["neox 3x80", "gqa 4/2x96"])
def test_window_and_documents(name: str, dtype: str) -> None:
    time = 129
    ids = torch.tensor([0] * 50 + [3] * 70 + [4] * 9).expand(2, -1)
    for window, documents in [((16, 0), None), ((3, 2), ids), ((-1, 0), ids)]:
        mask = sees(time, window, (50, 70, 9) if documents is not None else ())[0]
        flat = None if documents is None else documents.flatten()
        results = under_a_mask(LAYOUTS[name], time, mask, dtype, window=window, document_ids=flat)
        for ours, theirs, exact, factor in results:
            assert_as_good(ours, theirs, exact, factor)


@pytest.mark.parametrize("wrong", [{"window": (15, 0)}, {"window": (17, 0)}, {"documents": (49, 80)}], ids=str)
def test_a_mask_one_off_is_seen(wrong: dict[str, Any]) -> None:
    right = (16, 0), (50, 79)
    window, lengths = wrong.get("window", right[0]), wrong.get("documents", right[1])
    mask, flat = sees(129, *right)[0], sees(129, window, lengths)[1].repeat(2)
    for ours, theirs, exact, factor in under_a_mask(
        LAYOUTS["neox 2x16"], 129, mask, "float32", window=window, document_ids=flat
    ):
        with pytest.raises(AssertionError):
            assert_as_good(ours, theirs, exact, factor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "d", "length"), [(1, 1, 16, 1), (4, 2, 80, 5), (4, 1, 96, 129)])
def test_decode(heads: int, kv: int, d: int, length: int, dtype: str) -> None:
    q, keys, values = (
        randn(n, h, d, dtype=dtype, seed=seed) for seed, (n, h) in enumerate([(1, heads), (length, kv), (length, kv)])
    )

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25, enable_gqa=True)
        return out[0].transpose(0, 1)[0]

    theirs, exact = plain_and_exact(plain, [q, keys, values])
    assert_as_good(call(ops.attention_decode, q[0], keys, values, 0.25, dtype=dtype), theirs[0], exact[0])


def test_large_scores() -> None:
    """Scores in the thousands: without the maximum taken off, exp overflows."""
    at = LAYOUTS["neox 2x16"]
    qkv, dout = inputs(at, 65, "float32", scale=40.0)
    plain, exact = plain_and_exact(lambda x: attend(x, at, 0.25), [qkv], dout)
    out, dqkv, _ = forward_backward(qkv, dout, at, 0.25, "float32")
    assert_as_good(out, plain[0], exact[0])
    assert_as_good(dqkv, plain[1], exact[1], factor=3)


def test_a_key_too_many_is_seen() -> None:
    """What a mask off by one would give: the first query sees the second key."""
    at = LAYOUTS["neox 2x16"]
    qkv, dout = inputs(at, 65, "float32")
    plain, exact = plain_and_exact(lambda x: attend(x, at, 0.25), [qkv], dout)
    out, dqkv, _ = forward_backward(qkv.roll(-1, 1), dout, at, 0.25, "float32")
    with pytest.raises(AssertionError):
        assert_as_good(out, plain[0], exact[0])
    with pytest.raises(AssertionError):
        assert_as_good(dqkv, plain[1], exact[1], factor=3)


def test_another_scale_is_seen() -> None:
    at = LAYOUTS["neox 2x16"]
    qkv, dout = inputs(at, 65, "float32")
    plain, exact = plain_and_exact(lambda x: attend(x, at, 0.25), [qkv], dout)
    out, dqkv, _ = forward_backward(qkv, dout, at, 0.2501, "float32")
    with pytest.raises(AssertionError):
        assert_as_good(out, plain[0], exact[0])
    with pytest.raises(AssertionError):
        assert_as_good(dqkv, plain[1], exact[1], factor=3)


def test_the_future_changes_nothing() -> None:
    at = LAYOUTS["gqa 4/2x96"]
    qkv, _ = inputs(at, 129, "float32")
    out = call(ops.attention_forward, qkv, at.q, at.k, at.v, 0.1)[0]
    qkv[:, 64:] = randn(*qkv[:, 64:].shape, seed=9)
    again = call(ops.attention_forward, qkv, at.q, at.k, at.v, 0.1)[0]
    assert torch.equal(out[:, :64], again[:, :64])
    assert not torch.equal(out[:, 64:], again[:, 64:])


def test_nan_is_not_lost() -> None:
    at = LAYOUTS["neox 2x16"]
    qkv, _ = inputs(at, 5, "float32")
    qkv[0, 2, 0] = float("nan")  # a query of the first sequence
    out = call(ops.attention_forward, qkv, at.q, at.k, at.v, 0.25)[0]
    assert out[0, 2, :16].isnan().all() and not out[1].isnan().any() and not out[0, :2].isnan().any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_bits(dtype: str) -> None:
    at = LAYOUTS["gqa 4/2x96"]
    qkv, dout = inputs(at, 129, dtype)

    def used(x: torch.Tensor) -> torch.Tensor:
        return x[..., : at.row - 3]

    def everything() -> tuple[Any, ...]:
        out, dqkv, lse = forward_backward(qkv, dout, at, 0.1, dtype)
        return out, used(dqkv), lse, call(ops.attention_decode, *decode, 0.1, dtype=dtype)

    decode = [randn(*shape, dtype=dtype) for shape in [(4, 96), (129, 2, 96), (129, 2, 96)]]
    assert_same_bits_for_any_threads(everything)


def test_what_does_not_fit() -> None:
    at = separate(4, 2, 16)
    qkv, dout = inputs(at, 5, "float32")
    out, lse = call(ops.attention_forward, qkv, at.q, at.k, at.v, 0.25)
    three = (at.k[0], 16, 3, 16)
    with pytest.raises(errors.UnsupportedInputError, match="key heads must divide query heads"):
        call(ops.attention_forward, qkv, at.q, three, three, 0.25)
    with pytest.raises(errors.UnsupportedInputError, match="heads do not fit"):
        call(ops.attention_forward, qkv, at.q, at.k, (at.v[0] + 4, 16, 2, 16), 0.25)
    with pytest.raises(errors.UnsupportedInputError, match="heads do not fit"):  # the first key lies in the last query
        call(ops.attention_forward, qkv, at.q, (at.k[0] - 4, 16, 2, 16), at.v, 0.25)
    with pytest.raises(errors.UnsupportedInputError, match="`heads` has an extent of 0"):
        call(ops.attention_forward, qkv, at.q, (0, 16, 0, 16), (0, 16, 0, 16), 0.25)
    with pytest.raises(errors.UnsupportedInputError, match="`dout`"):
        call(ops.attention_backward, dout[:, 1:], out, lse, qkv, at.q, at.k, at.v, 0.25)
    with pytest.raises(errors.UnsupportedInputError, match="`lse`"):
        call(ops.attention_backward, dout, out, lse[..., 1:], qkv, at.q, at.k, at.v, 0.25)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UnsupportedInputError, match="`scale` must be positive"):
            call(ops.attention_forward, qkv, at.q, at.k, at.v, scale)
    with pytest.raises(errors.UnsupportedInputError, match="must not decrease"):
        call(
            ops.attention_forward,
            qkv,
            at.q,
            at.k,
            at.v,
            0.25,
            document_ids=torch.tensor([0, 0, 0, 1, 1, 0, 0, 2, 1, 2]),
        )
    with pytest.raises(errors.UnsupportedInputError, match="document_ids"):
        call(ops.attention_forward, qkv, at.q, at.k, at.v, 0.25, document_ids=torch.tensor([0, 0]))
    keys = randn(5, 3, 16)
    with pytest.raises(errors.UnsupportedInputError, match="3 heads in `keys` do not divide 4 heads"):
        call(ops.attention_decode, randn(4, 16), keys, keys, 0.25)
    with pytest.raises(errors.UnsupportedInputError, match="`keys` has an extent of 0"):
        call(ops.attention_decode, randn(4, 16), keys[:0], keys[:0], 0.25)


def test_no_tokens() -> None:
    at = separate(4, 2, 16)
    for shape in [(0, 5, at.row), (2, 0, at.row)]:
        out, lse = call(ops.attention_forward, torch.zeros(shape), at.q, at.k, at.v, 0.25)
        dqkv = call(ops.attention_backward, out, out, lse, torch.zeros(shape), at.q, at.k, at.v, 0.25)
        assert out.shape == (*shape[:2], 64) and dqkv.shape == shape
