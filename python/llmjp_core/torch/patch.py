"""`accelerate(model)`: a Hugging Face model with the layers of this package, in place and reversible.

Only the given instance changes: each replaced module gets a `forward` of its own, and the config another attention
implementation. Parameters, buffers, names, hooks and classes stay what they are. Everything a replaced `forward` needs
(eps, cos and sin, scaling, projections) is read from the module when it runs.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import UnsupportedInputError, UnsupportedModelError
from . import forwards, layers
from .masks import FAMILIES
from .report import Report

_LLAMA_LIKE = ("Llama", "Mistral", "Qwen2", "Qwen3")
_MARK = "_llmjp_core_before"

Forward = Callable[..., Any]
Rule = Callable[[nn.Module], tuple[Forward, str] | str]


def _rms_norm(module: nn.Module) -> tuple[Forward, str] | str:
    return forwards.rms_norm, "rms_norm"


def _layer_norm(module: nn.Module) -> tuple[Forward, str] | str:
    if not isinstance(module, nn.LayerNorm) or module.weight is None:
        return "it has no weight"
    return forwards.layer_norm, "layer_norm"


def _gated_mlp(module: nn.Module) -> tuple[Forward, str] | str:
    kind = forwards.activation_kind(module.act_fn)
    if kind is None:
        return f"no kernel for the activation {type(module.act_fn).__name__}"
    return forwards.gated_mlp, f"gated_mlp ({kind})"


def _mlp(module: nn.Module) -> tuple[Forward, str] | str:
    kind = forwards.activation_kind(module.act)
    if kind is None:
        return f"no kernel for the activation {type(module.act).__name__}"
    return forwards.neox_mlp, f"activation ({kind})"


def _attention(module: nn.Module) -> tuple[Forward, str] | str:
    return forwards.llama_attention, "rotary and attention"


def _neox_attention(module: nn.Module) -> tuple[Forward, str] | str:
    return forwards.neox_attention, "rotary and attention"


def _causal_lm(module: nn.Module) -> tuple[Forward, str] | str:
    head = module.lm_head
    if type(head) is not nn.Linear or head.bias is not None:
        return "its output layer is not a plain linear layer without bias"
    name = getattr(module.loss_function, "__name__", "")
    if name != "ForCausalLMLoss":
        return f"its loss is {name}, not the causal language model's"
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return functools.partial(forwards.causal_lm, names), "linear_cross_entropy"


def _layer(module: nn.Module) -> tuple[Forward, str] | str:
    return layers.obstacle(module) or (layers.decoder_layer, "decoder_layer")


RULES: dict[str, Rule] = {
    **{f"{name}DecoderLayer": _layer for name in _LLAMA_LIKE},
    "GPTNeoXLayer": _layer,
    **{f"{name}RMSNorm": _rms_norm for name in _LLAMA_LIKE},
    **{f"{name}MLP": _gated_mlp for name in _LLAMA_LIKE},
    **{f"{name}Attention": _attention for name in _LLAMA_LIKE},
    **{f"{name}ForCausalLM": _causal_lm for name in (*_LLAMA_LIKE, "GPTNeoX")},
    "GPTNeoXMLP": _mlp,
    "GPTNeoXAttention": _neox_attention,
}
# Why the modules that compute something and are not replaced are not.
_KEPT = {
    "Linear": "a matrix product; torch's is used",
    "Embedding": "a lookup; torch's is used",
    "Dropout": "torch's is used",
}


def _rule(module: nn.Module, families: set[str]) -> Rule | None:
    if type(module) is nn.LayerNorm and "gpt_neox" in families:
        return _layer_norm
    if type(module).__module__.startswith("transformers.models."):
        return RULES.get(type(module).__name__)
    return None


def _check_place(path: str, module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        forwards.check_parameter(f"{path}.{name}" if path else name, parameter)


def _bound(forward: Forward, module: nn.Module) -> types.MethodType:
    original = type(module).forward

    @functools.wraps(original)
    def replaced(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    layers.mark(replaced)
    return types.MethodType(replaced, module)


def accelerate(model: nn.Module) -> Report:
    """Replaces what this package has kernels for, in this model alone, and reports it.

    Supported: Llama, Mistral, Qwen2, Qwen3 and GPT-NeoX of transformers, on the CPU, in float32, bfloat16 or float16.
    `restore(model)` undoes it. Raises `UnsupportedModelError` when nothing in the model is known.

    In training, `model(..., labels=...)` returns the loss without logits; `output_logits=True` asks for them, and in
    evaluation they are there unless `output_logits=False`.
    """
    if _MARK in model.__dict__:
        raise UnsupportedInputError("accelerate: this model is accelerated already; restore(model) undoes it")
    configs = _configs(model)
    families = {config.model_type for config in configs}
    report, found = Report(type(model).__name__), []
    for path, module in model.named_modules():
        rule = _rule(module, families & set(FAMILIES))
        if rule is None:
            if type(module).__name__ in _KEPT:
                report.keep(path, module, _KEPT[type(module).__name__])
            continue
        if "forward" in module.__dict__:
            report.keep(path, module, "its forward has been replaced by somebody else")
            continue
        match rule(module):
            case str(why):
                report.keep(path, module, why)
            case (forward, by):
                _check_place(path, module)
                report.replace(path, module, by)
                found.append((module, forward))
    if not found:
        raise UnsupportedModelError(
            f"accelerate: nothing in {type(model).__name__} is known; supported are the models {', '.join(FAMILIES)} "
            "of transformers"
        )
    _apply(model, found, configs)
    return report


def _configs(model: nn.Module) -> list[Any]:
    """The configs of supported models inside, each once."""
    configs: list[Any] = []
    for module in model.modules():
        config = getattr(module, "config", None)
        known = getattr(config, "model_type", None) in FAMILIES
        if known and not any(config is other for other in configs):
            configs.append(config)
    return configs


def _apply(model: nn.Module, found: list[tuple[nn.Module, Forward]], configs: list[Any]) -> None:
    forwards.register_attention()
    before = [(config, config._attn_implementation) for config in configs]
    for module, forward in found:
        module.forward = _bound(forward, module)
    for config in configs:
        config._attn_implementation = forwards.ATTENTION
    model.__dict__[_MARK] = ([module for module, _ in found], before)


def restore(model: nn.Module) -> None:
    """Undoes `accelerate(model)`: the model computes what it did before, bit for bit."""
    if _MARK not in model.__dict__:
        raise UnsupportedInputError("restore: this model is not accelerated")
    modules, before = model.__dict__.pop(_MARK)
    for module in modules:
        module.__dict__.pop("forward", None)
    for config, implementation in before:
        config._attn_implementation = implementation


@contextmanager
def accelerated(model: nn.Module) -> Iterator[Report]:
    """`accelerate` inside a `with` block, `restore` after it."""
    report = accelerate(model)
    try:
        yield report
    finally:
        restore(model)
