"""`accelerate`: what it replaces, that the numbers hold, and that nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import hf_models
import pytest
import torch
from parity import assert_as_good, distance
from torch import nn

import llmjp_core.torch as lct
from llmjp_core.errors import DeviceError, UnsupportedInputError, UnsupportedModelError

FAMILIES = list(hf_models.CONFIGS)


def step(model: Any, **more: Any) -> dict[str, torch.Tensor]:
    """Loss and the gradient of each parameter."""
    model.zero_grad()
    loss = model(**{**hf_models.batch(), **more}, use_cache=False).loss
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


def assert_step(model: Any, exact_model: Any, **more: Any) -> None:
    plain = step(model, **more)
    exact = step(exact_model, **{name: x.double() if torch.is_floating_point(x) else x for name, x in more.items()})
    with lct.accelerated(model):
        ours = step(model, **more)
    for name in plain:
        # Gradients of many layers: measured against all of the tensor, as one element may be right by chance.
        assert_as_good(ours[name], plain[name], exact[name], 3 if name != "loss" else 2)


def assert_all_as_good(ours: dict[str, Any], plain: dict[str, Any], exact: dict[str, Any]) -> None:
    def error(step: dict[str, Any]) -> float:
        return sum(float((step[k].double() - exact[k]).square().sum()) for k in exact if k != "loss") ** 0.5

    assert error(ours) <= 1.5 * error(plain)
    torch.testing.assert_close(ours["loss"].double(), exact["loss"].double(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_parity(name: str) -> None:
    assert_step(hf_models.build(name), hf_models.build(name).double())


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parity_in_half(name: str, dtype: torch.dtype) -> None:
    """Through layers that round, one element is right by chance: the errors of all gradients together."""
    model = hf_models.build(name, dtype)
    exact_model = copy.deepcopy(model).double()
    plain, exact = step(model), step(exact_model)
    lct.accelerate(model)
    assert_all_as_good(step(model), plain, exact)


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_is_replaced(name: str) -> None:
    model = hf_models.build(name)
    report = lct.accelerate(model)
    layers = {line.layer for line in report.replaced}
    norm = "LayerNorm" if name.startswith("gpt_neox") else "RMSNorm"
    for part in (norm, "MLP", "Attention", "ForCausalLM"):
        assert any(layer.endswith(part) for layer in layers), part
    assert {line.layer for line in report.kept} <= {"Linear", "Embedding", "Dropout"}
    assert "rotary and attention" in str(report) and "kept: a matrix product" in str(report)
    assert report._repr_html_().startswith("<table>") and "padding" in report._repr_html_()


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_the_numbers_come_from_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a training step no replaced part runs torch's code."""
    from llmjp_core.torch import layers, losses, ops

    called = []
    for room, op in [(layers, "_op"), (ops, "attention"), (losses, "linear_cross_entropy"), (ops, "activation"),
                     (ops, "gated_mlp"), (ops, "rms_norm"), (ops, "layer_norm")]:  # fmt: skip
        original = getattr(room, op)
        monkeypatch.setattr(room, op, lambda *inputs, f=original, op=op: (called.append(op), f(*inputs))[1])
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", None)
    monkeypatch.setattr(nn.functional, "cross_entropy", None)
    model = hf_models.build(name)
    lct.accelerate(model)
    step(model)
    norm = "rms_norm" if name == "llama" else "layer_norm"
    assert {op: called.count(op) for op in called} == {"_op": 2, "linear_cross_entropy": 1, norm: 1}
    called.clear()
    for layer in (model.model if name == "llama" else model.gpt_neox).layers:
        layer.mlp.register_forward_hook(lambda module, args, output: None)
    step(model)
    activation = "gated_mlp" if name == "llama" else "activation"
    assert {op: called.count(op) for op in called} == {
        "attention": 2, "linear_cross_entropy": 1, activation: 2, norm: 5
    }  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_restored_bit_for_bit(name: str) -> None:
    model = hf_models.build(name)
    attributes = {path: dict(module.__dict__) for path, module in model.named_modules()}
    config, before = model.config.to_dict(), step(model)
    report = lct.accelerate(model)
    assert report.replaced and model.config._attn_implementation == "llmjp_core"
    lct.restore(model)
    assert all(dict(module.__dict__) == attributes[path] for path, module in model.named_modules())
    assert model.config.to_dict() == config and model.config._attn_implementation == "sdpa"
    after = step(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_only_this_instance() -> None:
    model, other = hf_models.build("llama"), hf_models.build("llama")
    before = step(other)
    lct.accelerate(model)
    assert "forward" not in other.model.norm.__dict__ and other.config._attn_implementation == "sdpa"
    after = step(other)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_saved_as_before(tmp_path: Path) -> None:
    model = hf_models.build("llama")
    keys = list(model.state_dict())
    model.save_pretrained(tmp_path / "before")
    lct.accelerate(model)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path / "after")
    files = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "after").iterdir()}


def test_live_values() -> None:
    """eps and inv_freq are read when the model runs, not when it was accelerated."""
    models = [hf_models.build("llama") for _ in range(2)]
    lct.accelerate(models[0])
    for model in models:
        model.model.norm.variance_epsilon = 0.7
        model.model.rotary_emb.inv_freq.mul_(0.5)
    with torch.no_grad():
        ours, theirs = (model(**hf_models.batch()).loss for model in models)
        changed = hf_models.build("llama")(**hf_models.batch()).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert abs(float(ours - changed)) > 1e-4


@pytest.mark.parametrize("attribute", ["variance_epsilon", "scaling"])
def test_a_wrong_value_is_seen(attribute: str) -> None:
    model, exact = hf_models.build("llama"), hf_models.build("llama").double()
    plain, truth = step(model), step(exact)
    lct.accelerate(model)
    part = model.model.norm if attribute == "variance_epsilon" else model.model.layers[0].self_attn
    setattr(part, attribute, getattr(part, attribute) * 1.05)
    with pytest.raises(AssertionError):
        assert_as_good(step(model)["loss"], plain["loss"], truth["loss"])


@pytest.mark.parametrize("items", [17, torch.tensor(17)], ids=["int", "tensor"])
def test_num_items_in_batch(items: Any) -> None:
    model = hf_models.build("llama")
    plain = step(model, num_items_in_batch=items) if isinstance(items, torch.Tensor) else None
    loss = model(**hf_models.batch(), num_items_in_batch=items).loss
    lct.accelerate(model)
    ours = model(**hf_models.batch(), num_items_in_batch=items)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-6, atol=0)
    if plain is not None:
        again = step(model, num_items_in_batch=items)
        assert all(distance(plain[k], again[k]) <= 1e-5 * float(plain[k].abs().max()) + 1e-7 for k in plain)


def test_logits_on_request() -> None:
    model = hf_models.build("llama")
    want = model(**hf_models.batch())
    lct.accelerate(model)
    assert model(**hf_models.batch()).logits is None
    asked = model(**hf_models.batch(), output_logits=True)
    torch.testing.assert_close(asked.logits, want.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(asked.loss, want.loss, rtol=1e-5, atol=0)
    model.eval()
    assert model(**hf_models.batch()).logits is not None
    assert model(**hf_models.batch(), output_logits=False).logits is None
    ids = hf_models.batch()["input_ids"]
    assert model(ids, output_logits=True).logits.shape == (3, 23, 97)
    assert model(ids, logits_to_keep=1).logits.shape == (3, 1, 97)
    assert isinstance(model(ids, return_dict=False), tuple)


def test_the_signature_stays() -> None:
    """Trainers read it to know which columns a model takes."""
    import inspect

    model = hf_models.build("llama")
    names = list(inspect.signature(model.forward).parameters)
    lct.accelerate(model)
    assert list(inspect.signature(model.forward).parameters) == names


def padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(3, 23, dtype=torch.long)
    mask[1, :5] = 0
    return {"attention_mask": mask}


CALLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "padding": ("llama", {}, padded()),
    "padding NeoX": ("gpt_neox", {}, padded()),
    "a mask of ones": ("llama", {}, {"attention_mask": torch.ones(3, 23, dtype=torch.long)}),
    "padding and a window": ("mistral", {"sliding_window": 5}, padded()),
    "positions of its own": ("llama", {}, {"position_ids": torch.arange(23)[None].expand(3, -1) + 2}),
    "other positions in each": ("llama", {}, {"position_ids": torch.arange(23) + torch.tensor([[0], [4], [9]])}),
    "padding, layers with and without window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1, "layer_types": None},
        padded(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_what_the_kernel_cannot_do_is_right_too(call: str) -> None:
    name, changes, more = CALLS[call]
    assert_step(hf_models.build(name, **changes), hf_models.build(name, **changes).double(), **more)


def test_dropout_stays() -> None:
    model = hf_models.build("llama", attention_dropout=0.5)
    torch.manual_seed(3)
    want = model(**hf_models.batch()).loss
    lct.accelerate(model)
    torch.manual_seed(3)
    torch.testing.assert_close(model(**hf_models.batch()).loss, want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_generation(name: str) -> None:
    model = hf_models.build(name).eval()
    ids = hf_models.batch()["input_ids"]
    mask = padded()["attention_mask"]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    want = model.generate(ids, attention_mask=mask, **options), model.generate(ids, **options)
    lct.accelerate(model)
    assert torch.equal(model.generate(ids, attention_mask=mask, **options), want[0])
    assert torch.equal(model.generate(ids, **options), want[1])


def test_an_eager_model() -> None:
    mask = padded()["attention_mask"].flip(-1)  # at the end: eager rows that see nothing are NaN in float64
    models = (hf_models.build("llama", attn="eager") for _ in range(2))
    assert_step(next(models), next(models).double(), attention_mask=mask)


def test_gradient_checkpointing() -> None:
    model = hf_models.build("llama")
    lct.accelerate(model)
    want = step(model)
    model.gradient_checkpointing_enable()
    again = step(model)
    assert all(torch.equal(want[key], again[key]) for key in want)


def test_autocast() -> None:
    model = hf_models.build("llama")
    exact = step(hf_models.build("llama").double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = step(model)
        lct.accelerate(model)
        ours = step(model)
    assert all(x.dtype == torch.float32 for x in ours.values())
    assert_all_as_good(ours, plain, exact)


def test_a_copy_of_its_own() -> None:
    model = hf_models.build("llama")
    lct.accelerate(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    assert not torch.equal(step(model)["loss"], step(other)["loss"])
    lct.restore(other)
    assert "forward" in model.model.norm.__dict__ and "forward" not in other.model.norm.__dict__


def test_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="nothing in Sequential"):
        lct.accelerate(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    with pytest.raises(UnsupportedInputError, match="not accelerated"):
        lct.restore(nn.Linear(2, 2))
    model = hf_models.build("llama")
    lct.accelerate(model)
    with pytest.raises(UnsupportedInputError, match="already"):
        lct.accelerate(model)


@pytest.mark.parametrize(
    ("change", "error"), [({"device": "meta"}, DeviceError), ({"dtype": torch.float64}, UnsupportedInputError)]
)
def test_refused_and_left_alone(change: dict[str, Any], error: type[Exception]) -> None:
    model = hf_models.build("llama").to(**change)
    with pytest.raises(error, match="accelerate: `model"):
        lct.accelerate(model)
    assert "forward" not in model.__dict__ and model.config._attn_implementation == "sdpa"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_compiles_as_a_whole(name: str) -> None:
    model = hf_models.build(name)
    lct.accelerate(model)
    want = step(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    again = {"loss": None, **step(compiled)}
    for key, value in want.items():
        torch.testing.assert_close(again.get(key, again.get(f"_orig_mod.{key}")), value, rtol=1e-5, atol=1e-6)
