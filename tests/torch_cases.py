"""The ops of `llmjp_core.torch` beside torch's own computation, with inputs: what the tests of that room share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from parity import randn
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

import llmjp_core.torch as lct

ours = lct.functional
Tensor = torch.Tensor


def rotate(x_BTAD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers writes it, heads after tokens."""
    n = cos.shape[-1]
    x, rest, cos, sin = x_BTAD[..., :n], x_BTAD[..., n:], cos.unsqueeze(2), sin.unsqueeze(2)
    half = torch.cat((-x[..., n // 2 :], x[..., : n // 2]), -1)
    return torch.cat((x * cos + half * sin, rest), -1)


def table(batch: int, tokens: int, dims: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angles = torch.arange(tokens)[None, :, None] + torch.arange(batch)[:, None, None]
    angles = angles * 10_000.0 ** (-torch.arange(0, dims, 2) / dims)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None = None) -> Tensor:
    """Written out, so that float64 and every dtype take the same way."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * scale
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ v


def sees(
    tokens: int, window: tuple[int, int] = (-1, -1), lengths: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """(what each query sees, the document of each token, where documents begin) from their definitions."""
    lengths = lengths or (tokens,)
    assert sum(lengths) == tokens
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    left, right = (tokens if n < 0 else n for n in window)
    mask = (distance <= left) & (-distance <= right) & (document[:, None] == document)
    return mask, document, torch.tensor([0, *lengths]).cumsum(0)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)


@dataclass
class Case:
    """`ours(*inputs)` against `plain(*inputs)`; `inputs` makes the inputs, all of which have gradients."""

    name: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def inputs(self, dtype: str = "float32") -> list[Tensor]:
        return [randn(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(self.shapes, 1)]

    def __str__(self) -> str:
        return f"{self.name}-{'x'.join(map(str, self.shapes[0]))}"


def _rows(function: Callable[..., Tensor], library: Callable[..., Tensor], eps: float) -> tuple[Callable, Callable]:
    return (
        lambda x, *weights: function(x, x.shape[-1:], *weights, eps=eps),
        lambda x, *weights: library(x, x.shape[-1:], *weights, eps=eps),
    )


def _loss_cases() -> list[Case]:
    cases = []
    for n, v, options in [
        (1, 5, {}),
        (13, 33, {"label_smoothing": 0.1}),
        (7, 129, {"reduction": "sum"}),
        (300, 17, {"ignore_index": 3}),
    ]:
        target = torch.arange(n) * 7 % v
        cases.append(
            Case(
                f"cross_entropy{options}",
                lambda x, t=target, o=options: ours.cross_entropy(x, t, **o),
                lambda x, t=target, o=options: F.cross_entropy(x, t, **o),
                ((n, v),),
            )
        )
        cases.append(
            Case(
                f"linear_cross_entropy{options}",
                lambda x, w, t=target, o=options: ours.linear_cross_entropy(x, w, t, **o),
                lambda x, w, t=target, o=options: F.cross_entropy(F.linear(x, w), t, **o),
                ((n, 16), (v, 16)),
            )
        )
    return cases


def _attention_cases() -> list[Case]:
    cases = []
    for b, heads, kv_heads, t, d, causal in [
        (1, 1, 1, 2, 16, True),
        (2, 4, 2, 37, 16, True),
        (1, 3, 3, 101, 20, False),
        (1, 6, 1, 130, 8, True),
    ]:
        shapes = ((b, heads, t, d), (b, kv_heads, t, d), (b, kv_heads, t, d))
        cases.append(
            Case(
                f"attention-{'causal' if causal else 'full'}",
                lambda q, k, v, c=causal: ours.scaled_dot_product_attention(
                    q, k, v, is_causal=c, scale=0.3, enable_gqa=True
                ),
                lambda q, k, v, c=causal: attention(q, k, v, c, 0.3),
                shapes,
            )
        )
    return cases


# (batch, heads, kv_heads, tokens, dim, window, lengths of documents)
MASKS: list[tuple[int, int, int, int, int, tuple[int, int], tuple[int, ...]]] = [
    (1, 2, 2, 7, 16, (1, 0), ()),
    (2, 4, 2, 101, 16, (9, 0), ()),
    (1, 6, 1, 130, 20, (17, 3), ()),
    (1, 2, 2, 53, 80, (-1, 4), ()),
    (1, 3, 3, 101, 256, (-1, 0), (1, 64, 30, 6)),
    (2, 4, 2, 130, 8, (5, 0), (7, 97, 1, 25)),
    (1, 2, 1, 37, 33, (-1, -1), (20, 17)),
]


def _masked_cases() -> list[Case]:
    cases = []
    for b, heads, kv_heads, t, d, window, lengths in MASKS:
        mask, document, starts = sees(t, window, lengths)
        options = {"scale": 0.3, "enable_gqa": True, "window_size": window}
        shapes = ((b, heads, t, d), (b, kv_heads, t, d), (b, kv_heads, t, d))
        ids = document.expand(b, -1) if lengths else None
        cases.append(
            Case(
                "attention-documents" if lengths else "attention-window",
                lambda q, k, v, o=options, ids=ids: ours.scaled_dot_product_attention(q, k, v, **o, document_ids=ids),
                lambda q, k, v, m=mask: masked(q, k, v, m),
                shapes,
            )
        )
        if b > 1:
            continue
        cases.append(
            Case(
                "varlen",
                lambda q, k, v, o=options, s=starts: ours.varlen_attn(q, k, v, s.int(), **o),
                lambda q, k, v, m=mask: masked(*(x.transpose(0, 1)[None] for x in (q, k, v)), m)[0].transpose(0, 1),
                ((t, heads, d), (t, kv_heads, d), (t, kv_heads, d)),
            )
        )
    return cases


def _rotary_cases() -> list[Case]:
    cases = []
    for shape, dims, batch in [((1, 1, 1, 2), 2, 1), ((2, 5, 3, 10), 4, 1), ((3, 17, 2, 16), 16, 3)]:

        def turn(
            function: Callable[..., Tensor], x: Tensor, dims: int = dims, batch: int = batch, t: int = shape[1]
        ) -> Tensor:
            # The angles are given, rounded to the dtype: they are no part of the op.
            cos, sin = table(batch, t, dims, torch.float32 if x.dtype == torch.float64 else x.dtype)
            return function(x, cos.to(x.dtype), sin.to(x.dtype))

        def neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            return ours.rotary(x, *(t.chunk(2, -1)[0].repeat_interleave(2, -1) for t in (cos, sin)), interleaved=True)

        def gptj(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            n = cos.shape[-1]
            cos, sin = (t.chunk(2, -1)[0].expand(len(x), -1, -1) for t in (cos, sin))
            return torch.cat([apply_rotary_pos_emb(x[..., :n], sin, cos), x[..., n:]], -1)

        cases.append(Case("rotary", lambda x, f=turn: f(ours.rotary, x), lambda x, f=turn: f(rotate, x), (shape,)))
        cases.append(
            Case("rotary-interleaved", lambda x, f=turn: f(neighbours, x), lambda x, f=turn: f(gptj, x), (shape,))
        )
    return cases


CASES = [
    *(
        Case("rms_norm", *_rows(ours.rms_norm, F.rms_norm, 1e-5), ((*n, d), (d,)))
        for n, d in [((1,), 1), ((3, 5), 129)]
    ),
    *(
        Case("layer_norm", *_rows(ours.layer_norm, F.layer_norm, 1e-5), ((*n, d), (d,), (d,)))
        for n, d in [((1,), 5), ((3, 5), 129), ((40,), 16)]
    ),
    Case("layer_norm-no-bias", *_rows(ours.layer_norm, F.layer_norm, 1e-3), ((7, 33), (33,))),
    Case("gelu", ours.gelu, F.gelu, ((5, 129),)),
    Case("gelu-tanh", lambda x: ours.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"), ((5, 129),)),
    Case("silu", ours.silu, F.silu, ((1,),)),
    Case("swiglu", ours.swiglu, lambda g, u: F.silu(g) * u, ((3, 5, 129), (3, 5, 129))),
    Case("geglu", ours.geglu, lambda g, u: F.gelu(g) * u, ((33,), (33,))),
    Case("linear", ours.linear, F.linear, ((3, 5, 33), (17, 33), (17,))),
    Case("linear-no-bias", ours.linear, F.linear, ((1, 5), (3, 5))),
    *_rotary_cases(),
    *_attention_cases(),
    *_masked_cases(),
    *_loss_cases(),
]
# One case of each kind, for what does not depend on the shape.
ONE_EACH = list({case.name.split("{")[0]: case for case in CASES}.values())
