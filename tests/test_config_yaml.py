"""Configuration files as text: scalars and trees with PyYAML as the oracle, broken files with their places."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_cases import BASE, TREES, Write, load, refused, writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmjp_core as lc
from llmjp_core.errors import ConfigError, FileError, TokenizerError


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


def value_of(path: Path, text: str) -> Any:
    """What a scalar or tree is read as, seen through a key that takes anything."""
    keys = "".join(f"{key}: {json.dumps(value)}\n" for key, value in BASE.items())
    path.write_text(f"{keys}communication_data_type: {text}\n", "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lc.config.load(path).get("communication_data_type")


def oracle(text: str) -> Any:
    return yaml.load(f"x: {text}\n", Loader=yaml.FullLoader)["x"]


SCALARS = [
    "1e-5", "6e4", "1E-5", "2.0e5", "1.0e-5", ".97e-4", "1.e-8", "1.0E+5", "yes", "on", "Off", "no", "true", "True",
    "TRUE", "false", "y", "n", "010", "08", "0o10", "0x1F", "0b11", "1_000", "1_0.5", "12:30", "1:30.5", "190:20:30",
    "-010", "+12", "-1.5", "+.5", ".5", "5.", "~", "null", "Null", "<<x", "a:b", "'it''s'", '"1"', "'010'", '"a\\tb"',
    "[1,2,]", "{a: 1,}", "[[[flash],2]]", "-0", "0", "1__0", "12:60", "=x", "two words", '"\\u3042"', "日本", "",
]  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
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
    got = value_of(tmp_path / "a.yml", text)
    if isinstance(wanted, float) and (wanted != wanted or abs(wanted) == float("inf")):
        assert isinstance(got, str)  # JSON has no such number
    else:
        assert got == wanted and type(got) is type(wanted), text


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


KEY_TABLE = lc.config.keys()
KEYS = st.sampled_from([key.name for key in KEY_TABLE])
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


PIECES = [b"", b"{", b"]", b":", b"\n", b"\t", b"&a ", b"*a", b"#", b"\xe3", b"0", b"'"]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_files_give_a_configuration_or_an_error(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray("".join(f"{key}: {json.dumps(value)}\n" for key, value in BASE.items()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        piece = data.draw(st.sampled_from(PIECES))
        text[at : at + data.draw(st.integers(0, 3))] = piece
    path = tmp_path / "damaged.yml"
    path.write_bytes(bytes(text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lc.config.load(path)
        except (ConfigError, TokenizerError) as error:
            assert any(word in str(error) for word in ("damaged.yml", "missing", "unknown", "(default)"))
