"""`lc.config.load`: YAML as PyYAML reads it, every key, every derived value, every refusal."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmjp_core as lc
from llmjp_core.commands import config as config_command
from llmjp_core.errors import ConfigError, FileError, LlmjpError, TokenizerError

BASE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 16,
    "max_position_embeddings": 32,
    "vocab_size": 1000,
    "pos_emb": "rotary",
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 100,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
}

Write = Callable[..., Path]


def flow(value: Any) -> str:
    """One line of YAML 1.1."""
    return yaml.dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes BASE with changes, one key a line, and raw text; `None` leaves a key out."""

    def write(name: str = "run.yml", text: str = "", base: dict[str, Any] = BASE, **changes: Any) -> Path:
        keys = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path = tmp_path / name
        path.write_text("".join(f"{key}: {flow(value)}\n" for key, value in keys.items()) + text, "utf-8")
        return path

    return write


def load(*sources: Any, **overrides: Any) -> dict[str, Any]:
    """Loads and forbids warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lc.config.load(*sources, overrides=overrides)


def base(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**BASE, **changes}.items() if value is not None}


def refused(*sources: Any, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as error:
        lc.config.load(*sources, overrides=overrides)
    return str(error.value)


# --- YAML 1.1, with PyYAML as the oracle


def value_of(path: Path, text: str) -> Any:
    """What a scalar or tree is read as, seen through a key that takes anything."""
    keys = "".join(f"{key}: {json.dumps(value)}\n" for key, value in BASE.items())
    path.write_text(f"{keys}communication_data_type: {text}\n", "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lc.config.load(path).get("communication_data_type")


def oracle(text: str) -> Any:
    return yaml.load(f"x: {text}\n", Loader=yaml.FullLoader)["x"]


SCALARS = """1e-5 6e4 1E-5 2.0e5 1.0e-5 .97e-4 1.e-8 1.0E+5 yes on Off no true True TRUE false y n 010 08 0o10 0x1F 0b11
1_000 1_0.5 12:30 1:30.5 190:20:30 -010 +12 -1.5 +.5 .5 5. ~ null Null <<x a:b 'it''s' "1" '010' "a\\tb" [1,2,] {a: 1,}
[[[flash],2]] -0 0 0x 1__0 12:60 =x @x""".split()


@pytest.mark.parametrize("text", [scalar for scalar in SCALARS if scalar not in ("0x", "@x", "{a:", "1,}")])
def test_scalars_are_read_as_pyyaml_reads_them(text: str, tmp_path: Path) -> None:
    assert value_of(tmp_path / "a.yml", text) == oracle(text)
    assert type(value_of(tmp_path / "a.yml", text)) is type(oracle(text))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("0123456789_.+-eExbo:aAnNfFiIuUlLtTrRsSyYoO~", min_size=1, max_size=8))
def test_any_plain_scalar_is_read_as_pyyaml_reads_it(tmp_path: Path, text: str) -> None:
    try:
        wanted = oracle(text)
    except (yaml.YAMLError, ValueError):  # PyYAML cannot, as `0b_`, or it is no scalar
        return
    if isinstance(wanted, (dict, list)) or not isinstance(wanted, (bool, int, float, str, type(None))):
        return  # `a: b`, dates
    if isinstance(wanted, float) and wanted not in (wanted, 0) or abs(wanted) > 2**62 if isinstance(wanted, int) else 0:
        return
    got = value_of(tmp_path / "a.yml", text)
    if isinstance(wanted, float) and (wanted != wanted or abs(wanted) == float("inf")):
        assert isinstance(got, str)  # JSON has no such number
    else:
        assert got == wanted and type(got) is type(wanted), text


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdeあい", min_size=1), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TREES, st.booleans())
def test_trees_in_both_styles(tmp_path: Path, tree: Any, flow: bool) -> None:
    text = yaml.dump({"communication_data_type": tree, **BASE}, default_flow_style=flow, allow_unicode=True)
    path = tmp_path / "a.yml"
    path.write_text(text, "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = lc.config.load(path).get("communication_data_type")
    assert got == yaml.safe_load(text)["communication_data_type"]


def test_the_style_of_shipped_files(tmp_path: Path) -> None:
    path = tmp_path / "shipped.yml"
    path.write_text(
        """# head
{
  "num-layers": 2, "hidden_size": 64, "num_attention_heads": 4,  # shape
  "seq_length": 16,
  "max_position_embeddings": 16,
  "pos-emb": "Rotary",
  "use_bias_in_mlp": False,
  "attention_config": [[["flash", "global"], 1]],
  "vocab_size": 50257,
  "optimizer": {
    "type": "Adam",
    "params": {"lr": .97e-4, "betas": [0.9, 0.95], "eps": 1.0e-8,}
  },
  "train_micro_batch_size_per_gpu": 4,
  "train_iters": 320_000,
  "extra-save-iters": [0,1,2,4,],
  "tensorboard-dir": "./tensorboard",
}
""",
        "utf-8",
    )
    config = load(path)
    assert config["num_layers"] == 2 and config["use_bias_in_mlp"] is False and config["train_iters"] == 320000
    assert config["optimizer"]["params"]["lr"] == 0.97e-4
    assert config["padded_vocab_size"] == 50304 and config["pos_emb"] == "rotary"
    assert config["extra_save_iters"] == [0, 1, 2, 4] and config["tensorboard_dir"] == "./tensorboard"


def test_strict_json_is_yaml(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(BASE, indent=2), "utf-8")
    assert load(path) == load(write())


def test_a_number_written_as_text_is_a_number_with_a_warning(write: Write) -> None:
    path = write(text='min_lr: 1e-5\nrotary_pct: "0.5"\n', optimizer={"type": "Adam", "params": {"lr": "6e-4"}})
    with pytest.warns(UserWarning) as caught:
        config = lc.config.load(path)
    assert (config["min_lr"], config["rotary_pct"]) == (1e-5, 0.5)
    assert config["optimizer"]["params"]["lr"] == 6e-4
    messages = "\n".join(str(warning.message) for warning in caught)
    assert re.search(r'run\.yml:\d+:9: "min_lr": "1e-5" is a text in YAML 1\.1', messages)
    assert len(caught) == 3


def test_octal_and_base_60_are_what_pyyaml_makes_of_them_with_a_warning(write: Write) -> None:
    path = write(text="log_interval: 010\neval_interval: 12:30\n")
    with pytest.warns(UserWarning) as caught:
        config = lc.config.load(path)
    assert (config["log_interval"], config["eval_interval"]) == (8, 750)
    assert ["base 8" in str(caught[1].message), "base 60" in str(caught[0].message)] == [True, True]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1\n", r"run\.yml:\d+"),
        ("num_layers: 1\n", r"run\.yml:11:1"),  # twice in one file
        ("log_interval: !!str 3\n", r"run\.yml:11:\d+: the tag"),
        ("log_interval: *nowhere\n", r"run\.yml:11"),
        ("a: b: c\n", r"run\.yml:11"),
        ("---\nx: 1\n", r"run\.yml"),
        ("\ttab: 1\n", r"run\.yml:1[01]"),
    ],
)
def test_broken_yaml_names_line_and_column(text: str, place: str, write: Write) -> None:
    assert re.search(place, refused(write(text=text)))


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    for content, wanted in [
        (b"", "holds no keys"),
        (b"# only words\n", "holds no keys"),
        (b"- 1\n", "a mapping of keys"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("あ: 1\n".encode("shift_jis"), "not UTF-8"),
    ]:
        path.write_bytes(content)
        assert wanted in refused(path) and str(path) in refused(path)
    with pytest.raises(FileError) as error:
        lc.config.load(tmp_path / "absent.yml")
    assert error.value.filename == str(tmp_path / "absent.yml")


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "bomb.yml"
    path.write_text("\n".join(lines), "utf-8")
    assert "bomb.yml" in refused(path)


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
    ours = {key.name: key for key in lc.config.keys()}
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
    refused_keys = [key for key in lc.config.keys() if key.group == "refused"]
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
        assert lc.config.load(BASE, overrides={"lr_decay_fraction": 0.9955, "train_iters": 1000})["lr_decay_iters"] == 995
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
    assert load(base(optimizer=None))["optimizer"] == {
        "type": "Adam",
        "params": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8},
    }
    assert load(BASE, attention_config=[[["flash"], "all"]], num_kv_heads=2)["num_kv_heads"] == 2
    with pytest.warns(UserWarning, match="same as Adam"):
        lc.config.load(BASE, overrides={"optimizer.type": "cpu_adam"})


# --- presets of GPT-NeoX

GPT = {
    "seq_length": 2048, "max_position_embeddings": 2048, "pos_emb": "rotary", "norm": "layernorm",
    "no_weight_tying": True, "init_method": "small_init", "output_layer_init_method": "wang_init",
    "lr_decay_style": "cosine", "warmup": 0.01, "train_iters": 320000, "lr_decay_iters": 320000,
    "train_micro_batch_size_per_gpu": 4, "checkpoint_factor": 10000, "weight_decay": 0.1, "gradient_clipping": 1.0,
    "fp16": {"enabled": True, "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1},
    "zero_optimization": {"stage": 1}, "vocab_size": 50257, "pipe_parallel_size": 1, "model_parallel_size": 1,
}  # fmt: skip
PYTHIA = {
    **GPT, "rotary_pct": 0.25, "gpt_j_residual": True, "bias_gelu_fusion": True, "train_iters": 143000,
    "lr_decay_iters": 143000, "checkpoint_factor": 1000, "tokenizer_type": "HFTokenizer", "vocab_size": 50277,
    "extra_save_iters": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
}  # fmt: skip
LLAMA = {
    **GPT, "norm": "rmsnorm", "rms_norm_epsilon": 1e-6, "activation": "swiglu", "mlp_multiple_of": 256,
    "make_vocab_size_divisible_by": 1, "use_bias_in_norms": False, "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False, "rotary_pct": 1, "tokenizer_type": "SPMTokenizer", "vocab_size": 32000,
}  # fmt: skip
LLAMA2 = {**LLAMA, "rms_norm_epsilon": 1e-5, "seq_length": 4096, "max_position_embeddings": 4096}
TWENTY = {
    "rotary_pct": 0.25, "gpt_j_residual": True, "bias_gelu_fusion": True, "gradient_accumulation_steps": 32,
    "train_iters": 150000, "lr_decay_iters": 150000, "weight_decay": 0.01, "checkpoint_factor": 500,
    "tokenizer_type": "HFTokenizer", "vocab_size": 50277, "make_vocab_size_divisible_by": 256,
}  # fmt: skip
PRESETS: dict[str, tuple[dict[str, Any], int, int, int, float, dict[str, Any], int]] = {
    # name: (common, L, h, A, lr, more, MLP width)
    "125M": (GPT, 12, 768, 12, 6e-4, {}, 3072),
    "1-3B": (GPT, 24, 2048, 16, 2e-4, {"keep_last_n_checkpoints": 4, "log_interval": 100, "eval_iters": 10}, 8192),
    "2-7B": (GPT, 32, 2560, 32, 1.6e-4, {}, 10240),
    "6-7B": (GPT, 32, 4096, 32, 1.2e-4, {}, 16384),
    "13B": (GPT, 40, 5120, 40, 1e-4, {}, 20480),
    "20B": ({**GPT, **TWENTY}, 44, 6144, 64, 0.97e-4, {}, 24576),
    "pythia/70M": (PYTHIA, 6, 512, 8, 1e-3, {"train_micro_batch_size_per_gpu": 32}, 2048),
    "pythia/160M": (PYTHIA, 12, 768, 12, 6e-4, {"train_micro_batch_size_per_gpu": 32}, 3072),
    "pythia/410M": (PYTHIA, 24, 1024, 16, 3e-4, {"train_micro_batch_size_per_gpu": 32}, 4096),
    "pythia/1B": (PYTHIA, 16, 2048, 8, 2.5e-4, {"attention_config": [[["global"], 16]]}, 8192),
    "pythia/1.4B": (PYTHIA, 24, 2048, 16, 2e-4, {"attention_config": [[["flash"], 24]]}, 8192),
    "pythia/2.8B": (PYTHIA, 32, 2560, 32, 1.6e-4, {"attention_config": [[["flash"], 32]]}, 10240),
    "pythia/6.9B": (PYTHIA, 32, 4096, 32, 1.2e-4, {"attention_config": [[["flash"], 32]]}, 16384),
    "pythia/12B": (PYTHIA, 36, 5120, 40, 1.2e-4, {"attention_config": [[["flash"], 36]]}, 20480),
    "llama/7B": (LLAMA, 32, 4096, 32, 2e-4, {"intermediate_size": 32768}, 11008),
    "llama/13B": (LLAMA, 40, 5120, 40, 2e-4, {"intermediate_size": 40960}, 13824),
    "llama2/7B": (LLAMA2, 32, 4096, 32, 2e-4, {"intermediate_size": 32768}, 11008),
    "llama2/13B": (LLAMA2, 40, 5120, 40, 2e-4, {"intermediate_size": 40960}, 13824),
    "llama2/70B": (
        {**LLAMA2, "use_bias_in_mlp": None},
        80, 8192, 64, 2e-4,
        {"intermediate_size": 86016, "num_kv_heads": 8, "rotary_emb_base": 1000000,
         "attention_config": [[["flash"], 80]]},
        28672,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_gpt_neox(name: str, write: Write) -> None:
    common, layers, hidden, heads, lr, more, width = PRESETS[name]
    optimizer = {"type": "Adam", "params": {"lr": lr, "betas": [0.9, 0.95], "eps": 1.0e-8}}
    shape = {"num_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    given = {**common, **shape, "optimizer": optimizer, "min_lr": lr / 10, **more}
    config = load(write(base={}, **given))
    for key, value in given.items():
        wanted = {**config[key], **value} if isinstance(value, dict) else value
        if value is not None:
            assert config[key] == wanted, key
    assert config["ffn_hidden_size"] == width and config["optimizer"]["params"]["lr"] == lr
    assert config["padded_vocab_size"] == {50257: 50304, 32000: 32000}.get(
        given["vocab_size"], 50304 if name != "20B" else 50432
    )
    assert config["precision"] == "fp16"
    assert config["train_batch_size"] == config["train_micro_batch_size_per_gpu"] * (32 if name == "20B" else 1)
    assert config["use_bias_in_mlp"] is ("llama" not in name or name == "llama2/70B")
    assert load(config) == config


# --- refused combinations

THREE = {f"{part}_data_paths": ["a"] for part in ("train", "valid", "test")}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"num_layers": None}, '"num_layers" is missing'),
    "no width": ({"hidden_size": None}, '"hidden_size" is missing'),
    "no heads": ({"num_attention_heads": None}, '"num_attention_heads" is missing'),
    "no positions": ({"max_position_embeddings": None}, '"max_position_embeddings" is missing'),
    "no sequence length": ({"seq_length": None}, '"seq_length" is missing'),
    "no learning rate": ({"optimizer": {"type": "Adam", "params": {}}}, r'run\.yml:10:\d+: .* needs the learning rate'),
    "no optimizer params": ({"optimizer": {"type": "Adam"}}, 'needs the keys "type" and "params"'),
    "no optimizer type": ({"optimizer": {"params": {"lr": 0.1}}}, 'needs the keys "type" and "params"'),
    "heads do not divide": ({"hidden_size": 63}, r'run\.yml:2:14: "hidden_size" 63 is not a multiple of .*run\.yml:3:'),
    "too long a sequence": ({"seq_length": 64}, r'run\.yml:4:13: "seq_length" 64 is larger than .*run\.yml:5:26'),
    "min_lr above lr": ({"min_lr": 0.1}, r'run\.yml:11:9: "min_lr" 0\.1 is larger than the learning rate 0\.001'),
    "save without when": ({"save": "x"}, r'run\.yml:11:7: "save" needs "checkpoint_factor" or "extra_save_iters"'),
    "fp16 and bf16": ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "both enabled"),
    "precision against fp16": ({"precision": "bfloat16", "fp16": {"enabled": True}}, r"run\.yml:11:12: .*contradicts"),
    "fp16 of type bfloat16": ({"fp16": {"enabled": True, "type": "bfloat16"}}, r"write `bf16: \{enabled: true\}`"),
    "fp16 without enabled": ({"fp16": {"loss_scale": 1}}, r'run\.yml:11:7: "fp16" needs the key "enabled"'),
    "fp16 cross entropy": ({"fp16_lm_cross_entropy": True}, r"run\.yml:11:24: .*always computed in fp32"),
    "path and lists": ({"data_path": "a", **THREE}, r'run\.yml:11:12: "data_path" and .*exclude each other'),
    "two of three lists": ({**THREE, "test_data_paths": None}, '"test_data_paths" is missing'),
    "weights and paths differ": ({**THREE, "train_data_weights": [1, 2]}, r"run\.yml:14:21: .*has 2 entries, but .*1"),
    "labels and paths differ": ({**THREE, "train_label_data_paths": ["a", "b"]}, "has 2 entries, but"),
    "labels without paths": ({"train_label_data_paths": ["a"]}, 'needs "train_data_paths" beside it'),
    "weights without paths": ({"train_data_weights": [1]}, 'needs "train_data_paths" beside it'),
    "no data in a list": ({**THREE, "valid_data_paths": []}, r"run\.yml:12:19: .*is empty"),
    "all weights 0": ({**THREE, "test_data_weights": [0]}, "are all 0"),
    "iters and epochs": ({"train_epochs": 1}, r"run\.yml:9:14: .*run\.yml:11:15: .*exclude each other"),
    "neither": ({"train_iters": None}, '"train_iters" or "train_epochs" is missing'),
    "epochs, not packed": (
        {"train_iters": None, "train_epochs": 1, "pack_impl": "pack_until_overflow", "data_path": "a"},
        '"pack_impl" exclude each other',
    ),
    "epochs, by documents": (
        {"train_iters": None, "train_epochs": 1, "weight_by_num_documents": True},
        '"weight_by_num_documents" exclude each other',
    ),
    "epochs, weighted": (
        {"train_iters": None, "train_epochs": 1, **THREE, "train_data_weights": [2.0]},
        '"train_data_weights" exclude each other',
    ),
    "two widths": ({"intermediate_size": 100, "expansion_factor": 2.0}, "exclude each other"),
    "ffn width contradicts": ({"intermediate_size": 100, "ffn_hidden_size": 101}, "remove one of the two"),
    "gated width": ({"activation": "swiglu", "intermediate_size": 14336}, r"run\.yml:12:20: .*a gated MLP from 14336"),
    "kv heads": ({"num_kv_heads": 3}, r'run\.yml:11:15: "num_kv_heads" 3 does not divide'),
    "sparse attention": ({"sparsity_config": {"block": 16}}, "sparse attention is not supported"),
    "local attention": ({"attention_config": [[["local"], 2]]}, r"run\.yml:11:19: .*\"local\" is known to GPT-NeoX"),
    "unknown attention": ({"attention_config": [[["flesh"], 2]]}, 'unknown attention type "flesh"'),
    "attention of other depth": ({"attention_config": [[["flash"], 3]]}, "describes 3 layers, but num_layers is 2"),
    "attention malformed": ({"attention_config": ["flash", 2]}, "must have the form"),
    "ZeRO 2": ({"zero_optimization": {"stage": 2}}, r"run\.yml:11:\d+: .*distributed engine"),
    "ZeRO without stage": ({"zero_optimization": {}}, r'run\.yml:11:20: "zero_optimization" needs the key "stage"'),
    "ZeRO 4": ({"zero_optimization": {"stage": 4}}, "must be 0 to 3"),
    "experts": ({"moe_num_experts": 8}, "mixtures of experts are not supported"),
    "both schedulers": ({"override_lr_scheduler": True, "use_checkpoint_lr_scheduler": True}, "exclude each other"),
    "deepspeed off": ({"deepspeed": False}, "GPT-NeoX refuses false itself"),
    "row output": ({"output_layer_parallelism": "row"}, "one of column"),
    "seed 0": ({"seed": 0}, "a whole number, 1 or more"),
    "seed too large": ({"seed": 2**32}, "too large"),
    "half a step": ({"checkpoint_factor": 2.5}, r"run\.yml:11:20: .*must be a whole number of steps"),
    "log factor": ({"checkpoint_factor": 1, "checkpoint_scale": "log"}, "must be above 1 with checkpoint_scale log"),
    "onnx": ({"onnx_safe": True, "bias_gelu_fusion": True}, "exclude each other"),
    "rotary share": ({"rotary_pct": 1.5}, "a number from 0 to 1"),
    "odd rotation": ({"rotary_pct": 0.2}, "rotates 3 dimensions"),
    "unpacked": ({"pack_impl": "unpacked", "data_path": "a"}, 'unpacked needs "train_label_data_paths"'),
    "batch contradicts": (
        {"train_batch_size": 9, "gradient_accumulation_steps": 2},
        r"run\.yml:11:19: \"train_batch_size\" 9 is not 2 x 2",
    ),
    "batch indivisible": ({"train_batch_size": 9}, "is not a multiple of"),
    "no batch": ({"train_micro_batch_size_per_gpu": None}, '"train_batch_size" or .* is missing'),
    "batch 0": ({"train_batch_size": 0}, "a whole number, 1 or more"),
    "no vocabulary": ({"vocab_size": None}, 'set "vocab_file" .*or "vocab_size"'),
    "padding contradicts": ({"padded_vocab_size": 1000}, "1000 tokens are padded to 1024"),
    "derived contradicts": ({"batch_size": 3}, 'is derived from "train_micro_batch_size_per_gpu"'),
    "eod unknown": ({"eod_mask_loss": True}, "needs the end-of-document token"),
    "dropout": ({"hidden_dropout": 0.1}, r"run\.yml:11:17: .*must be 0"),
    "wsd without tail": ({"lr_decay_style": "wsd"}, 'needs "lr_wsd_decay_iters"'),
    "wsd too long": ({"lr_decay_style": "wsd", "lr_wsd_decay_iters": 100}, "more than the 100 steps"),
    "tail without wsd": ({"lr_wsd_decay_iters": 10}, "is of lr_decay_style wsd only"),
    "two warm-ups": ({"warmup": 0.1, "lr_warmup_iters": 5}, "exclude each other"),
    "two decays": ({"lr_decay_iters": 5, "lr_decay_fraction": 0.5}, "exclude each other"),
    "long warm-up": ({"lr_warmup_iters": 101}, "longer than the 100 steps"),
    "split": ({"split": "969, x"}, r"run\.yml:11:8: .*must be shares"),
    "split of nothing": ({"split": "0,0,0"}, "must be shares"),
    "betas": ({"optimizer": {"type": "Adam", "params": {"lr": 0.1, "betas": [0.9]}}}, "must be two numbers"),
    "optimizer": ({"optimizer": {"type": "Lion", "params": {"lr": 0.1}}}, "GPT-NeoX knows this one"),
    "scale power": ({"fp16": {"enabled": True, "initial_scale_power": 128}}, "beyond single precision"),
    "a model of nobody": ({"hidden_size": 2**30, "num_attention_heads": 1}, "check its sizes"),
    "a batch of nobody": ({"train_micro_batch_size_per_gpu": 2**50}, "check"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_combinations(name: str, write: Write) -> None:
    changes, wanted = REFUSED[name]
    path = write(**changes)
    assert re.search(wanted, refused(path)), refused(path)


def test_the_base_of_the_refused_is_fine(write: Write) -> None:
    load(write())


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


# --- nothing panics

KEYS = st.sampled_from([key.name for key in lc.config.keys()])
VALUES = (
    TREES
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([0, -1, 1, 2**31, 2**40, 2**53, 2**62, 2**63 - 1, 1e300, -1e300, 5e-324, "1e-5", [], {}])
    | st.dictionaries(st.sampled_from(["enabled", "type", "params", "stage", "lr"]), st.integers() | st.booleans())
    | st.sampled_from(["adam", "wsd", "log", "swiglu", "geglu", "learned", "none", "all", "0,0", "SPMTokenizer"])
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_random_values_give_a_configuration_or_an_error(changes: dict[str, Any]) -> None:
    mapping = {**BASE, **{key: value for key, value in changes.items() if "." not in key}}
    overrides = {key: value for key, value in changes.items() if "." in key}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = lc.config.load(mapping, overrides=overrides)
        except (ConfigError, TokenizerError, FileError) as error:
            assert str(error)
            return
        assert lc.config.load(config) == config
        lc.config.plan(config)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_files_give_a_configuration_or_an_error(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray("".join(f"{key}: {json.dumps(value)}\n" for key, value in BASE.items()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        piece = data.draw(st.sampled_from([b"", b"{", b"]", b":", b"\n", b"\t", b"&a ", b"*a", b"#", b"\xe3", b"0", b"'"]))
        text[at : at + data.draw(st.integers(0, 3))] = piece
    path = tmp_path / "damaged.yml"
    path.write_bytes(bytes(text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lc.config.load(path)
        except (ConfigError, TokenizerError) as error:
            assert "damaged.yml" in str(error) or "missing" in str(error) or "unknown" in str(error)
