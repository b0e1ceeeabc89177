"""`lc.config.load`: merging, overrides, every key, every derived value, the resolved mapping, the command."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_cases import BASE, THREE, Write, load, refused, writer

import llmjp_core as lc
from llmjp_core.commands import config as config_command
from llmjp_core.errors import ConfigError, LlmjpError


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


# --- merging and overrides


def test_keys_of_several_files_are_united(write: Write, tmp_path: Path) -> None:
    model = write("model.yml", train_iters=None)
    rest = write("rest.yml", base={}, train_iters=7, log_interval=3)
    config = load(model, rest)
    assert (config["train_iters"], config["log_interval"]) == (7, 3)
    assert load(tmp_path / "model", tmp_path / "rest") == config  # `.yml` is appended


def test_a_key_twice(write: Write, tmp_path: Path) -> None:
    first, second = write("a.yml"), write("b.yml", base={}, train_iters=5)
    message = refused(first, second)
    assert re.search(r'b\.yml:1:1: key "train_iters" stands already at .*a\.yml:9:1', message)
    dashed = tmp_path / "dashed.yml"
    dashed.write_text("train-iters: 5\n", "utf-8")
    assert re.search(r'dashed\.yml:1:1: key "train_iters" \(written "train-iters"\)', refused(first, dashed))
    assert "stands already" in refused(write("c.yml", text="train-iters: 5\n"))


def test_two_files_of_one_name(write: Write, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = write("a.yml")
    second = tmp_path / "other" / "a.yml"
    second.write_text("log_interval: 1\n", "utf-8")
    assert "same name" in refused(first, second)


def test_overrides_win_and_may_be_dotted(write: Write) -> None:
    path = write(fp16={"enabled": True, "initial_scale_power": 12})
    config = lc.config.load(
        path,
        overrides={
            "train-iters": 500,
            "optimizer.params.lr": 0.01,
            "optimizer.params.betas": [0.8, 0.9],
            "fp16.enabled": False,
            "bf16.enabled": True,
            "train_micro_batch_size_per_gpu": None,
            "train_batch_size": 6,
        },
    )
    assert config["train_iters"] == 500 and config["lr_decay_iters"] == 500
    assert config["optimizer"]["params"] == {"lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-8}
    assert config["precision"] == "bfloat16" and config["fp16"]["initial_scale_power"] == 12
    assert config["train_micro_batch_size_per_gpu"] == 6


def test_overrides_are_checked_like_files(write: Write) -> None:
    path = write()
    assert 'override "num_layer": unknown key' in refused(path, num_layer=3)
    assert 'override "train_iters": "train_iters" must be' in refused(path, train_iters="many")
    assert "holds no keys" in refused(path, **{"train_iters.x": 1})
    with pytest.raises(ConfigError, match="given twice"):
        lc.config.load(path, overrides={"train_iters": 1, "train-iters": 2})
    with pytest.raises(ConfigError, match="no configuration can hold"):
        lc.config.load(path, overrides={"warmup": float("nan")})
    with pytest.raises(ConfigError, match="no configuration can hold"):
        lc.config.load(path, overrides={"warmup": object()})


def test_paths_and_numpy_numbers_as_values(write: Write, tmp_path: Path) -> None:
    import numpy as np

    config = load(write(checkpoint_factor=5), save=tmp_path, train_iters=np.int64(7))
    assert config["save"] == str(tmp_path) and config["train_iters"] == 7


# --- keys


def test_every_key_of_gpt_neox_is_known_with_its_default() -> None:
    table = lc.config.keys()
    ours = {key.name: key for key in table}
    changed = {
        "gradient_accumulation_steps": "null",  # so that it can be derived
        "clip_grad": "null",  # derived
        "optimizer_type": "null",  # derived
    }
    for line in (Path(__file__).parent / "golden" / "neox_keys.tsv").read_text("utf-8").splitlines():
        name, default = line.split("\t")
        assert name in ours, name
        assert yaml.safe_load(ours[name].default) == json.loads(changed.get(name, default)), name


def test_the_reference_page_is_the_table(repository: Path) -> None:
    assert (repository / "docs" / "config.md").read_text("utf-8") == lc.config.reference()


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("num_layer", "num_layers"),
        ("hiddn_size", "hidden_size"),
        ("train_iter", "train_iters"),
        ("checkpoint_activation", "checkpoint_activations"),
        ("learning_rate", "optimizer.params.lr"),
        ("betas", "optimizer.params.betas"),
        ("num_key_value_heads", "num_kv_heads"),
        ("rope_theta", "rotary_emb_base"),
    ],
)
def test_typos_get_the_nearest_key(wrong: str, near: str, write: Write) -> None:
    message = refused(write(**{wrong: 1}))
    assert re.search(rf'run\.yml:11:1: unknown key "{wrong}"; did you mean "{re.escape(near)}"\?', message)


def test_nested_keys_are_checked_too(write: Write) -> None:
    message = refused(write(optimizer={"type": "Adam", "params": {"lr": 0.1, "beta": [0.9, 0.9]}}, fp16={"enable": 1}))
    assert 'unknown key "optimizer.params.beta"; did you mean "optimizer.params.betas"?' in message
    assert 'unknown key "fp16.enable"; did you mean "fp16.enabled"?' in message  # all problems at once


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("num_layers", "two", 'a whole number, 1 or more, got the text "two"'),
        ("num_layers", 2.0, r"a whole number, 1 or more \(write 2\), got the number 2"),
        ("train_iters", "1e3", r'a whole number, 1 or more \(write 1000\), got the text "1e3"'),
        ("num_layers", 0, "a whole number, 1 or more, got the whole number 0"),
        ("num_layers", True, "a whole number, 1 or more, got the truth value true"),
        ("num_layers", 10**30, "a whole number"),
        ("warmup", 1.5, "a number from 0 to 1"),
        ("warmup", "half", 'a number from 0 to 1, got the text "half"'),
        ("min_lr", -1, "a number, 0 or more"),
        ("norm", "rmsnrm", "one of layernorm, rmsnorm"),
        ("norm", "scalenorm", "GPT-NeoX knows this one"),
        ("norm", 3, "one of layernorm, rmsnorm"),
        ("use_bias_in_mlp", "true", 'true or false, got the text "true"'),
        ("use_bias_in_mlp", 1, "true or false, got the whole number 1"),
        ("wandb_group", 2024, r"a text \(put it in quotes\), got the whole number 2024"),
        ("extra_save_iters", [1, "x"], "a list of whole numbers"),
        ("extra_save_iters", 5, "a list of whole numbers"),
        ("train_data_paths", "a", "a list of texts"),
        ("fp16", True, "a mapping, got the truth value true"),
        ("optimizer", [], "a mapping, got a list of 0"),
    ],
)
def test_wrong_types_name_place_key_wanted_and_got(key: str, value: Any, wanted: str, write: Write) -> None:
    path = write(**{key: value})
    line = list({**BASE, key: value}).index(key) + 1
    assert re.search(rf'run\.yml:{line}:{len(key) + 3}: "{key}" must be .*{wanted}', refused(path)), refused(path)


def test_keys_without_effect_are_named_once(write: Write) -> None:
    changes = {"hostfile": "/mock", "steps_per_print": 5, "zero_optimization": {"stage": 1, "overlap_comm": True}}
    with pytest.warns(UserWarning) as caught:
        config = lc.config.load(write(**changes, rope_fusion=False))
    [warning] = [str(warning.message) for warning in caught]
    assert warning.endswith("hostfile, steps_per_print, zero_optimization.overlap_comm")
    assert config["hostfile"] == "/mock" and "launcher" not in config


def test_every_refused_key_passes_with_its_default_and_is_refused_otherwise(tmp_path: Path) -> None:
    other: dict[str, Any] = {"bool": None, "text": "x", "list": ["x"], "mapping": {"enabled": True}, "any": "x"}
    table = lc.config.keys()
    refused_keys = [key for key in table if key.group == "refused"]
    assert len(refused_keys) > 80
    for key in refused_keys:
        default = yaml.safe_load(key.default)
        value = other.get(key.type, 77)
        if key.type == "bool":
            value = not default
        section = {"optimizer": {"optimizer.params.lr": 0.1}, "fp16": {"fp16.enabled": True}}
        changes = {**section.get(key.name.split(".")[0], {}), key.name: value}
        message = refused(BASE, **changes)
        assert f'"{key.name}" is refused: {key.note}' in message
        load(BASE, **{**changes, key.name: default})


def test_sections_that_are_switched_off_are_not_refused(write: Write) -> None:
    with pytest.warns(UserWarning, match=r"curriculum_learning"):
        lc.config.load(write(curriculum_learning={"enabled": False, "min": 8}))


def test_deepspeed_extra_args_may_hold_what_has_no_effect() -> None:
    with pytest.warns(UserWarning, match="deepspeed_extra_args"):
        lc.config.load(BASE, overrides={"deepspeed_extra_args": {"comms_logger": {"enabled": True}}})
    message = refused(BASE, deepspeed_extra_args={"bf16": {"enabled": True}})
    assert 'holds "bf16", which would change the run' in message


def test_the_engines_keys() -> None:
    for key in ("pipe_parallel_size", "model_parallel_size", "num_nodes", "num_gpus", "world_size"):
        load(BASE, **{key: 1})
        assert "need a distributed engine" in refused(BASE, **{key: 2})
    assert "need" in refused(BASE, **{"zero_optimization.stage": 2})
    assert load(BASE, **{"zero_optimization.stage": 1})["zero_optimization"] == {"stage": 1}


# --- derived values


@pytest.mark.parametrize(
    ("step", "micro", "accumulation", "wanted"),
    [
        (None, 4, None, (4, 4, 1)),
        (None, 4, 8, (32, 4, 8)),
        (32, 4, None, (32, 4, 8)),
        (32, None, None, (32, 32, 1)),
        (32, None, 4, (32, 8, 4)),
        (32, 4, 8, (32, 4, 8)),
    ],
)
def test_batch(step: int | None, micro: int | None, accumulation: int | None, wanted: tuple[int, int, int]) -> None:
    config = load(
        BASE,
        train_batch_size=step,
        train_micro_batch_size_per_gpu=micro,
        gradient_accumulation_steps=accumulation,
    )
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert tuple(config[key] for key in keys) == wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "fp32"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"bf16": {"enabled": True}}, "bfloat16"),
        ({"precision": "bfloat16"}, "bfloat16"),
        ({"precision": "FP16"}, "fp16"),
        ({"precision": "fp16", "fp16": {"enabled": False, "initial_scale_power": 9}}, "fp16"),
        ({"fp16": {"enabled": False}}, "fp32"),
        ({"precision": "fp16", "fp16": {"enabled": True, "type": "fp16"}}, "fp16"),
    ],
)
def test_precision(changes: dict[str, Any], wanted: str) -> None:
    config = load(BASE, **changes)
    assert config["precision"] == wanted
    assert config["fp16"]["enabled"] == (wanted == "fp16") and config["bf16"]["enabled"] == (wanted == "bfloat16")


@pytest.mark.parametrize(
    ("intermediate", "multiple", "width"),
    [
        (32768, 256, 11008),
        (40960, 256, 13824),
        (86016, 256, 28672),
        (43008, 256, 14336),
        (6144, 1, 2048),
    ],
)
def test_golden_widths_of_gated_mlps(intermediate: int, multiple: int, width: int) -> None:
    gated = {"activation": "swiglu", "mlp_multiple_of": multiple}
    assert load(BASE, **gated, intermediate_size=intermediate)["ffn_hidden_size"] == width
    assert load(BASE, **gated, ffn_hidden_size=width)["ffn_hidden_size"] == width
    assert load(BASE, **gated, ffn_hidden_size=width, intermediate_size=intermediate)["ffn_hidden_size"] == width


def test_other_widths() -> None:
    assert load(BASE)["ffn_hidden_size"] == 256
    assert load(BASE, expansion_factor=2.5)["ffn_hidden_size"] == 160
    assert load(BASE, intermediate_size=100, mlp_multiple_of=64)["ffn_hidden_size"] == 128
    message = refused(BASE, activation="swiglu", intermediate_size=14336)
    assert "9558 rows" in message and "twice 4778" in message and "ffn_hidden_size" in message


@pytest.mark.parametrize(
    ("tokens", "divisor", "padded"),
    [
        (50257, 128, 50304),
        (50570, 128, 50688),
        (50000, 128, 50048),
        (50277, 256, 50432),
        (99574, 512, 99840),
        (32000, 1, 32000),
    ],
)
def test_padded_vocabularies(tokens: int, divisor: int, padded: int) -> None:
    config = load(BASE, vocab_size=tokens, make_vocab_size_divisible_by=divisor)
    assert (config["vocab_size"], config["padded_vocab_size"]) == (tokens, padded)


def test_schedule_lengths() -> None:
    assert load(BASE)["lr_decay_iters"] == 100
    with pytest.warns(UserWarning, match=r'"lr_decay_fraction" gives 995 steps .* train_iters 1000'):
        config = lc.config.load(BASE, overrides={"lr_decay_fraction": 0.9955, "train_iters": 1000})
    assert config["lr_decay_iters"] == 995
    config = load(BASE, lr_warmup_iters=7, lr_decay_style="wsd", lr_wsd_decay_iters=20)
    assert (config["lr_warmup_iters"], config["warmup"], config["lr_wsd_decay_iters"]) == (7, None, 20)
    assert load(BASE, train_iters=None, train_epochs=2)["lr_decay_iters"] is None
    with pytest.warns(UserWarning, match="stays at its end"):
        lc.config.load(BASE, overrides={"lr_decay_iters": 50})


def test_weight_decay_of_the_top_wins() -> None:
    inner = {"optimizer.params.weight_decay": 0.3}
    assert load(BASE, **inner)["weight_decay"] == 0.3
    with pytest.warns(UserWarning, match="overruled"):
        assert lc.config.load(BASE, overrides={**inner, "weight_decay": 0.2})["weight_decay"] == 0.2


def test_small_derivations() -> None:
    assert load(BASE)["text_gen_type"] == "unconditional"
    assert load(BASE, sample_input_file="p.txt")["text_gen_type"] == "input-file"
    lists = {f"{part}_data_paths": ["a", "b"] for part in ("train", "valid", "test")}
    assert load(BASE, **lists)["valid_data_weights"] == [1.0, 1.0]
    assert load({key: value for key, value in BASE.items() if key != "optimizer"})["optimizer"] == {
        "type": "Adam",
        "params": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8},
    }
    assert load(BASE, attention_config=[[["flash"], "all"]], num_kv_heads=2)["num_kv_heads"] == 2
    with pytest.warns(UserWarning, match="same as Adam"):
        lc.config.load(BASE, overrides={"optimizer.type": "cpu_adam"})


# --- vocabulary from files


def test_sentencepiece_files(shared: Path) -> None:
    name = shared / "data" / "tokenizers" / "made" / "own_uni50k.model"
    keys = {"tokenizer_type": "SPMTokenizer", "vocab_file": str(name), "vocab_size": None}
    message = refused(BASE, **keys)
    assert 'has no piece "<|endoftext|>"; name its end-of-document piece as "eod_token"' in message
    config = load(BASE, **keys, eod_token="</s>", eod_mask_loss=True)
    assert (config["vocab_size"], config["padded_vocab_size"]) == (50000, 50048)
    assert load(BASE, **{**keys, "vocab_size": 50100}, eod_token="</s>")["padded_vocab_size"] == 50176
    assert "is less than the 50000 tokens" in refused(BASE, **{**keys, "vocab_size": 49999}, eod_token="</s>")


def test_hugging_face_and_gpt2_files(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    added = ["<|endoftext|>", "<|padding|>", "b"]
    for name, model in [
        ("bpe", models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])),
        ("unigram", models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0)),
    ]:
        tokenizer = Tokenizer(model)
        tokenizer.add_special_tokens(added)
        file = tmp_path / f"{name}.json"
        tokenizer.save(str(file))
        config = load(BASE, tokenizer_type="HFTokenizer", vocab_file=file, vocab_size=None)
        assert config["vocab_size"] == tokenizer.get_vocab_size() == 5
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps({"a": 0, "<|endoftext|>": 1}), "utf-8")
    assert load(BASE, vocab_file=vocab, vocab_size=None)["vocab_size"] == 2
    assert load(BASE, vocab_size=None, tokenizer_type="CharLevelTokenizer")["vocab_size"] == 512
    for content in ("[", "{}", '{"a": "b"}', "[1]"):
        vocab.write_text(content, "utf-8")
        with pytest.raises(LlmjpError) as error:
            lc.config.load(BASE, overrides={"vocab_file": vocab, "vocab_size": None})
        assert "vocab.json" in str(error.value)


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    message = refused(BASE, vocab_file="absent.model", vocab_size=None)
    assert '"absent.model" does not exist; correct the path, or set "vocab_size"' in message
    with pytest.warns(UserWarning, match="is taken as it is"):
        lc.config.load(BASE, overrides={"vocab_file": "absent.model"})


# --- the resolved mapping


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fp16": {"enabled": True}, "zero_optimization": {"stage": 1}, "lr_decay_fraction": 0.5},
        {"activation": "swiglu", "intermediate_size": 192, "lr_warmup_iters": 3, "train_batch_size": 8},
        {"train_iters": None, "train_epochs": 3, "expansion_factor": 3.0, "data_path": "x"},
        {**THREE, "checkpoint_factor": 1.5, "checkpoint_scale": "log", "save": "s", "prompt_end": "\n日本\t"},
    ],
)
def test_a_resolved_mapping_resolves_to_itself(changes: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = lc.config.load(BASE, overrides=changes)
        assert lc.config.load(config) == config
    text = lc.config.to_yaml(config)
    assert yaml.load(text, Loader=yaml.FullLoader) == config  # also in YAML 1.1
    path = tmp_path / "resolved.yml"
    path.write_text(text, "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert lc.config.load(path) == config
    assert list(config) == sorted(config)


def test_the_dump_is_the_same_in_every_process(write: Write) -> None:
    path = write(fp16={"enabled": True, "hysteresis": 2, "loss_scale": 0})
    code = "import sys, llmjp_core as lc; print(lc.config.to_yaml(lc.config.load(sys.argv[1])))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


# --- the command


def command(module: Any, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers(dest="command"))
    args = parser.parse_args(arguments)
    code: int = module.run(args)
    return code


def test_the_command_prints_yaml_json_and_the_reference(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    assert command(config_command, "config", str(path), "train_iters=7", "optimizer.params.lr=1e-2") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    config = yaml.safe_load(printed.out)
    assert config["train_iters"] == 7 and config["optimizer"]["params"]["lr"] == 0.01
    folder = ["-d", str(path.parent), "run"]
    assert command(config_command, "config", *folder, "train_iters=7", "optimizer.params.lr=1e-2", "--json") == 0
    assert json.loads(capsys.readouterr().out) == config
    assert command(config_command, "config", "--keys") == 0
    assert capsys.readouterr().out == lc.config.reference()
    assert command(config_command, "config", str(path), "hostfile=x") == 0
    assert "warning: keys without effect here" in capsys.readouterr().err
    assert command(config_command, "config") == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=1", ("a", 1)),
        ("a=1e-5", ("a", 1e-5)),
        ("a.b=0.5", ("a.b", 0.5)),
        ("a=", ("a", None)),
        ("a=true", ("a", True)),
        ("a=x=y", ("a", "x=y")),
        ("a={enabled: true, n: [1, 2]}", ("a", {"enabled": True, "n": [1, 2]})),
        ('a="1"', ("a", "1")),
        ("a=969, 30, 1", ("a", "969, 30, 1")),
        ("a=日本", ("a", "日本")),
    ],
)
def test_overrides_of_the_command_line(text: str, wanted: tuple[str, Any]) -> None:
    assert lc.config.parse_override(text) == wanted


def test_overrides_that_are_none() -> None:
    for text in ("a", "=1", "a=[1", "a=b: c: d"):
        with pytest.raises(ConfigError, match="override"):
            lc.config.parse_override(text)
