"""Which lines are JSON, and what their texts are: `json.loads` decides, but for what it takes beyond JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_text import MODEL, REFERENCE

import llmjp_core as lc


class Object:
    """An object with all its keys, twins too."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is Python's own")


def reference(line: bytes) -> str | None:
    """The text under the last key `text`; None for what is to be refused.

    Half a surrogate pair is no character: it may only stand in what nobody reads. No twin of the key may hold
    anything but a string.
    """
    try:
        value = json.loads(line.decode(), parse_constant=refuse, object_pairs_hook=Object)
        pairs = value.pairs if isinstance(value, Object) else []
        texts = [value for key, value in pairs if key == "text"]
        if not texts or not all(isinstance(text, str) for text in texts):
            return None
        "".join([key for key, _ in pairs] + texts).encode()
    except ValueError:  # UnicodeError and JSONDecodeError are such
        return None
    return str(texts[-1])


def texts(path: Path) -> tuple[dict[int, str], list[str]]:
    wrong: list[str] = []
    found = {d.line: d.text for d in lc.data.documents(path, on_error=wrong.append) if d.line is not None}
    return found, wrong


def check(path: Path, lines: list[bytes]) -> int:
    """Compares all lines; gives how many are good."""
    path.write_bytes(b"\n".join(lines) + b"\n")
    found, wrong = texts(path)
    blank = [not line.strip(b" \t\r\x0c") for line in lines]
    want = {number: reference(line) for number, line in enumerate(lines, 1) if not blank[number - 1]}
    assert found == {number: text for number, text in want.items() if text is not None}
    refused = [number for number, text in want.items() if text is None]
    assert [int(error.removeprefix(f"{path}:").split(":")[0]) for error in wrong] == refused
    return len(found)


INSIDE_STRINGS = [
    r"\n", r"\"", r"\\", r"\/", r"\b\f\r\t", r"\u6771", r"\ud83d\ude00", r"\uD83D\uDE00", r"\u0000", r"\u001F",
    r"\uFFFF", r"\ud83d", r"\ude00", r"\ud83dx", r"\ud83d\u0041", r"\ud83d\ud83d", r"\u12", r"\u12g4", r"\x41", "\\",
    "\x00", "\t", "\x1f", "\x7f", '"', "東京", "x" * 40, "、" * 30, "\ufeff", "\u2028", "",
]  # fmt: skip
OTHER = [
    "0", "-0", "1", "-12.50", "1e999", "1E+5", "2e-3", "01", "1.", ".5", "+1", "-", "1e", "1e+", "0x1", "1_0", "true",
    "false", "null", "NaN", "Infinity", "-Infinity", "nul", "True", "", "'a'", "[]", "[1,]", "[,1]", "[1 2]", "{}",
    "{,}", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}', '{"text":"x"}', "[[[]]]", "]", "}", "[}", "1}", "1]",
]  # fmt: skip
CHARACTERS = st.text(st.characters(codec="utf-8"), max_size=40)
STRINGS = st.one_of(
    CHARACTERS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    CHARACTERS.map(json.dumps),
    st.lists(st.sampled_from(INSIDE_STRINGS), max_size=6).map(lambda parts: f'"{"".join(parts)}"'),
)
SPACE = st.sampled_from(["", "", "", " ", "\t", "\r", "  \t", "\x0b", "\u00a0", "\x0c"])
VALUES = st.recursive(
    st.one_of(STRINGS, st.sampled_from(OTHER)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(STRINGS, inner), max_size=3).map(
            lambda parts: "{" + ",".join(f"{key} : {value}" for key, value in parts) + "}"
        ),
    ),
    max_leaves=5,
)
KEYS = st.one_of(st.sampled_from(['"text"', '"text"', '"text"', '"id"', r'"te\u0078t"', '"Text"', '"text "']), STRINGS)
MEMBERS = st.tuples(SPACE, KEYS, SPACE, st.one_of(STRINGS, STRINGS, VALUES), SPACE).map(
    lambda m: f"{m[0]}{m[1]}{m[2]}:{m[4]}{m[3]}{m[0]}"
)
GOOD_ENDS = st.sampled_from(["}", "}", "}", "}", "} \r", "}}", "", ",}", "} x", "}\x0b"])
LINES = st.tuples(st.lists(MEMBERS, max_size=4), GOOD_ENDS).map(
    lambda line: ("{" + ",".join(line[0]) + line[1]).replace("\n", " ").encode()
)


PLACES = [
    '{"text": @}', '{"text":@,"id":1}', '{"text": "a", "id": @}', '{"id": @, "text": "猫\\n"}', '{"id":[@],"text":"a"}',
    '{"id": [1, @ ,2], "text": ""}', '{"id": {"a": @}, "text": "a"}', '{"id": {"a": 1, "b":@}, "text": "\\u6771"}',
    '{"text": @, "text": "b"}', '{"text": "a", "text": @}', '@', '[@]', ' {"text" : @ } ',
]  # fmt: skip
KEY_PLACES = ['{"@": 1, "text": "a"}', '{"text": "a", "@": "b"}', '{"text@": "a"}', '{"id": {"@": 1}, "text": "a"}']


def test_every_value_in_every_place(tmp_path: Path) -> None:
    """Also as a key, also between other characters."""
    strings = [
        f"{before}{inside}{after}" for inside in INSIDE_STRINGS for before in ("", "é") for after in ("", "z" * 9)
    ]
    lines = [place.replace("@", value) for place in PLACES for value in [*OTHER, *(f'"{text}"' for text in strings)]]
    lines += [place.replace("@", text) for place in KEY_PLACES for text in strings]
    assert check(tmp_path / "a.jsonl", [line.encode() for line in lines]) > 700


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, min_size=20, max_size=40))
def test_lines_near_json(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    check(tmp_path_factory.mktemp("near") / "a.jsonl", lines)


GOOD = [
    '{"id": 7, "text": "吾輩は\\n猫で\\ud83d\\ude00。", "meta": {"a": [1.5e3, null, {"b": "\\\\"}], "c": ""}}'.encode(),
    '{"meta":[[],{},true,false],"text":"名前はまだ無い。どこで生れたかとんと見当がつかぬ。","z":-0.1}'.encode(),
]


@pytest.mark.parametrize("line", GOOD)
def test_every_byte_of_a_good_line(tmp_path: Path, line: bytes) -> None:
    """Left out, or another one in its place."""
    others = b'"\\{}[],:0-.eEux \r\t\x00\x1f\x7f\x80\xe3\xff'
    lines = [line, *(line[:at] + line[at + 1 :] for at in range(len(line)))]
    lines += [line[:at] + bytes([other]) + line[at + 1 :] for at in range(len(line)) for other in others]
    lines += [line[:at] for at in range(len(line))]
    good = check(tmp_path / "a.jsonl", lines)
    assert len(line) < good < len(lines) / 2


@pytest.mark.parametrize("length", [*range(45), 63, 64, 65, 127, 129])
def test_special_bytes_anywhere(tmp_path: Path, length: int) -> None:
    """Strings of any length that end, or go wrong, at any place."""
    inside = ['\\"', "\\n", "\\u0041", "\t", "\x1f", '"', "é", "\\", "\x7f"]
    lines = [f'{{"text": "{"a" * at}{what}{"b" * (length - at)}"}}' for what in inside for at in range(length + 1)]
    lines += [f'{{"other": "{"a" * at}{what}", "text": ""}}' for what in inside for at in range(length + 1)]
    assert check(tmp_path / "a.jsonl", [line.encode() for line in lines]) >= 10 * (length + 1)


def test_values_within_values(tmp_path: Path) -> None:
    def nested(depth: int, inner: str) -> bytes:
        return f'{{"x": {"[" * depth}{inner}{"]" * depth}, "text": "{depth}"}}'.encode()

    assert check(tmp_path / "a.jsonl", [nested(depth, "1") for depth in range(200)]) == 200
    assert check(tmp_path / "a.jsonl", [nested(depth, "1,") for depth in range(200)]) == 0


def test_a_mark_at_the_start_of_the_file_only(tmp_path: Path) -> None:
    lines = [b'{"text": "%d"}\r' % number for number in range(4)]
    lines[2] = b"\xef\xbb\xbf" + lines[2]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(lines))
    found, wrong = texts(path)
    assert found == {1: "0", 3: "1", 7: "3"} and [error.split(":")[1] for error in wrong] == ["5"]


def test_keys_are_read_in_their_order(tmp_path: Path) -> None:
    """Several keys, in any order in the line, with twins: the tokens of the last of each."""
    lines = [
        '{"b": "猫", "a": "吾輩"}',
        '{"a": "\\u543e", "x": {"a": "y", "b": "z"}, "b": "は"}',
        '{"a": "no", "b": "no", "a": "\\u732b", "b": "輩"}',
        '{"b": "no\\n", "\\u0062": "であ", "a": "る"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    made = lc.data.tokenize(path, lc.Tokenizer.from_file(MODEL), tmp_path / "d", append_eod=False, keys=["a", "b"])
    want = {key: [REFERENCE.encode(json.loads(line)[key]) for line in lines] for key in "ab"}
    for dataset in made.datasets:
        opened = dataset.open()
        assert [opened[at].tolist() for at in range(len(opened))] == want[dataset.key]
