"""A decoder layer as one op: its numbers, what it keeps, and when the modules inside run instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import hf_models
import pytest
import torch
from parity import assert_as_good, distance
from torch import nn
from transformers import DynamicCache

import llmjp_core.torch as lct
from llmjp_core.errors import UnsupportedInputError
from llmjp_core.torch import decoder_layer as op
from llmjp_core.torch import layers

Tensor = torch.Tensor
FAMILIES = list(hf_models.CONFIGS)
Result = dict[str, Tensor]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each layer that runs as one op."""
    seen: list[int] = []
    original = layers._op
    monkeypatch.setattr(layers, "_op", lambda *inputs: (seen.append(1), original(*inputs))[1])
    return seen


def layer_of(model: Any) -> Any:
    return (model.model if hasattr(model, "model") else model.gpt_neox).layers[1]


def build(name: str, **changes: Any) -> Any:
    """A model whose layers have the biases that the family can have."""
    biases = {"attention_bias": True, "mlp_bias": True} if name == "llama" else {}
    return hf_models.build(name, **{**biases, **changes})


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model: Any, tokens: int = 5, sequences: int = 2, **call: Any) -> Result:
    """What the second layer gives, and the gradients of its input and of each parameter."""
    layer, kind = layer_of(model), next(model.parameters()).dtype
    body = model.model if hasattr(model, "model") else model.gpt_neox
    x = numbers(1, sequences, tokens, 48).to(kind).requires_grad_()
    positions = torch.arange(tokens)[None] + torch.arange(sequences)[:, None]
    tables = body.rotary_emb(x, position_ids=positions)
    layer.zero_grad()
    y = layer(x, position_embeddings=tables, **{"attention_mask": None, **call})
    y.backward(numbers(2, *y.shape).to(kind))
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": y.detach(), "input": x.grad, **gradients}  # type: ignore[dict-item]


def assert_parity(ours: Result, plain: Result, exact: Result) -> None:
    assert ours.keys() == exact.keys()
    for name in exact:
        assert_as_good(ours[name], plain[name], exact[name], 2 if name == "output" else 3)


def everything(change: Callable[[Any], Any], name: str, **call: Any) -> tuple[Result, Result, Result]:
    """(ours, plain, exact) of a model after `change`."""
    plain, exact, model = (build(name) for _ in range(3))
    lct.accelerate(model)
    change(model)
    results = [run(model, **call)]
    for other in (plain, exact.double()):
        change(other)
        results.append(run(other, **call))
    return results[0], results[1], results[2]


@pytest.mark.parametrize("tokens", [1, 5, 33])
@pytest.mark.parametrize("name", FAMILIES)
def test_parity(name: str, tokens: int, calls: list[int]) -> None:
    assert_parity(*everything(lambda model: None, name, tokens=tokens))
    assert calls == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_parity_in_half(name: str, dtype: torch.dtype, calls: list[int]) -> None:
    """All numbers of a tensor together: one of few may be right by chance."""
    model = build(name).to(dtype)
    plain, exact = run(model, 17), run(copy.deepcopy(model).double(), 17)
    lct.accelerate(model)
    ours = run(model, 17)
    assert calls == [1] and ours.keys() == exact.keys()

    def error(result: Result, name: str) -> float:
        return float((result[name].double() - exact[name]).norm())

    for key in exact:
        assert ours[key].dtype == dtype
        assert error(ours, key) <= 2 * error(plain, key) + 1e-6 * float(exact[key].norm()), key


def test_windows_and_documents(calls: list[int]) -> None:
    model, plain = (hf_models.build("mistral", sliding_window=4) for _ in range(2))
    exact = hf_models.build("mistral", sliding_window=4).double()
    lct.accelerate(model)
    positions = torch.cat((torch.arange(9), torch.arange(14)))[None]
    for more in ({}, {"position_ids": positions}):
        results = []
        for other in (model, plain, exact):
            other.zero_grad()
            other(**hf_models.batch(sequences=1), use_cache=False, **more).loss.backward()
            results.append({name: p.grad for name, p in other.named_parameters()})
        for name in results[0]:
            assert_as_good(results[0][name], results[1][name], results[2][name], 3)
    assert len(calls) == 4


# --- when the modules inside run


def hooked(layer: Any, kind: str = "forward", part: str = "q_proj") -> None:
    module = {name.rsplit(".", 1)[-1]: module for name, module in layer.named_modules()}[part]
    if kind == "forward":
        module.register_forward_hook(lambda module, args, output: output * 1.5)
    elif kind == "before":
        module.register_forward_pre_hook(lambda module, args: tuple(x * 1.5 for x in args))
    elif kind == "backward":
        module.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 1.5,))
    else:
        module.register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 1.5,))


class Adapted(nn.Module):
    """As an adapter wraps a projection."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.more = nn.Parameter((numbers(5, *base.weight.shape) * 0.1).to(base.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.more.t()  # type: ignore[no-any-return]


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


def replaced(layer: Any) -> None:
    module = layer.mlp.down_proj
    module.forward = lambda x: nn.functional.linear(x, 2 * module.weight, module.bias)


def parametrized(layer: Any) -> None:
    nn.utils.parametrize.register_parametrization(layer.mlp.up_proj, "weight", Doubled())


def another_activation(layer: Any) -> None:
    layer.mlp.act_fn = nn.Tanh()


CHANGES: dict[str, Callable[[Any], None]] = {
    "a hook of a projection": hooked,
    "a hook before the MLP": lambda layer: hooked(layer, "before", "mlp"),
    "a backward hook": lambda layer: hooked(layer, "backward", "o_proj"),
    "a hook before backward": lambda layer: hooked(layer, "before backward", "input_layernorm"),
    "a hook of attention": lambda layer: layer.self_attn.register_forward_hook(
        lambda module, args, output: (output[0] * 1.5, output[1])
    ),
    "an adapter": lambda layer: setattr(layer.self_attn, "v_proj", Adapted(layer.self_attn.v_proj)),
    "a parametrization": parametrized,
    "a replaced forward": replaced,
    "another activation": another_activation,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module_runs(change: str, calls: list[int]) -> None:
    """Changed after `accelerate`, and seen; what it does is done."""
    ours, plain, exact = everything(lambda model: CHANGES[change](layer_of(model)), "llama")
    assert calls == []
    assert_parity(ours, plain, exact)
    unchanged = run(build("llama"))
    assert any(distance(plain[name], unchanged[name]) > 1e-2 for name in unchanged if name in plain)


def test_a_module_changed_before_is_reported() -> None:
    model = build("llama")
    CHANGES["an adapter"](layer_of(model))
    report = lct.accelerate(model)
    lines = {line.why or line.by for line in report.lines if line.layer == "LlamaDecoderLayer"}
    assert lines == {"decoder_layer", "its v_proj is a Adapted"}


@pytest.mark.parametrize("name", FAMILIES)
def test_module_by_module(name: str, calls: list[int]) -> None:
    """A hook that does nothing: each module's own kernels, with the same results."""

    def change(model: Any) -> None:
        layer_of(model).mlp.register_forward_hook(lambda module, args, output: None)

    assert_parity(*everything(change, name))
    assert calls == []


def test_a_mask(calls: list[int]) -> None:
    mask = torch.zeros(2, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    mask[1, :, 1:, 0] = -torch.inf
    model = build("llama")
    plain, unmasked = run(model, attention_mask=mask), run(model)
    exact = run(build("llama").double(), attention_mask=mask.double())
    lct.accelerate(model)
    assert_parity(run(model, attention_mask=mask), plain, exact)
    assert calls == [] and distance(plain["output"], unmasked["output"]) > 1e-3


def test_a_cache(calls: list[int]) -> None:
    model = build("llama")
    want = run(model)
    lct.accelerate(model)
    cache = DynamicCache(config=model.config)
    torch.testing.assert_close(run(model, cache=cache)["output"], want["output"], rtol=1e-4, atol=1e-5)
    assert calls == [] and cache.get_seq_length(1) == 5


def test_autocast(calls: list[int]) -> None:
    model = build("llama")
    exact = run(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = run(model)
        lct.accelerate(model)
        ours = run(model)
    assert calls == []
    error = [float((result["input"] - exact["input"]).norm()) for result in (ours, plain)]
    assert 0 < error[0] <= 2 * error[1]


def test_a_hook_of_all_modules(calls: list[int]) -> None:
    model, seen = build("llama"), []
    lct.accelerate(model)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        run(model)
    finally:
        handle.remove()
    assert calls == [] and seen.count("Linear") == 7


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_dropout(name: str, calls: list[int]) -> None:
    for what in ("attention_dropout", "hidden_dropout")[: 1 if name == "llama" else 2]:
        model = build(name, **{what: 0.5})
        torch.manual_seed(3)
        want = run(model)
        lct.accelerate(model)
        torch.manual_seed(3)
        ours = run(model)
        assert calls == []
        for key in want:
            torch.testing.assert_close(ours[key], want[key], rtol=1e-4, atol=1e-4)
        model.eval()
        run(model)
        assert calls.pop() == 1


def test_hidden_states_and_attentions_are_given(calls: list[int]) -> None:
    """transformers takes them by hooks, which stay."""
    model = hf_models.build("llama").eval()
    want = model(**hf_models.batch(), output_hidden_states=True)
    lct.accelerate(model)
    ours = model(**hf_models.batch(), output_hidden_states=True)
    assert len(ours.hidden_states) == 3
    for a, b in zip(ours.hidden_states, want.hidden_states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_dtypes_inside(calls: list[int]) -> None:
    """Norms in float32 around products in bfloat16, as some train."""
    model = build("llama").bfloat16()
    layer = layer_of(model)
    layer.input_layernorm.float()
    lct.accelerate(model)
    with pytest.raises(RuntimeError):  # as without: the class gives the products float32
        run(model)
    assert calls == []


# --- gradients, memory


def test_frozen_weights_get_none(calls: list[int]) -> None:
    model = build("qwen2")
    lct.accelerate(model)
    want = run(model)
    frozen = ("q_proj.weight", "k_proj.bias", "down_proj.weight", "input_layernorm.weight")
    for name, p in layer_of(model).named_parameters():
        p.requires_grad_(not name.endswith(frozen))
    again = run(model)
    assert want.keys() - again.keys() == {name for name in want if name.endswith(frozen)}
    assert all(torch.equal(again[key], want[key]) for key in again) and calls == [1, 1]
    with torch.no_grad():
        for p in layer_of(model).parameters():
            p.requires_grad_(False)
    assert run(model).keys() == {"output", "input"}


def test_backward_twice_and_no_second_derivative() -> None:
    model = build("llama")
    lct.accelerate(model)
    layer, x = layer_of(model), numbers(1, 2, 5, 48).requires_grad_()
    tables = model.model.rotary_emb(x, position_ids=torch.arange(5)[None])
    y = layer(x, position_embeddings=tables)
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.equal(first, second)
    with pytest.raises(UnsupportedInputError, match="derivative"):
        second.sum().backward()


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_what_is_kept(name: str) -> None:
    """x, queries to values, what attention gives, the sum in the middle, what goes into the activation: no more."""
    model = build(name)
    lct.accelerate(model)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    layer, x = layer_of(model), numbers(1, 2, 32, 48).requires_grad_()
    body = model.model if name == "llama" else model.gpt_neox
    tables = body.rotary_emb(x, position_ids=torch.arange(32)[None])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        layer(x, position_embeddings=tables)
    for tensor in (*layer.parameters(), *tables):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    heads, mlp = (4 + 2 * 2, 2 * 80) if name == "llama" else (3 * 4, 80)
    row = 48 + heads * 12 + 48 + (48 if name == "llama" else 0) + mlp + 4 + (2 if name == "llama" else 4)
    assert sum(kept.values()) <= 2 * 32 * row * 4 + 64


def test_checkpointing_computes_the_layer_again(calls: list[int]) -> None:
    model = hf_models.build("qwen3")
    lct.accelerate(model)
    model(**hf_models.batch(), use_cache=False).loss.backward()
    want = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for options in ({"use_reentrant": False}, {"use_reentrant": True}):
        calls.clear()
        model.zero_grad()
        model.gradient_checkpointing_enable(options)
        model(**hf_models.batch(), use_cache=False).loss.backward()
        assert calls == [1] * 4
        again = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(torch.equal(a, b) for a, b in zip(want, again, strict=True))


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox", "gpt_neox_serial"])
def test_opcheck(name: str) -> None:
    model = build(name)
    lct.accelerate(model)
    seen: list[Any] = []
    original = layers._op
    try:
        layers._op = lambda *inputs: (seen.append(inputs), original(*inputs))[1]  # type: ignore[assignment]
        run(model)
    finally:
        layers._op = original
    torch.library.opcheck(original.library, seen[0])


def mutants() -> Iterator[tuple[str, Callable[[pytest.MonkeyPatch], None]]]:
    """Mistakes that the comparison must see."""

    def kernel(name: str, change: Callable[..., tuple[Any, ...]]) -> Callable[[pytest.MonkeyPatch], None]:
        original = getattr(op._rust, name)
        return lambda patch: patch.setattr(op._rust, name, lambda *inputs: original(*change(*inputs)))

    yield "scale", kernel("attention_forward", lambda *a: (*a[:9], a[9] * 1.001, *a[10:]))
    yield "angles of the backward pass", kernel("attention_backward", lambda *a: (*a[:9], a[9] * 0.99, *a[10:]))
    yield "residual in the middle", kernel("rms_norm_backward", lambda *a: (*a[:6], None))
    yield (
        "a product that is not added",
        lambda patch: patch.setattr(op._rust, "linear_backward_input_add", lambda *inputs: None),
    )
    yield "eps", kernel("rms_norm_forward_add", lambda *a: (*a[:6], a[6] * 1.01))
    yield "gate and up", kernel("gated_mlp_backward", lambda *a: (a[1], a[0], *a[2:]))
    yield "a bias", kernel("linear_forward", lambda *a: (*a[:3], None))


@pytest.mark.parametrize(("what", "plant"), list(mutants()), ids=lambda x: x if isinstance(x, str) else "")
def test_a_mistake_is_seen(what: str, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: Any) -> None:
    plain, exact, model = build("llama"), build("llama").double(), build("llama")
    lct.accelerate(model)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        assert_parity(run(model), run(plain), run(exact))
