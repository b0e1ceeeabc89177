"""What replaced modules of a Hugging Face model compute.

Each function is the `forward` of one kind of module. Where a kernel cannot do what is asked, `forward` of the module's
class is called instead; the conditions stand in `masks` and `_loss_only`, and `FALLBACKS` says them in words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedInputError
from . import functional as F
from . import masks, ops
from ._op import on_cpu

Tensor = torch.Tensor
ATTENTION = "llmjp_core"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FALLBACKS = (
    "decoder_layer: the modules inside one by one, where one of them has hooks, an adapter, a parametrization, or a "
    "forward or an activation that is not the family's; under autocast, with dropout in training, or as attention says",
    "attention: torch's scaled_dot_product_attention with padding and masks of one's own, with attention dropout in "
    "training, and for tokens after the first of a generation",
    "loss: logits and the model's own loss in evaluation, with output_logits=True, and with logits_to_keep",
)


def check_parameter(name: str, parameter: Tensor) -> None:
    """Raises when no kernel takes it."""
    on_cpu("accelerate", **{name: parameter})
    if parameter.dtype not in DTYPES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise UnsupportedInputError(f"accelerate: `{name}` is {parameter.dtype}; kernels take {kinds}")


# --- norms


def rms_norm(self: Any, hidden_states: Tensor) -> Tensor:
    weight = self.weight
    if hidden_states.dtype != weight.dtype:  # the class multiplies the two, which gives the wider dtype
        kind = torch.promote_types(hidden_states.dtype, weight.dtype)
        hidden_states, weight = hidden_states.to(kind), weight.to(kind)
    return F.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)


def layer_norm(self: Any, input: Tensor) -> Tensor:
    return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


# --- MLPs

_ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "ReLU": "relu",
}


def activation_kind(module: Any) -> str | None:
    """The kernel that computes what the module does."""
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return _ACTIVATIONS.get(type(module).__name__)


def gated_mlp(self: Any, x: Tensor) -> Any:
    kind = activation_kind(self.act_fn)
    if kind is None:
        return type(self).forward(self, x)
    return self.down_proj(ops.gated_mlp(self.gate_proj(x), self.up_proj(x), kind))


def neox_mlp(self: Any, hidden_states: Tensor) -> Any:
    kind = activation_kind(self.act)
    if kind is None:
        return type(self).forward(self, hidden_states)
    return self.dense_4h_to_h(ops.activation(self.dense_h_to_4h(hidden_states), kind))


# --- attention


def llama_attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    cache: Any = None,
    **more: Any,
) -> Any:
    b, t = hidden_states.shape[:2]
    sees = masks.sight(self, b, t, attention_mask, more) if cache is None else None
    if position_embeddings is None or sees is None:
        known = {"position_embeddings": position_embeddings, "attention_mask": attention_mask, **more}
        if cache is not None:
            known["cache"] = cache
        return type(self).forward(self, hidden_states, **known)
    q_BTAD = self.q_proj(hidden_states).view(b, t, -1, self.head_dim)
    k_BTGD = self.k_proj(hidden_states).view(b, t, -1, self.head_dim)
    v_BTGD = self.v_proj(hidden_states).view(b, t, -1, self.head_dim)
    if hasattr(self, "q_norm"):
        q_BTAD, k_BTGD = self.q_norm(q_BTAD).to(v_BTGD.dtype), self.k_norm(k_BTGD).to(v_BTGD.dtype)
    cos, sin = (x.to(q_BTAD.dtype) for x in position_embeddings)
    out_BTAD = ops.attention(q_BTAD, k_BTGD, v_BTGD, cos, sin, sees.documents, self.scaling, sees.left, 0, False)
    return self.o_proj(out_BTAD.reshape(b, t, -1)), None


def neox_attention(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    layer_past: Any = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **more: Any,
) -> Any:
    b, t = hidden_states.shape[:2]
    sees = masks.sight(self, b, t, attention_mask, more) if layer_past is None else None
    if position_embeddings is None or sees is None:
        return type(self).forward(
            self,
            hidden_states,
            attention_mask=attention_mask,
            layer_past=layer_past,
            position_embeddings=position_embeddings,
            **more,
        )
    qkv = self.query_key_value(hidden_states).view(b, t, -1, 3 * self.head_size)
    cos, sin = (x.to(qkv.dtype) for x in position_embeddings)
    out_BTAD = ops.attention(qkv, None, None, cos, sin, sees.documents, self.scaling, sees.left, 0, False)
    return self.dense(out_BTAD.reshape(b, t, -1)), None


def attention_interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Any]:
    """For `transformers.AttentionInterface`: attention of a module whose own forward was called, as in generation."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    b, _, t, dim = query.shape
    if t != key.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    sees = masks.sight(module, b, t, attention_mask, more)
    if sees is None or dropout or query.dtype != key.dtype:
        mask = masks.explicit(module, attention_mask, t, query.device)
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **more)
    scale = dim**-0.5 if scaling is None else scaling
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return ops.attention(q, k, v, None, None, sees.documents, scale, sees.left, 0, False), None


def register_attention() -> None:
    """Makes the name `llmjp_core` known to transformers; models that do not ask for it are not touched."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, attention_interface)
    AttentionMaskInterface.register(ATTENTION, masks.attention_mask)


# --- the loss


def _loss_only(self: Any, call: dict[str, Any], output_logits: bool | None) -> bool:
    """Whether the loss can be computed, and is wanted, without logits."""
    head = self.lm_head
    wanted = (not self.training) if output_logits is None else output_logits
    keep = call.get("logits_to_keep", 0)
    return (
        not wanted
        and (call.get("labels") is not None or call.get("shift_labels") is not None)
        and isinstance(keep, int)
        and keep == 0
        and call.get("return_dict") is not False
        and getattr(self.config, "return_dict", True) is not False
        and type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) is nn.Parameter
        and not head._forward_hooks
        and not head._forward_pre_hooks
    )


def causal_lm(names: list[str], self: Any, *args: Any, **kwargs: Any) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    call = {**dict(zip(names, args, strict=False)), **kwargs}
    output_logits = call.pop("output_logits", None)
    if call.get("labels") is None or not _loss_only(self, call, output_logits):
        return type(self).forward(self, **call)
    labels, shifted = call.pop("labels"), call.pop("shift_labels", None)
    items, ignore_index = call.pop("num_items_in_batch", None), call.pop("ignore_index", -100)
    for name in ("logits_to_keep", "return_dict"):
        call.pop(name, None)
    outputs = getattr(self, self.base_model_prefix)(**call)
    if shifted is None:  # tokens before n predict n
        shifted = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    loss = _mean_loss(outputs.last_hidden_state, self.lm_head.weight, shifted, items, ignore_index)
    return CausalLMOutputWithPast(
        loss=loss,
        logits=None,
        cache=outputs.cache,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


def _mean_loss(hidden: Tensor, weight: Tensor, target: Tensor, items: Any, ignore_index: int) -> Tensor:
    """Over `items` tokens, or those that are not ignored."""
    target = target.contiguous()
    if items is None:
        return F.linear_cross_entropy(hidden, weight, target, ignore_index=ignore_index)
    if torch.compiler.is_compiling() or not float(items) > 0:
        total = F.linear_cross_entropy(hidden, weight, target, ignore_index=ignore_index, reduction="sum")
        return total / items  # type: ignore[no-any-return]
    return F.linear_cross_entropy(
        hidden, weight, target, ignore_index=ignore_index, reduction="sum", divisor=float(items)
    )
