"""When a decoder layer of a Hugging Face model runs as one op, and that op called with what its modules hold.

Asked at each call, of the modules as they are: a hook, an adapter or a replaced `forward` that came later is seen, and
the layer then runs module by module, as `forwards` has it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from . import forwards, masks
from .decoder_layer import decoder_layer as _op

Tensor = torch.Tensor
_OURS = "_llmjp_core_forward"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TENSORS = (Tensor, nn.Parameter)
# Attention of each family and what the op knows of its projections.
_LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj")
_NEOX = ("query_key_value", "dense")
_FAMILY = {
    "LlamaDecoderLayer": "Llama",
    "MistralDecoderLayer": "Mistral",
    "Qwen2DecoderLayer": "Qwen2",
    "Qwen3DecoderLayer": "Qwen3",
}


def _family(layer: Any) -> str | None:
    """Whose layer it is, None: GPT-NeoX's. FSDP2 makes a class of its own from the layer's."""
    return next((_FAMILY[c.__name__] for c in type(layer).__mro__ if c.__name__ in _FAMILY), None)


def mark(forward: Callable[..., Any]) -> None:
    """Says that this `forward` is one of this package, which a layer may pass over."""
    setattr(forward, _OURS, True)


def _passed_over(layer: Any) -> Iterator[tuple[str, Any, bool]]:
    """(name, module, whether it has the type that the op stands for) of each module that the op stands for."""
    family = _family(layer)
    attention, parts, norms = (layer.self_attn, _LLAMA_LIKE, "RMSNorm") if family else (layer.attention, _NEOX, None)
    family = family or "GPTNeoX"
    yield "attention", attention, type(attention).__name__ == f"{family}Attention"
    yield "mlp", layer.mlp, type(layer.mlp).__name__ == f"{family}MLP"
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm = getattr(layer, name)
        known = type(norm) is nn.LayerNorm if norms is None else type(norm).__name__ == f"{family}{norms}"
        yield name, norm, known and norm.weight is not None
    for name in parts:
        yield name, getattr(attention, name), type(getattr(attention, name)) is nn.Linear
    for name in ("q_norm", "k_norm"):
        norm = getattr(attention, name, None)
        if norm is not None:
            yield name, norm, type(norm).__name__ == f"{family}RMSNorm"
    for name in ("gate_proj", "up_proj", "down_proj") if norms else ("dense_h_to_4h", "dense_4h_to_h"):
        yield name, getattr(layer.mlp, name), type(getattr(layer.mlp, name)) is nn.Linear
    act = layer.mlp.act_fn if norms else layer.mlp.act
    yield "activation", act, forwards.activation_kind(act) is not None
    if not norms:
        for name in ("post_attention_dropout", "post_mlp_dropout"):
            yield name, getattr(layer, name), type(getattr(layer, name)) is nn.Dropout


def obstacle(layer: Any) -> str | None:
    """Why the modules inside cannot be passed over, or None."""
    for name, module, known in _passed_over(layer):
        if not known:
            return f"its {name} is a {type(module).__name__}"
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return f"its {name} has hooks"
        replaced = module.__dict__.get("forward")
        if replaced is not None and not getattr(replaced, _OURS, False):
            return f"the forward of its {name} has been replaced by somebody else"
    return None


def _parts(layer: Any, cos: Tensor, sin: Tensor, sees: masks.Sight) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors of the op but its input, and its settings."""
    norm1, norm2, mlp = layer.input_layernorm, layer.post_attention_layernorm, layer.mlp
    if _family(layer):
        attention, q_norm, k_norm = layer.self_attn, getattr(layer.self_attn, "q_norm", None), None
        heads: tuple[Any, ...] = (None, None)
        eps: tuple[float, ...] = (1.0, 1.0)
        if q_norm is not None:
            k_norm = attention.k_norm
            heads, eps = (q_norm.weight, k_norm.weight), (q_norm.variance_epsilon, k_norm.variance_epsilon)
        q, k, v, o = (getattr(attention, name) for name in _LLAMA_LIKE)
        tensors = (
            cos, sin, sees.documents, norm1.weight, None, norm2.weight, None,
            q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, *heads, o.weight, o.bias,
            mlp.gate_proj.weight, mlp.gate_proj.bias, mlp.up_proj.weight, mlp.up_proj.bias,
            mlp.down_proj.weight, mlp.down_proj.bias,
        )  # fmt: skip
        kind = forwards.activation_kind(mlp.act_fn)
        eps = (norm1.variance_epsilon, norm2.variance_epsilon, *eps)
        return tensors, (False, False, *eps, attention.head_dim, attention.scaling, sees.left, kind)
    attention, up, down = layer.attention, mlp.dense_h_to_4h, mlp.dense_4h_to_h
    qkv, o = attention.query_key_value, attention.dense
    tensors = (
        cos, sin, sees.documents, norm1.weight, norm1.bias, norm2.weight, norm2.bias, qkv.weight, qkv.bias,
        None, None, None, None, None, None, o.weight, o.bias,
        None, None, up.weight, up.bias, down.weight, down.bias,
    )  # fmt: skip
    kind, parallel = forwards.activation_kind(mlp.act), bool(layer.use_parallel_residual)
    eps = (norm1.eps, norm2.eps, 1.0, 1.0)
    return tensors, (True, parallel, *eps, attention.head_size, attention.scaling, sees.left, kind)


def _alike(x: Tensor, tensors: tuple[Any, ...]) -> bool:
    """Plain tensors of one dtype, on the CPU."""
    return x.dtype in forwards.DTYPES and all(
        tensor is None or (type(tensor) in _TENSORS and tensor.dtype == x.dtype and tensor.is_cpu) for tensor in tensors
    )


def _drops(layer: Any) -> bool:
    names = ("post_attention_dropout", "post_mlp_dropout")
    return layer.training and any(hasattr(layer, name) and getattr(layer, name).p > 0 for name in names)


def _sight(layer: Any, x: Tensor, call: dict[str, Any]) -> masks.Sight | None:
    """What the queries see; None where this call is not what the op computes."""
    more = dict(call)
    mask, caches = more.pop("attention_mask", None), (more.pop("cache", None), more.pop("layer_past", None))
    if (
        call.get("position_embeddings") is None
        or caches != (None, None)
        or x.dim() != 3
        or torch.is_autocast_enabled("cpu")
        or nn.modules.module._has_any_global_hook()
        or _drops(layer)
        or obstacle(layer) is not None
    ):
        return None
    attention = layer.self_attn if hasattr(layer, "self_attn") else layer.attention
    return masks.sight(attention, x.shape[0], x.shape[1], mask, more)


def decoder_layer(self: Any, hidden_states: Tensor, *args: Any, **call: Any) -> Any:
    """`forward` of a decoder layer of any family."""
    sees = None if args else _sight(self, hidden_states, call)
    if sees is not None:
        cos, sin = (x.to(hidden_states.dtype) for x in call["position_embeddings"])
        tensors, settings = _parts(self, cos, sin, sees)
        if _alike(hidden_states, (*tensors[:2], *tensors[3:])):
            op = functools.partial(_run, tensors, settings)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                return self._gradient_checkpointing_func(op, hidden_states)
            return op(hidden_states)
    return type(self).forward(self, hidden_states, *args, **call)


def _run(tensors: tuple[Any, ...], settings: tuple[Any, ...], x: Tensor) -> Any:
    return _op(x, *tensors, *settings)
