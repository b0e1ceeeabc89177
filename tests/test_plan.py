"""`lc.config.plan`: counts against transformers' own models on the meta device, and arithmetic by hand."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import llmjp_core as lc
from llmjp_core.commands import plan as plan_command

REPOSITORY = Path(__file__).resolve().parent.parent
PRESETS = sorted(path.name for path in (REPOSITORY / "configs").glob("*.yml"))
EXPECTED = [
    "125M.yml", "13b.yml", "7b.yml", "llm-jp-13b-v2.yml", "llm-jp-3-1.8b.yml", "llm-jp-3-13b.yml", "llm-jp-3-172b.yml",
    "llm-jp-3-3.7b.yml", "llm-jp-3-7.2b.yml", "llm-jp-3-980m.yml", "quickstart-llama.yml", "ridge-i-1.3b.yml",
    "ridge-i-2.7b.yml",
]  # fmt: skip

SMALL: dict[str, Any] = {
    "num_layers": 3, "hidden_size": 48, "num_attention_heads": 4, "seq_length": 32, "max_position_embeddings": 64,
    "vocab_size": 500, "pos_emb": "rotary", "no_weight_tying": True, "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 3, "train_iters": 10,
}  # fmt: skip


def preset(name: str) -> dict[str, Any]:
    """Resolves a file of `configs/`; the quickstart's tokenizer is made by its command, so its size is given here."""
    path = REPOSITORY / "configs" / name
    keys = path.read_text("utf-8")
    overrides = {} if "vocab_size:" in keys else {"vocab_size": 6000, "vocab_file": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lc.config.load(path, overrides=overrides)


def transformers_parameters(config: dict[str, Any]) -> int:
    """Parameters of the same model in transformers, without memory; built from the resolved keys alone."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    shape = {
        "num_hidden_layers": config["num_layers"],
        "hidden_size": config["hidden_size"],
        "num_attention_heads": config["num_attention_heads"],
        "intermediate_size": config["ffn_hidden_size"],
        "vocab_size": config["padded_vocab_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "tie_word_embeddings": not config["no_weight_tying"],
        "attention_bias": config["use_bias_in_attn_linear"],
    }
    with torch.device("meta"):
        if config["norm"] == "rmsnorm":
            assert config["activation"] == "swiglu"
            llama = {"num_key_value_heads": config["num_kv_heads"], "mlp_bias": config["use_bias_in_mlp"]}
            model = LlamaForCausalLM(LlamaConfig(**shape, **llama))
        else:
            assert config["activation"] in ("gelu", "silu") and config["use_bias_in_mlp"]
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape))
    return sum(parameter.numel() for parameter in model.parameters())


def test_all_presets_are_here() -> None:
    assert set(EXPECTED) <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_parameters_that_transformers_counts(name: str) -> None:
    config = preset(name)
    plan = lc.config.plan(config)
    assert plan["parameters"]["total"] == transformers_parameters(config)
    parts = ("embedding", "position_embedding", "non_embedding", "output")
    assert sum(plan["parameters"][part] for part in parts) == plan["parameters"]["total"]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("125M.yml", 0.1623), ("ridge-i-1.3b.yml", 1.414), ("ridge-i-2.7b.yml", 2.774), ("7b.yml", 6.854),
        ("13b.yml", 13.10), ("llm-jp-13b-v2.yml", 13.68), ("llm-jp-3-980m.yml", 0.990), ("llm-jp-3-1.8b.yml", 1.868),
        ("llm-jp-3-3.7b.yml", 3.783), ("llm-jp-3-7.2b.yml", 7.292), ("llm-jp-3-13b.yml", 13.71),
        ("llm-jp-3-172b.yml", 172.4),
    ],
)  # fmt: skip
def test_presets_have_the_size_of_their_name(name: str, billions: float) -> None:
    total = lc.config.plan(preset(name))["parameters"]["total"]
    assert total / 1e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize("name", ["ridge-i-1.3b.yml", "ridge-i-2.7b.yml", "7b.yml", "13b.yml"])
def test_one_key_switches_the_precision(name: str) -> None:
    path = REPOSITORY / "configs" / name
    assert lc.config.load(path)["precision"] == "bfloat16"
    half = lc.config.load(path, overrides={"precision": "fp16"})
    assert half["precision"] == "fp16" and half["fp16"]["enabled"] and half["fp16"]["initial_scale_power"] == 12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"no_weight_tying": False},
        {"use_bias_in_attn_linear": False, "gpt_j_residual": True, "rotary_pct": 0.5},
        {"norm": "rmsnorm", "activation": "swiglu", "ffn_hidden_size": 100, "num_kv_heads": 2,
         "use_bias_in_attn_linear": False, "use_bias_in_mlp": False},
        {"norm": "rmsnorm", "activation": "swiglu", "ffn_hidden_size": 77, "num_kv_heads": 1},
    ],
)  # fmt: skip
def test_switches_change_the_count_as_in_transformers(changes: dict[str, Any]) -> None:
    config = lc.config.load(SMALL, overrides=changes)
    total = lc.config.plan(config)["parameters"]["total"]
    assert total == transformers_parameters(config)
    assert total != transformers_parameters({**config, "ffn_hidden_size": config["ffn_hidden_size"] + 1})


def test_learned_positions_are_counted() -> None:
    rotary = lc.config.plan(SMALL)["parameters"]
    learned = lc.config.plan(SMALL, overrides={"pos_emb": "learned"})["parameters"]
    assert learned["position_embedding"] == 64 * 48 == learned["total"] - rotary["total"]


def test_memory_figures_of_the_field() -> None:
    """18 bytes a parameter in half precision: 1.3B is about 24 GB, 7B 126, 13B 234 (before activations)."""
    for name, gigabytes in [("ridge-i-1.3b.yml", 24), ("ridge-i-2.7b.yml", 49), ("7b.yml", 126), ("13b.yml", 234)]:
        memory = lc.config.plan(preset(name))["bytes"]
        states = memory["total"] - memory["activations"]
        assert states / 1e9 == pytest.approx(gigabytes, rel=0.07)
        assert memory["weights"] * 2 == memory["masters"] == memory["gradients"] == memory["moments"] / 2
    cards = {card["card"]: card["fits"] for card in lc.config.plan(preset("ridge-i-1.3b.yml"))["fits"]}
    assert cards == {"24 GB": False, "40 GB": True, "80 GB": True}
    cards = {card["card"]: card["fits"] for card in lc.config.plan(preset("ridge-i-2.7b.yml"))["fits"]}
    assert cards == {"24 GB": False, "40 GB": False, "80 GB": True}


def test_fp32_has_no_separate_masters() -> None:
    memory = lc.config.plan(SMALL)["bytes"]
    assert memory["masters"] == 0 and memory["weights"] == memory["gradients"]


def test_flops_by_three_conventions() -> None:
    plan = lc.config.plan(preset("llm-jp-3-1.8b.yml"))
    h, layers, s, vocabulary = 2048, 24, 4096, 99584
    dense = 6 * plan["parameters"]["non_embedding"] + 6 * h * vocabulary
    flops = plan["flops_per_token"]
    assert flops["full"] == pytest.approx(dense + 12 * layers * h * s)
    assert flops["causal"] == pytest.approx(dense + 6 * layers * h * s)
    neox = 24 * 4 * layers * h * h * (1 + s / (6 * h) + vocabulary / (16 * layers * h))  # 4: with recompute
    assert flops["neox"] == pytest.approx(neox)
    assert set(plan["conventions"]) == set(flops)


def test_batch_and_tokens() -> None:
    batch = lc.config.plan(SMALL)["batch"]
    assert batch["tokens_per_step"] == 6 * 32 and batch["tokens"] == 6 * 32 * 10
    epochs = lc.config.plan(SMALL, overrides={"train_iters": None, "train_epochs": 1})["batch"]
    assert epochs["tokens"] is None and epochs["tokens_per_parameter"] is None


def test_activations_are_what_training_allocates() -> None:
    """More tokens need more, in proportion; recompute needs less; half precision less than full."""
    one = lc.config.plan(SMALL)["bytes"]["activations"]
    two = lc.config.plan(SMALL, overrides={"train_micro_batch_size_per_gpu": 4})["bytes"]["activations"]
    assert two == 2 * one
    wide = {"num_layers": 16, "hidden_size": 256}
    kept = lc.config.plan(SMALL, overrides=wide)["bytes"]["activations"]
    again = lc.config.plan(SMALL, overrides={**wide, "checkpoint_activations": True})["bytes"]["activations"]
    half = lc.config.plan(SMALL, overrides={**wide, "precision": "bfloat16"})["bytes"]["activations"]
    assert again < kept / 2 and half < kept


def test_suggestions() -> None:
    assert "24 GB holds this run as it is" in lc.config.plan(SMALL)["suggestion"]
    kept = {"checkpoint_activations": False, "train_micro_batch_size_per_gpu": 32, "gradient_accumulation_steps": 4}
    plan = lc.config.plan(preset("ridge-i-1.3b.yml"), overrides={**kept, "train_batch_size": None})
    assert [card["fits"] for card in plan["fits"]] == [False, False, False]
    assert "checkpoint_activations: true with checkpoint_num_layers" in plan["suggestion"]
    assert "no single card holds them" in lc.config.plan(preset("13b.yml"))["suggestion"]
    many = {**kept, "train_micro_batch_size_per_gpu": 4096, "train_batch_size": None}
    assert "Activations are too many" in lc.config.plan(preset("ridge-i-1.3b.yml"), overrides=many)["suggestion"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    plan_command.add_parser(parser.add_subparsers(dest="command"))
    path = str(REPOSITORY / "configs" / "llm-jp-3-172b.yml")
    assert plan_command.run(parser.parse_args(["plan", path])) == 0
    table = capsys.readouterr().out
    assert "172,394,557,440" in table and "too small" in table and "6N + 6hV + 12Lhs" in table
    assert plan_command.run(parser.parse_args(["plan", "--json", path, "num_layers=2"])) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == lc.config.plan(path, overrides={"num_layers": 2})
    assert plan_command.run(parser.parse_args(["plan"])) == 2
