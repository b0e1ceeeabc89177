"""Folders of `transformers`: read, computed alike, written, read again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from decoder_twin import LLAMA, NEOX, Twin, as_good, cross_entropy, random_tensors
from safetensors.numpy import load_file, save_file
from tokenizer_models import model_bytes

import llmjp_core as lc
from llmjp_core import errors

transformers.logging.set_verbosity_error()

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
NEOX_SIZES = {
    "vocab_size": 53,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 112,
    "max_position_embeddings": 64,
}
LLAMA_SIZES = NEOX_SIZES | {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
HF: dict[str, tuple[str, dict[str, Any]]] = {
    "neox": ("neox", NEOX_SIZES | {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}),
    "neox-sequential": (
        "neox",
        NEOX_SIZES
        | {
            "use_parallel_residual": False,
            "rope_parameters": ROPE | {"partial_rotary_factor": 1.0},
            "hidden_act": "gelu_new",
        },
    ),
    "neox-d80": (
        "neox",
        NEOX_SIZES
        | {"hidden_size": 160, "num_attention_heads": 2, "rope_parameters": ROPE | {"partial_rotary_factor": 0.25}},
    ),
    "neox-d96-no-attention-bias": (
        "neox",
        NEOX_SIZES
        | {"hidden_size": 96, "num_attention_heads": 1, "attention_bias": False, "hidden_act": "silu"}
        | {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}, "tie_word_embeddings": True},
    ),
    "llama": ("llama", LLAMA_SIZES | {"num_key_value_heads": 6, "rope_parameters": ROPE}),
    "llama-gqa": ("llama", LLAMA_SIZES | {"rope_parameters": ROPE | {"rope_theta": 5e5}, "rms_norm_eps": 1e-5}),
    "llama-d128-biases-tied": (
        "llama",
        LLAMA_SIZES
        | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128, "hidden_size": 64}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": ROPE},
    ),
    "mistral": ("mistral", LLAMA_SIZES | {"sliding_window": None, "rope_parameters": ROPE}),
    "mistral-window": ("mistral", LLAMA_SIZES | {"sliding_window": 9, "rope_parameters": ROPE}),
}
CLASSES = {
    "neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
}


def randomized(name: str) -> Any:
    """A model of `transformers` whose every weight matters, norms and biases too."""
    family, sizes = HF[name]
    config_class, model_class = CLASSES[family]
    torch.manual_seed(0)
    model = model_class(config_class(**sizes, attn_implementation="eager")).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            fan = value.shape[1] ** 0.5 if value.ndim == 2 and "embed_" not in key else 1.0
            value.copy_(torch.randn_like(value) * (0.2 if value.ndim == 1 else 1.2 / fan))
            if "norm" in key and key.endswith("weight"):
                value.add_(1.0)
    return model


def sample(time: int = 37, vocab: int = 53, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    ids, targets = np.random.default_rng(seed).integers(0, vocab, (2, 2, time))
    return ids, targets


def hf_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.float().numpy()


@pytest.mark.parametrize("name", HF)
def test_import_gives_the_same_logits_and_gradients(name: str, tmp_path: Path) -> None:
    theirs = randomized(name)
    theirs.save_pretrained(tmp_path)
    ours = lc.Model.load(tmp_path)
    (ids, targets) = sample()
    logits = hf_logits(theirs, ids)
    assert np.abs(logits).max() > 1.0
    assert np.abs(ours.logits(ids) - logits).max() <= 1e-4

    exact = Twin(ours.config, ours.tensors(), torch.float64)
    assert np.abs(exact.logits(ids).detach().numpy() - logits).max() <= 1e-4
    loss = cross_entropy(theirs(torch.tensor(ids)).logits, targets)
    assert ours.loss(ids, targets) == pytest.approx(loss.item(), rel=2e-6)
    loss.backward()
    grads = {
        key.replace("lm_head", "embed_out") if "neox" in name else key: p.grad for key, p in theirs.named_parameters()
    }
    got, truth = ours.gradients(ids, targets), exact.gradients(ids, targets)
    assert got.keys() == grads.keys() == truth.keys()
    for key, want in truth.items():
        assert as_good(got[key], grads[key].numpy(), want, 3), key


@pytest.mark.parametrize("name", ["neox", "llama-gqa", "mistral-window"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_good_as_transformers(name: str, dtype: str, tmp_path: Path) -> None:
    theirs = randomized(name).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    ours = lc.Model.load(tmp_path, dtype=dtype)
    ids, _ = sample()
    exact = Twin(ours.config, ours.tensors(), torch.float64).logits(ids).detach().numpy()
    assert as_good(ours.logits(ids), hf_logits(theirs, ids), exact, 2)
    agreement = (ours.logits(ids).argmax(-1) == exact.argmax(-1)).mean()
    assert agreement >= (hf_logits(theirs, ids).argmax(-1) == exact.argmax(-1)).mean() - 0.05


@pytest.mark.parametrize("name", HF)
@pytest.mark.parametrize("shards", [False, True])
def test_export_opens_in_transformers_and_comes_back(name: str, shards: bool, tmp_path: Path) -> None:
    randomized(name).save_pretrained(tmp_path / "theirs", max_shard_size="20KB" if shards else "5GB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == shards
    first = lc.Model.load(tmp_path / "theirs")
    first.save(tmp_path / "ours", max_shard_bytes=20_000 if shards else 10**9)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists() == shards

    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    ids, _ = sample()
    assert np.abs(hf_logits(auto, ids) - first.logits(ids)).max() <= 1e-4
    np.testing.assert_array_equal(hf_logits(auto, ids), hf_logits(randomized(name), ids))

    auto.save_pretrained(tmp_path / "again")
    second = lc.Model.load(tmp_path / "again")
    assert second.config == first.config
    assert second.tensors().keys() == first.tensors().keys()
    for key, value in first.tensors().items():
        np.testing.assert_array_equal(value, second.tensors()[key])


def test_export_has_every_key_and_file(tmp_path: Path) -> None:
    lc.Model.from_spec(NEOX | {"activation": "gelu_new"}).save(tmp_path / "neox", dtype="bfloat16")
    lc.Model.from_spec(LLAMA).save(tmp_path / "llama")
    neox, llama = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("neox", "llama"))
    common = (
        "architectures model_type vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "hidden_act max_position_embeddings attention_bias tie_word_embeddings initializer_range attention_dropout "
        "bos_token_id eos_token_id rope_parameters torch_dtype dtype "
    )
    own = (
        "layer_norm_eps use_parallel_residual hidden_dropout rotary_pct rotary_emb_base",
        "num_key_value_heads head_dim rms_norm_eps rope_theta mlp_bias pad_token_id",
    )
    for config, keys in zip((neox, llama), own, strict=True):
        assert set((common + keys).split()) <= config.keys()
    assert neox["hidden_act"] == "gelu_new" and neox["dtype"] == neox["torch_dtype"] == "bfloat16"
    assert neox["rotary_pct"] == neox["rope_parameters"]["partial_rotary_factor"] == 0.25
    assert load_file(tmp_path / "llama" / "model.safetensors")["lm_head.weight"].dtype == np.float32
    assert (tmp_path / "llama" / "generation_config.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name not in ("neox", "llama")]
    assert (tmp_path / "llama" / "model.safetensors").stat().st_mode & 0o044


def test_hidden_act_can_follow_upstream(tmp_path: Path) -> None:
    model = lc.Model.from_spec(NEOX | {"activation": "gelu_new"})
    model.save(tmp_path / "out", hidden_act="gelu")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_act"] == "gelu"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_export_rounds_to_the_stored_dtype(dtype: str, tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    lc.Model.from_spec(LLAMA, tensors=tensors).save(tmp_path / "half", dtype=dtype)
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert auto.dtype == getattr(torch, dtype)
    for key, value in lc.Model.load(tmp_path / "half").tensors().items():
        np.testing.assert_array_equal(value, torch.tensor(tensors[key]).to(getattr(torch, dtype)).float().numpy())
    # A model held in that dtype is written in it, without being asked.
    lc.Model.load(tmp_path / "half", dtype=dtype).save(tmp_path / "again")
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("half", "again")]
    assert same[0] == same[1]


def test_missing_biases_are_written_as_zeros(tmp_path: Path) -> None:
    spec = NEOX | {"bias": {"norm": False, "attention": False, "mlp": False}}
    model = lc.Model.from_spec(spec, tensors=random_tensors(spec))
    model.save(tmp_path / "out")
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    ids, _ = sample(time=21, vocab=37)
    assert np.abs(hf_logits(auto, ids) - model.logits(ids)).max() <= 1e-4
    back = lc.Model.load(tmp_path / "out")
    assert back.config["bias"] == {"norm": True, "attention": False, "mlp": True}
    np.testing.assert_array_equal(back.logits(ids), model.logits(ids))


def test_token_ids_travel(tmp_path: Path) -> None:
    model = randomized("llama")
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = 1, [2, 7], 3
    model.generation_config = transformers.GenerationConfig.from_model_config(model.config)
    model.save_pretrained(tmp_path / "theirs")
    lc.Model.load(tmp_path / "theirs").save(tmp_path / "ours")
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert (auto.config.bos_token_id, auto.config.eos_token_id, auto.config.pad_token_id) == (1, [2, 7], 3)
    assert auto.generation_config.eos_token_id == [2, 7]


def test_a_tokenizer_travels_with_the_model(tmp_path: Path) -> None:
    tokenizer = lc.Tokenizer.from_bytes(model_bytes("unigram_nfkc"))
    spec = LLAMA | {"vocab_size": tokenizer.vocab_size + 12}
    model = lc.Model.from_spec(spec, tensors=random_tensors(spec))
    model.save(tmp_path / "out", tokenizer=tokenizer)
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (auto.config.bos_token_id, auto.config.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    text = "吾輩は猫である。"
    ids = spoken(text, add_special_tokens=False).input_ids
    assert ids == tokenizer.encode(text)
    out = auto.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=9, pad_token_id=0)[0].tolist()
    back = lc.Model.load(tmp_path / "out")
    assert back.generate(tokenizer, ids, max_new_tokens=9) == out
    assert back.generate(tokenizer, text, max_new_tokens=9).startswith(text)


# -- both generations of rotary keys --------------------------------------------------------------


def edit(folder: Path, change: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    for name in ("neox", "llama-gqa", "mistral"):
        randomized(name).save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in ("neox", "llama-gqa", "mistral")}


def test_rotary_keys_of_version_4(folders: dict[str, Path]) -> None:
    ids, _ = sample()
    for name, old in (
        ("neox", {"rotary_pct": 0.25, "rotary_emb_base": 10000, "rope_scaling": None}),
        ("llama-gqa", {"rope_theta": 500000.0, "rope_scaling": None}),
    ):
        new = lc.Model.load(folders[name]).logits(ids)

        def downgrade(config: dict[str, Any], old: dict[str, Any] = old) -> None:
            del config["rope_parameters"]
            config.update(old)

        edit(folders[name], downgrade)
        np.testing.assert_array_equal(lc.Model.load(folders[name]).logits(ids), new)


def test_defaults_are_those_of_transformers(folders: dict[str, Path]) -> None:
    ids, _ = sample()
    optional = (
        "rope_parameters rotary_pct layer_norm_eps use_parallel_residual attention_bias hidden_act tie_word_embeddings"
    )

    def strip(config: dict[str, Any]) -> None:
        for key in [*optional.split(), "rms_norm_eps", "rope_theta", "head_dim", "mlp_bias"]:
            config.pop(key, None)

    for name in ("neox", "llama-gqa"):
        edit(folders[name], strip)
        auto = transformers.AutoModelForCausalLM.from_pretrained(folders[name], attn_implementation="eager")
        assert np.abs(lc.Model.load(folders[name]).logits(ids) - hf_logits(auto, ids)).max() <= 1e-4


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("llama-gqa", {"rope_parameters": ROPE | {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.rope_type"),
        (
            "llama-gqa",
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.type",
        ),
        ("llama-gqa", {"rope_theta": 1e4, "rope_parameters": ROPE | {"rope_theta": 2e4}}, "rope_theta"),
        ("llama-gqa", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama-gqa", {"hidden_act": "gelu_10"}, "hidden_act"),
        ("llama-gqa", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "Qwen2ForCausalLM"),
        ("llama-gqa", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("llama-gqa", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama-gqa", {"num_key_value_heads": 4}, "num_kv_heads"),
        ("llama-gqa", {"num_hidden_layers": 3}, "model.layers.2"),
        ("llama-gqa", {"num_hidden_layers": 1}, "model.layers.1"),
        ("llama-gqa", {"intermediate_size": 111}, "mlp.gate_proj.weight"),
        ("llama-gqa", {"hidden_size": "48"}, "hidden_size"),
        ("llama-gqa", {"hidden_size": None}, "hidden_size"),
        ("llama-gqa", {"tie_word_embeddings": True}, "lm_head.weight"),
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        ("neox", {"rope_parameters": ROPE | {"partial_rotary_factor": 1.5}}, "rotary_pct"),
        ("neox", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.2}}, "rotary"),
        ("neox", {"attention_bias": False}, "attention.dense.bias"),
    ],
)
def test_unsupported_configs_are_refused_by_key(
    folders: dict[str, Path], name: str, change: dict[str, Any], words: str
) -> None:
    lc.Model.load(folders[name])
    edit(folders[name], lambda config: config.update(change))
    with pytest.raises(errors.UnsupportedModelError) as error:
        lc.Model.load(folders[name])
    assert words in str(error.value)
    assert str(folders[name]) in str(error.value) or words == "lm_head.weight"


@pytest.mark.parametrize("window", [8, 10])
def test_a_window_one_off_is_seen(window: int, tmp_path: Path) -> None:
    theirs = randomized("mistral-window")
    theirs.save_pretrained(tmp_path)
    assert lc.Model.load(tmp_path).config["sliding_window"] == 9
    edit(tmp_path, lambda config: config.update({"sliding_window": window}))
    ids, _ = sample()
    ours, logits = lc.Model.load(tmp_path).logits(ids), hf_logits(theirs, ids)
    first = min(window, 9)
    assert np.abs(ours - logits)[:, :first].max() <= 1e-4, "what no window has reached yet"
    assert np.abs(ours - logits)[:, first:].max() > 1e-2


def test_a_window_is_exported_as_mistral(tmp_path: Path) -> None:
    lc.Model.from_spec(LLAMA | {"sliding_window": 5}).save(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("mistral", ["MistralForCausalLM"])
    assert config["sliding_window"] == 5 and "mlp_bias" not in config
    lc.Model.from_spec(LLAMA).save(tmp_path / "plain")
    assert "sliding_window" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_a_window_as_long_as_the_positions_cuts_nothing(folders: dict[str, Path]) -> None:
    edit(folders["mistral"], lambda config: config.update({"sliding_window": 64}))
    ids, _ = sample(time=64)
    auto = transformers.AutoModelForCausalLM.from_pretrained(folders["mistral"], attn_implementation="eager")
    assert np.abs(lc.Model.load(folders["mistral"]).logits(ids) - hf_logits(auto, ids)).max() <= 1e-4


def test_pickles_are_refused_by_name(folders: dict[str, Path]) -> None:
    folder = folders["neox"]
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"):
        (folder / name).write_bytes(b"\x80\x04.")
        with pytest.raises(errors.UnsupportedModelError, match=name):
            lc.Model.load(folder)
        (folder / name).unlink()
    with pytest.raises(errors.UnsupportedModelError, match="holds neither"):
        lc.Model.load(folder)


def test_damaged_files_are_refused(folders: dict[str, Path]) -> None:
    folder = folders["llama-gqa"]
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for damaged in (
        b"",
        whole[:7],
        whole[: header - 1],
        whole[:-1],
        whole + b"\0",
        (2**60).to_bytes(8, "little") + whole[8:],
        whole[:8] + b"\xff" * 64 + whole[72:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(errors.UnsupportedModelError, match=r"model\.safetensors"):
            lc.Model.load(folder)
    path.write_bytes(whole)
    (folder / "config.json").write_text("{")
    with pytest.raises(errors.UnsupportedModelError, match=r"config\.json"):
        lc.Model.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(errors.FileError, match=r"config\.json"):
        lc.Model.load(folder)
    with pytest.raises(errors.FileError):
        lc.Model.load(folder / "absent")
    with pytest.raises(errors.UnsupportedModelError, match="folder"):
        lc.Model.load(path)


def test_foreign_tensors_are_refused_and_stray_buffers_ignored(folders: dict[str, Path]) -> None:
    path = folders["neox"] / "model.safetensors"
    tensors = load_file(path)
    stray = {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 4, 4), dtype=np.uint8),
        "gpt_neox.layers.0.attention.masked_bias": np.zeros(1, dtype=np.float32),
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq": np.zeros(2, dtype=np.float32),
    }
    ids, _ = sample()
    want = lc.Model.load(folders["neox"]).logits(ids)
    save_file(tensors | stray, path)
    np.testing.assert_array_equal(lc.Model.load(folders["neox"]).logits(ids), want)
    renamed = {name.replace("embed_out", "lm_head"): value for name, value in tensors.items()}
    save_file(renamed, path)
    np.testing.assert_array_equal(lc.Model.load(folders["neox"]).logits(ids), want)
    save_file(tensors | {"gpt_neox.layers.0.adapter.weight": np.zeros((2, 2), dtype=np.float32)}, path)
    with pytest.raises(errors.UnsupportedModelError, match=r"layers\.0\.adapter"):
        lc.Model.load(folders["neox"])
    save_file(tensors | {"embed_out.weight": tensors["embed_out.weight"].astype(np.float64)}, path)
    with pytest.raises(errors.UnsupportedModelError, match="F64"):
        lc.Model.load(folders["neox"])


def test_shards_stay_inside_the_folder(tmp_path: Path) -> None:
    randomized("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    original = json.loads(index.read_text())
    first = next(iter(original["weight_map"]))
    for name in ("../x.safetensors", "x.bin", 3):
        index.write_text(json.dumps(original | {"weight_map": original["weight_map"] | {first: name}}))
        with pytest.raises(errors.UnsupportedModelError, match="weight_map"):
            lc.Model.load(tmp_path)
    index.write_text(json.dumps(original))
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(errors.FileError, match="model-00002"):
        lc.Model.load(tmp_path)


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        (NEOX | {"position": "learned"}, ["pos_emb"]),
        (NEOX | {"num_kv_heads": 1}, ["num_kv_heads", "norm"]),
        (NEOX | {"gated": True, "activation": "gelu"}, ["activation"]),
        (LLAMA | {"activation": "gelu"}, ["activation"]),
        (LLAMA | {"parallel_residual": True}, ["gpt_j_residual"]),
        (LLAMA | {"position": {"rotary": {"ndims": 4, "base": 1e4}}}, ["rotary_pct"]),
        (LLAMA | {"gated": False}, ["activation"]),
        (LLAMA | {"sliding_window": 5, "activation": "gelu"}, ["activation"]),
        (LLAMA | {"sliding_window": 5, "bias": {**LLAMA["bias"], "mlp": True}}, ["use_bias_in_mlp"]),
        (NEOX | {"sliding_window": 5}, ["norm", "activation"]),
    ],
)
def test_export_refuses_what_no_class_computes(spec: dict[str, Any], keys: list[str], tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModelError) as error:
        lc.Model.from_spec(spec).save(tmp_path / "out")
    assert all(f"`{key}`" in str(error.value) for key in keys)
    assert not list(tmp_path.iterdir())


def test_export_replaces_only_when_asked(tmp_path: Path) -> None:
    first, second = (lc.Model.from_spec(LLAMA, seed=seed) for seed in (1, 2))
    first.save(tmp_path / "out")
    with pytest.raises(errors.FileError, match="overwrite"):
        second.save(tmp_path / "out")
    np.testing.assert_array_equal(lc.Model.load(tmp_path / "out").logits([[1]]), first.logits([[1]]))
    second.save(tmp_path / "out", overwrite=True)
    np.testing.assert_array_equal(lc.Model.load(tmp_path / "out").logits([[1]]), second.logits([[1]]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.FileError):
        second.save(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    second.save(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine", "out"]


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk."""
    code = f"""
import resource, signal
import llmjp_core as lc
from decoder_twin import LLAMA
model = lc.Model.from_spec(LLAMA)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    model.save({str(tmp_path / "out")!r})
except lc.errors.FileError as error:
    assert "model.safetensors" in str(error.filename), error
    print("refused")
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    assert not list(tmp_path.iterdir())


def test_import_does_not_depend_on_transformers_or_torch(tmp_path: Path) -> None:
    shutil.copytree(_saved(tmp_path), tmp_path / "copy")
    code = f"import sys, llmjp_core as lc; lc.Model.load({str(tmp_path / 'copy')!r}).save({str(tmp_path / 'new')!r}); "
    code += "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def _saved(tmp_path: Path) -> Path:
    lc.Model.from_spec(LLAMA).save(tmp_path / "saved")
    return tmp_path / "saved"
