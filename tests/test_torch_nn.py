"""`llmjp_core.torch.nn`: the layers they replace give their weights and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import assert_as_good, one_thread, randn
from torch import nn

import llmjp_core.torch as lct
from llmjp_core.errors import UnsupportedInputError


class HFGatedMLP(nn.Module):
    """As transformers' LlamaMLP."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 20, bias=False), nn.Linear(8, 20, bias=False)
        self.down_proj = nn.Linear(20, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


TARGET = torch.tensor([1, 0, -100])
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[Any, ...]]] = {
    "RMSNorm": (lambda: lct.nn.RMSNorm(8, eps=1e-5), lambda: nn.RMSNorm(8, eps=1e-5), ()),
    "LayerNorm": (lambda: lct.nn.LayerNorm(8), lambda: nn.LayerNorm(8), ()),
    "LayerNorm without": (
        lambda: lct.nn.LayerNorm(8, elementwise_affine=False),
        lambda: nn.LayerNorm(8, elementwise_affine=False),
        (),
    ),
    "GELU": (lambda: lct.nn.GELU("tanh"), lambda: nn.GELU("tanh"), ()),
    "SiLU": (lct.nn.SiLU, nn.SiLU, ()),
    "SwiGLU": (lambda: lct.nn.SwiGLU(8, 20), HFGatedMLP, ()),
    "CrossEntropyLoss": (
        lambda: lct.nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
        (TARGET,),
    ),
    "LinearCrossEntropyLoss": (
        lambda: lct.nn.LinearCrossEntropyLoss(8, 11),
        lambda: nn.LinearCrossEntropyLoss(8, 11),
        (TARGET,),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_replaces_the_layer(name: str) -> None:
    make, make_theirs, more = PAIRS[name]
    mine, theirs = make(), make_theirs()
    for i, parameter in enumerate(theirs.parameters()):
        parameter.data.copy_(randn(*parameter.shape, seed=10 + i))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    exact = make_theirs().double()
    exact.load_state_dict(theirs.state_dict())

    results = []
    for module in (mine, theirs, exact):
        x = randn(3, 8).to(torch.float64 if module is exact else torch.float32).requires_grad_()
        with one_thread():
            y = module(x, *more)
            y.square().sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in module.parameters())])
    for i, (o, p, e) in enumerate(zip(*results, strict=True)):
        assert_as_good(o, p, e, 3 if i else 2)


def test_rotary_is_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
    theirs, mine = LlamaRotaryEmbedding(config), lct.nn.RotaryEmbedding(8)
    assert list(mine.state_dict()) == list(theirs.state_dict()) == []
    assert torch.equal(mine.inv_freq, theirs.inv_freq)
    q, k, positions = (
        randn(2, 5, 4, 8, seed=1),
        randn(2, 5, 2, 8, seed=2),
        torch.tensor([[3, 4, 5, 6, 7], [0, 1, 2, 3, 9]]),
    )
    cos, sin = theirs(q, positions)
    want = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
    for mine_, theirs_ in zip(mine(q, k, positions), want, strict=True):
        torch.testing.assert_close(mine_, theirs_.transpose(1, 2), rtol=1e-6, atol=1e-6)


def test_interleaved_rotary_is_that_of_gpt_j() -> None:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    q, k, positions = randn(2, 5, 4, 12, seed=1), randn(2, 5, 2, 12, seed=2), torch.tensor([[3, 4, 5, 6, 7]] * 2)
    sin, cos = create_sinusoidal_positions(10, 8)[positions].chunk(2, -1)
    for mine, x in zip(lct.nn.RotaryEmbedding(8, interleaved=True)(q, k, positions), (q, k), strict=True):
        want = torch.cat([apply_rotary_pos_emb(x[..., :8], sin, cos), x[..., 8:]], -1)
        torch.testing.assert_close(mine, want, rtol=1e-6, atol=1e-6)
        halves = lct.nn.RotaryEmbedding(8)(q, k, positions)[0 if x is q else 1]
        assert (halves - want).abs().max() > 0.1


def test_refused() -> None:
    with pytest.raises(UnsupportedInputError, match="even"):
        lct.nn.RotaryEmbedding(5)
    with pytest.raises(UnsupportedInputError, match="inplace"):
        lct.nn.SiLU(inplace=True)(torch.ones(3))
