"""Windows and packed sequences in accelerated models: the kernel computes them, as the unpatched model does."""

from __future__ import annotations

from typing import Any

import hf_models
import pytest
import torch
from parity import assert_as_good
from test_torch_patch import assert_step, step

import llmjp_core.torch as lct

# What a window and packed sequences are given by.
WINDOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": 5}),
    "mistral as long as the text": ("mistral", {"sliding_window": 23}),
    "mistral one short of the text": ("mistral", {"sliding_window": 22}),
    "qwen2, one of two layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1, "layer_types": None},
    ),
    "qwen3, all layers": (
        "qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0, "layer_types": None},
    ),
}  # fmt: skip


def kernel_step(model: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, torch.Tensor]:
    """A step of an accelerated model in which no attention but the kernel's can be computed, and no mask be made."""
    with monkeypatch.context() as context:
        context.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", None)
        context.setattr("transformers.masking_utils.sdpa_mask", None)
        return step(model, **more)


def assert_kernel_step(model: Any, exact_model: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    plain, exact = step(model, **more), step(exact_model, **more)
    with lct.accelerated(model):
        ours = kernel_step(model, monkeypatch, **more)
    for name in plain:
        assert_as_good(ours[name], plain[name], exact[name], 3 if name != "loss" else 2)


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_are_the_kernels(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, changes = WINDOWS[case]
    assert_kernel_step(hf_models.build(name, **changes), hf_models.build(name, **changes).double(), monkeypatch)


@pytest.mark.parametrize("window", [4, 6])
def test_a_window_one_off_is_seen(window: int) -> None:
    model, exact = (hf_models.build("mistral", sliding_window=5) for _ in range(2))
    other = hf_models.build("mistral", sliding_window=window)
    plain, truth = step(model), step(exact.double())
    lct.accelerate(other)
    with pytest.raises(AssertionError):
        assert_as_good(step(other)["loss"], plain["loss"], truth["loss"])


def packed(*lengths: int, sequences: int = 1) -> dict[str, torch.Tensor]:
    return {"position_ids": torch.cat([torch.arange(n) for n in lengths])[None].expand(sequences, -1)}


def flattened(*lengths: int) -> dict[str, Any]:
    """As DataCollatorWithFlattening(return_flash_attn_kwargs=True) makes them."""
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, **longest}


PACKED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, packed(9, 14)),
    "gpt_neox": ("gpt_neox", {}, packed(1, 20, 2)),
    "a window": ("mistral", {"sliding_window": 5}, packed(9, 14)),
    "some windows": (WINDOWS["qwen2, one of two layers"][0], WINDOWS["qwen2, one of two layers"][1], packed(3, 11, 9)),
    "each sequence": ("qwen3", {}, {"position_ids": torch.cat([packed(9, 14)["position_ids"],
                                                              packed(23)["position_ids"],
                                                              packed(10, 13)["position_ids"]])}),
    "lengths too": ("llama", {}, {**packed(9, 14), **flattened(9, 14)}),
    "from position 2": ("llama", {}, {"position_ids": packed(9, 14)["position_ids"] + 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", PACKED)
def test_packed_sequences_are_the_kernels(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, changes, more = PACKED[case]
    ids = hf_models.batch(sequences=more["position_ids"].shape[0])
    models = (hf_models.build(name, **changes) for _ in range(2))
    assert_kernel_step(next(models), next(models).double(), monkeypatch, **ids, **more)


def test_a_document_one_off_is_seen() -> None:
    ids = hf_models.batch(sequences=1)
    model, exact = hf_models.build("llama"), hf_models.build("llama").double()
    plain, truth = step(model, **ids, **packed(9, 14)), step(exact, **ids, **packed(9, 14))
    lct.accelerate(model)
    with pytest.raises(AssertionError):
        assert_as_good(step(model, **ids, **packed(10, 13))["loss"], plain["loss"], truth["loss"])


def test_lengths_alone_cut_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in flash attention, for which they are made: each document as if it were alone."""
    lengths = (9, 14)
    ids = hf_models.batch(sequences=1)["input_ids"]
    model = hf_models.build("llama").eval()
    with torch.no_grad():
        alone = torch.cat([model(part, use_cache=False).logits for part in ids.split(lengths, 1)], 1)
        lct.accelerate(model)
        with monkeypatch.context() as context:
            context.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", None)
            together = model(ids, use_cache=False, **flattened(*lengths)).logits
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_positions_that_jump_inside_a_padded_batch() -> None:
    """With an attention mask positions cut no documents, in transformers neither."""
    more = {"attention_mask": torch.ones(3, 23, dtype=torch.long), **packed(9, 14, sequences=3)}
    assert_step(hf_models.build("llama"), hf_models.build("llama").double(), **more)


@pytest.mark.parametrize("name", ["mistral", "qwen2"])
@pytest.mark.parametrize("packing", [{}, packed(9, 14, sequences=3)], ids=["whole", "packed"])
def test_windows_with_dropout_stay(name: str, packing: dict[str, Any]) -> None:
    """Torch's attention needs the mask that the kernel does without."""
    changes = {"sliding_window": 5, "attention_dropout": 0.5, "use_sliding_window": True, "max_window_layers": 0}
    model = hf_models.build(name, **changes, layer_types=None) if name == "qwen2" else hf_models.build(name, **changes)
    torch.manual_seed(3)
    want = model(**hf_models.batch(), **packing, use_cache=False).loss
    lct.accelerate(model)
    torch.manual_seed(3)
    ours = model(**hf_models.batch(), **packing, use_cache=False).loss
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_generation_with_a_window(name: str) -> None:
    _, changes = WINDOWS["mistral" if name == "mistral" else "qwen2, one of two layers"]
    model = hf_models.build(name, **changes).eval()
    ids, options = hf_models.batch()["input_ids"], {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    want = model.generate(ids, **options), model.generate(ids[:, :3], **options)
    lct.accelerate(model)
    assert torch.equal(model.generate(ids, **options), want[0])
    assert torch.equal(model.generate(ids[:, :3], **options), want[1])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["some windows", "each sequence"])
def test_compiled_as_a_whole(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, changes, more = PACKED[case]
    ids = hf_models.batch(sequences=more["position_ids"].shape[0])
    model = hf_models.build(name, **changes)
    lct.accelerate(model)
    for packing in (more, {}):
        want = kernel_step(model, monkeypatch, **ids, **packing)
        torch.compiler.reset()
        again = kernel_step(torch.compile(model, fullgraph=True, backend="aot_eager"), monkeypatch, **ids, **packing)
        for key, value in want.items():
            torch.testing.assert_close(again.get(key, again.get(f"_orig_mod.{key}")), value, rtol=1e-5, atol=1e-6)


def test_a_mask_function_of_ones_own_is_kept() -> None:
    """What is not known for sure gets the mask that its function says."""
    from transformers import masking_utils as m

    from llmjp_core.torch.masks import attention_mask

    config = hf_models.CONFIGS["mistral"]
    ids = torch.tensor([[0, 0, 0, 1, 1]])
    packing = m.packed_sequence_mask_function(ids)
    sizes = {"batch_size": 1, "q_length": 5, "kv_length": 5, "config": config, "allow_is_causal_skip": False}
    window = m.sliding_window_causal_mask_function(3)
    assert attention_mask(**sizes, mask_function=window, local_size=3) is None
    assert torch.equal(attention_mask(**sizes, mask_function=m.and_masks(window, packing), local_size=3), ids.int())
    others = [
        (m.sliding_window_causal_mask_function(2), 3),
        (m.chunked_causal_mask_function(3, torch.zeros(1, dtype=torch.long)), 3),
        (m.or_masks(window, packing), 3),
        (m.and_masks(packing, window), 3),
        (m.bidirectional_mask_function, None),
        (m.and_masks(m.causal_mask_function, m.packed_sequence_mask_function(ids.flip(-1))), None),
    ]
    for function, size in others:
        got = attention_mask(**sizes, mask_function=function, local_size=size)
        assert torch.equal(got, m.sdpa_mask(**sizes, mask_function=function, local_size=size))
    assert attention_mask(**{**sizes, "kv_length": 9}, mask_function=window, local_size=3).shape == (1, 1, 5, 9)
    foreign = hf_models.PreTrainedConfig()
    assert attention_mask(**{**sizes, "config": foreign}, mask_function=window, local_size=3).dim() == 4
