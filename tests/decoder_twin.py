"""A small decoder in plain torch: every switch of `lc.Model`, any dtype, gradients by autograd.

The families that `transformers` knows are compared with `transformers`; this twin stands in where it
has no class, and where a result in float64 is wanted (its norms and softmax compute in float32).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

NEOX: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_kv_heads": 3,
    "head_dim": 8,
    "ffn_hidden_size": 40,
    "vocab_size": 37,
    "max_position_embeddings": 32,
    "norm": "layer_norm",
    "norm_eps": 1e-5,
    "activation": "gelu",
    "gated": False,
    "position": {"rotary": {"ndims": 2, "base": 10000.0}},
    "parallel_residual": True,
    "bias": {"norm": True, "attention": True, "mlp": True},
    "tie_word_embeddings": False,
}

LLAMA: dict[str, Any] = {
    **NEOX,
    "norm": "rms_norm",
    "activation": "silu",
    "gated": True,
    "position": {"rotary": {"ndims": 8, "base": 10000.0}},
    "parallel_residual": False,
    "bias": {"norm": False, "attention": False, "mlp": False},
}

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}


def is_neox(spec: Mapping[str, Any]) -> bool:
    multi_head = spec["num_kv_heads"] == spec["num_attention_heads"]
    return spec["norm"] == "layer_norm" and not spec["gated"] and multi_head


def shapes(spec: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a model of this spec must have."""
    h, f, v = spec["hidden_size"], spec["ffn_hidden_size"], spec["vocab_size"]
    q, kv = (spec[key] * spec["head_dim"] for key in ("num_attention_heads", "num_kv_heads"))
    neox, bias = is_neox(spec), spec["bias"]
    all: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int, biased: bool) -> None:
        all[f"{name}.weight"] = (outputs, inputs)
        if biased:
            all[f"{name}.bias"] = (outputs,)

    def norm(name: str) -> None:
        all[f"{name}.weight"] = (h,)
        if spec["norm"] == "layer_norm" and bias["norm"]:
            all[f"{name}.bias"] = (h,)

    root = "gpt_neox" if neox else "model"
    all[f"{root}.embed_in.weight" if neox else f"{root}.embed_tokens.weight"] = (v, h)
    if spec["position"] == "learned":
        all[f"{root}.embed_positions.weight"] = (spec["max_position_embeddings"], h)
    for i in range(spec["num_layers"]):
        layer = f"{root}.layers.{i}"
        norm(f"{layer}.input_layernorm")
        norm(f"{layer}.post_attention_layernorm")
        if neox:
            linear(f"{layer}.attention.query_key_value", 3 * q, h, bias["attention"])
            linear(f"{layer}.attention.dense", h, q, bias["attention"])
            linear(f"{layer}.mlp.dense_h_to_4h", f, h, bias["mlp"])
            linear(f"{layer}.mlp.dense_4h_to_h", h, f, bias["mlp"])
            continue
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            linear(f"{layer}.self_attn.{name}_proj", rows, h, bias["attention"])
        linear(f"{layer}.self_attn.o_proj", h, q, bias["attention"])
        for name in ("gate", "up") if spec["gated"] else ("up",):
            linear(f"{layer}.mlp.{name}_proj", f, h, bias["mlp"])
        linear(f"{layer}.mlp.down_proj", h, f, bias["mlp"])
    norm(f"{root}.final_layer_norm" if neox else f"{root}.norm")
    if not spec["tie_word_embeddings"]:
        all["embed_out.weight" if neox else "lm_head.weight"] = (v, h)
    return all


def random_tensors(spec: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights large enough that every part of the model matters; norm scales around 1."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("norm.weight"):
            return 1 + 0.2 * rng.standard_normal(shape)
        scale = 0.3 if name.endswith("bias") else 1.0 if "embed_in" in name or "embed_tok" in name else 1.2
        return scale * rng.standard_normal(shape) / (1 if len(shape) == 1 or "embed" in name else shape[1] ** 0.5)

    return {name: draw(name, shape).astype(np.float32) for name, shape in shapes(spec).items()}


class Twin:
    """Holds the weights as leaves of one dtype."""

    def __init__(self, spec: Mapping[str, Any], tensors: Mapping[str, np.ndarray], dtype: torch.dtype) -> None:
        self.spec = spec
        self.dtype = dtype
        self.w = {name: torch.tensor(value).to(dtype).requires_grad_() for name, value in tensors.items()}
        self.neox = is_neox(spec)
        self.root = "gpt_neox" if self.neox else "model"

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias, eps = self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), self.spec["norm_eps"]
        if self.spec["norm"] == "layer_norm":
            return F.layer_norm(x, weight.shape, weight, bias, eps)
        wide = x if self.dtype == torch.float64 else x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(self.dtype)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, A, T, d); angles in float32, as transformers has them."""
        position = self.spec["position"]
        if not isinstance(position, dict):
            return x
        ndims, base = position["rotary"]["ndims"], position["rotary"]["base"]
        inverse = 1.0 / (base ** (torch.arange(0, ndims, 2, dtype=torch.float32) / ndims))
        angles = torch.arange(x.shape[2], dtype=torch.float32)[:, None] * inverse
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        first, second, rest = x[..., : ndims // 2], x[..., ndims // 2 : ndims], x[..., ndims:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)

    def attention(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        batch, time, _ = x.shape
        heads, kv, d = (self.spec[key] for key in ("num_attention_heads", "num_kv_heads", "head_dim"))
        if self.neox:
            qkv = self.linear(f"{layer}.attention.query_key_value", x).view(batch, time, heads, 3 * d)
            q, k, v = (part.transpose(1, 2) for part in qkv.split(d, -1))
        else:
            split = {"q": heads, "k": kv, "v": kv}
            q, k, v = (
                self.linear(f"{layer}.self_attn.{name}_proj", x).view(batch, time, n, d).transpose(1, 2)
                for name, n in split.items()
            )
        q, k = self.rotate(q), self.rotate(k)
        k, v = (part.repeat_interleave(heads // kv, 1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * d**-0.5
        hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
        if self.spec.get("sliding_window"):
            hidden |= torch.ones(time, time, dtype=torch.bool).tril(-self.spec["sliding_window"])
        scores = scores.masked_fill(hidden, torch.finfo(self.dtype).min)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        probabilities = scores.softmax(-1, dtype=wide).to(self.dtype)
        out = (probabilities @ v).transpose(1, 2).reshape(batch, time, heads * d)
        return self.linear(f"{layer}.{'attention.dense' if self.neox else 'self_attn.o_proj'}", out)

    def mlp(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        act = ACTIVATIONS[self.spec["activation"]]
        if self.neox:
            return self.linear(f"{layer}.mlp.dense_4h_to_h", act(self.linear(f"{layer}.mlp.dense_h_to_4h", x)))
        up = self.linear(f"{layer}.mlp.up_proj", x)
        hidden = act(self.linear(f"{layer}.mlp.gate_proj", x)) * up if self.spec["gated"] else act(up)
        return self.linear(f"{layer}.mlp.down_proj", hidden)

    def logits(self, ids: np.ndarray) -> torch.Tensor:
        tokens = torch.tensor(ids)
        table = self.w[f"{self.root}.{'embed_in' if self.neox else 'embed_tokens'}.weight"]
        x = F.embedding(tokens, table)
        if self.spec["position"] == "learned":
            x = x + self.w[f"{self.root}.embed_positions.weight"][: tokens.shape[1]]
        for i in range(self.spec["num_layers"]):
            layer = f"{self.root}.layers.{i}"
            attended = self.attention(layer, self.norm(f"{layer}.input_layernorm", x))
            if self.spec["parallel_residual"]:
                x = self.mlp(layer, self.norm(f"{layer}.post_attention_layernorm", x)) + attended + x
                continue
            x = attended + x
            x = self.mlp(layer, self.norm(f"{layer}.post_attention_layernorm", x)) + x
        x = self.norm(f"{self.root}.{'final_layer_norm' if self.neox else 'norm'}", x)
        return F.linear(x, self.w.get("embed_out.weight" if self.neox else "lm_head.weight", table))

    def loss(self, ids: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        return cross_entropy(self.logits(ids), targets)

    def gradients(self, ids: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        grads = torch.autograd.grad(self.loss(ids, targets), list(self.w.values()))
        return {name: grad.double().numpy() for name, grad in zip(self.w, grads, strict=True)}


def cross_entropy(logits: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide.flatten(0, 1), torch.tensor(targets).flatten().long())


def as_good(ours: np.ndarray, plain: np.ndarray, exact: np.ndarray, factor: float) -> bool:
    """Our error against float64 is at most `factor` times that of torch in the same dtype."""
    ours, plain, exact = (np.asarray(x, dtype=np.float64) for x in (ours, plain, exact))
    floor = 1e-6 * np.abs(exact).max()
    return bool(np.abs(ours - exact).max() <= factor * np.abs(plain - exact).max() + floor)
