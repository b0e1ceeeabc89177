"""Places of tokens, as flat arrays and as lists, against the `sentencepiece` package."""

from __future__ import annotations

import itertools
import json
import lzma
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import sentencepiece as spm
from test_tokenizer import REAL, TEXTS, input_of
from tokenizer_models import DATA, KINDS, NEKO, check_interruption, model_bytes, reference

import llmjp_core as lc
from llmjp_core import errors

Rows = list[tuple[int, int, int]]
HARD = [
    "吾輩は 鬱𠮷である。",
    "  ｶﾞ㌀ a  b  ",
    "<a>b吾輩ＡＢ",
    "",
    "か\u3099鬱鬱\u3000",
    " x ",
    "   ",
    "▁▁a ▁",
    "ｶﾞ" * 40,
]


def neko_lines() -> list[str]:
    text = (DATA / "neko.txt").read_text(encoding="utf-8")
    # One text fills many blocks of the search; short ones share a block.
    return [*text.split("\n"), text, *HARD, "The cat x sat  on <a>b ＡＢ猫で mats. " * 300]


def wanted(ref: spm.SentencePieceProcessor, text: str | bytes) -> Rows:
    return [(p.id, p.begin, p.end) for p in ref.encode(text, out_type="proto").pieces]


def in_characters(rows: Rows, text: str | bytes) -> Rows:
    """A byte that is not UTF-8 is one character."""
    if isinstance(text, str):
        text = text.encode()
    characters = text.decode(errors="surrogateescape")
    sizes = [len(character.encode(errors="surrogateescape")) for character in characters]
    place = {at: number for number, at in enumerate(itertools.accumulate(sizes, initial=0))}
    return [(id, place[begin], place[end]) for id, begin, end in rows]


def flat(tok: lc.Tokenizer, texts: list[Any], unit: Any, threads: int = 1, **options: Any) -> list[Rows]:
    ids, offsets, places = tok.encode_flat(texts, threads, return_offsets=unit, **options)
    assert ids.dtype == np.uint32 and offsets.dtype == np.int64
    assert places.dtype == np.int64 and places.shape == (len(ids), 2)
    return [
        list(zip(ids[a:b].tolist(), *places[a:b].T.tolist(), strict=True)) if a < b else []
        for a, b in itertools.pairwise(offsets)
    ]


def different(model: bytes, tok: lc.Tokenizer, texts: list[Any]) -> list[Any]:
    ref = reference(model)
    want = [wanted(ref, text) for text in texts]
    got = zip(flat(tok, texts, "bytes"), flat(tok, texts, "characters"), want, texts, strict=True)
    return [t for by_byte, by_character, w, t in got if by_byte != w or by_character != in_characters(w, t)]


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds(kind: str) -> None:
    model = model_bytes(kind)
    assert different(model, lc.Tokenizer.from_bytes(model), neko_lines()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_any_unicode(kind: str) -> None:
    model = model_bytes(kind)
    ours, ref = lc.Tokenizer.from_bytes(model), reference(model)

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(TEXTS)
    def check(text: str) -> None:
        pieces = ref.encode(text, out_type="proto").pieces
        want = [(p.id, p.begin, p.end) for p in pieces]
        assert flat(ours, [text, text.encode()], "bytes") == [want, want]
        assert flat(ours, [text], "characters") == [in_characters(want, text)]
        assert ours.encode_with_offsets(text.encode()) == [(p.id, p.piece, p.begin, p.end) for p in pieces]
        by_character = [(id, begin, end) for id, _, begin, end in ours.encode_with_offsets(text)]
        assert by_character == in_characters(want, text)

    check()


def test_can_fail() -> None:
    """Models that differ in one step of the normaliser have other places, of equal ids too."""
    texts = [*HARD, "吾輩  は猫"]
    model = model_bytes("unigram_nfkc")
    for kind in ("unigram_plain", "unigram_suffix", "unigram_no_prefix"):
        assert different(model, lc.Tokenizer.from_bytes(model_bytes(kind)), texts), kind
    tok = lc.Tokenizer.from_bytes(model)
    assert flat(tok, texts, "bytes") != flat(tok, texts, "characters")
    assert different(model, tok, texts) == []


@pytest.mark.parametrize("kind", ["unigram_nfkc", "unigram_unk", "bpe_nfkc", "unigram_plain"])
def test_broken_utf8(kind: str) -> None:
    model = model_bytes(kind)
    rng = np.random.default_rng(2)
    text = "吾輩は猫である。 A𠮷 ｶﾞ".encode()
    broken = []
    for _ in range(300):
        one = bytearray(text[: rng.integers(1, len(text))])
        for _ in range(rng.integers(1, 4)):
            one[rng.integers(0, len(one))] = rng.integers(0, 256)
        broken.append(bytes(one))
    assert different(model, lc.Tokenizer.from_bytes(model), broken) == []


def test_any_number_of_threads() -> None:
    tok = lc.Tokenizer.from_file(NEKO)
    texts = [*neko_lines(), b"a\xff", *neko_lines()[::-1], "猫" * 200_000]
    for unit in ("bytes", "characters"):
        one = tok.encode_flat(texts, 1, return_offsets=unit)
        single = [flat(tok, [text], unit)[0] for text in texts[:50]]
        assert flat(tok, texts[:50], unit) == single
        for threads in (2, 3, 7):
            for a, b in zip(one, tok.encode_flat(texts, threads, return_offsets=unit), strict=True):
                np.testing.assert_array_equal(a, b)
    assert [len(a) for a in tok.encode_flat([], return_offsets="bytes")] == [0, 1, 0]


def of_pieces(tok: lc.Tokenizer, ref: spm.SentencePieceProcessor, text: str, ids: list[int]) -> Rows:
    """In characters, from the reference's places of normalised characters."""
    normalized, origin = ref.normalize(text, with_offsets=True)
    rows, at, rest = [], 0, 0
    for id in ids:
        piece = tok.id_to_piece(id)
        if not piece.startswith("<0x"):
            rows.append((id, origin[at], origin[at + len(piece)]))
            at += len(piece)
            continue
        # Bytes of a character: the last one has its place.
        rest = (rest or len(normalized[at].encode())) - 1
        rows.append((id, origin[at], origin[at + (rest == 0)]))
        at += rest == 0
    return rows


@pytest.mark.parametrize("kind", ["unigram_nfkc", "unigram_suffix", "unigram_plain", "bpe_nfkc", "bpe_plain"])
def test_of_drawn_segmentations(kind: str) -> None:
    tok, ref = lc.Tokenizer.from_bytes(model_bytes(kind)), reference(model_bytes(kind))
    texts = neko_lines()[:60] + HARD
    options: dict[str, Any] = {"enable_sampling": True, "alpha": 0.1, "seed": 3}
    drawn = flat(tok, texts, "characters", 2, **options)
    ids = tok.encode_batch(texts, **options)
    assert ids != tok.encode_batch(texts)
    assert drawn == [of_pieces(tok, ref, text, i) for text, i in zip(texts, ids, strict=True)]
    # The oracle agrees with the other one where both can be asked.
    assert [of_pieces(tok, ref, t, ref.encode(t)) for t in texts] == flat(tok, texts, "characters")


@pytest.mark.parametrize("name", REAL)
def test_conformance(shared: Path, name: str) -> None:
    tok = lc.Tokenizer.from_file(shared / "data" / "tokenizers" / REAL[name])
    with lzma.open(shared / "specs" / "tokenizer" / "conformance.jsonl.xz", "rt", encoding="utf-8") as lines:
        cases = [case for case in map(json.loads, lines) if "byte_spans" in case["refs"][name]]
    texts = [input_of(case) for case in cases]
    want = [case["refs"][name] for case in cases]
    rows = [[(i, *span) for i, span in zip(w["ids"], w["byte_spans"], strict=True)] for w in want]
    assert len(cases) > 300
    assert flat(tok, texts, "bytes") == rows
    assert flat(tok, texts, "characters") == [in_characters(r, t) for r, t in zip(rows, texts, strict=True)]


@pytest.mark.parametrize("name", ["llm-jp-tokenizer-100k.ver3.1", "own_bpe50k", "spm_test_ja"])
def test_corpus(shared: Path, name: str) -> None:
    path = shared / "data" / "tokenizers" / REAL[name]
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 120)]
    assert different(path.read_bytes(), lc.Tokenizer.from_file(path), texts) == []


def test_wrong_unit() -> None:
    tok = lc.Tokenizer.from_file(NEKO)
    wrong: Any = "tokens"
    with pytest.raises(errors.UnsupportedInputError, match=r'return_offsets.*"bytes" or "characters", not "tokens"'):
        tok.encode_flat(["猫"], return_offsets=wrong)


@pytest.mark.parametrize("kind", ["unigram_nfkc", "bpe_nfkc"])
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_signal_stops_it(kind: str, threads: int) -> None:
    """Also within one long text, while Python's other threads go on: one of them sends it."""
    tok = lc.Tokenizer.from_bytes(model_bytes(kind))
    text = "吾輩は猫である。" * 4_000_000
    check_interruption(lambda: tok.encode_flat([text] * threads, threads) if threads else tok.encode(text))
    assert tok.decode(tok.encode("吾輩は猫である。")) == "吾輩は猫である。"


@pytest.mark.parametrize("split", [True, False])
def test_batches_with_a_tokenizer_json(split: bool) -> None:
    """Single texts are compared with `tokenizers` where those files are tested."""
    tok = lc.Tokenizer.from_bytes(tokenizer_json(split))
    texts = ["ab a b cab", "", "a猫b", "ab " * 50_000, "b" * 90_000] * 3
    single = [[(id, begin, end) for id, _, begin, end in tok.encode_with_offsets(text)] for text in texts]
    for threads in (1, 2, 3):
        assert flat(tok, texts, "characters", threads) == single
    assert flat(tok, [b"a\xffb"], "bytes")[0][-1][1:] == (2, 3)


@pytest.mark.parametrize("split", [True, False])
def test_a_signal_stops_a_tokenizer_json(split: bool) -> None:
    """Words of a byte-level BPE model; the whole text for a unigram model."""
    tok = lc.Tokenizer.from_bytes(tokenizer_json(split))
    check_interruption(lambda: tok.encode("abc de " * 3_000_000))
    check_interruption(lambda: tok.encode_flat(["a b c"] * 1_000_000, 2, return_offsets="bytes"))


def tokenizer_json(split: bool) -> bytes:
    alphabet = [*map(chr, range(33, 127)), "Ġ", "ab"]
    model: dict[str, Any] = {"type": "BPE", "vocab": {c: i for i, c in enumerate(alphabet)}, "merges": ["a b"]}
    if not split:
        model = {"type": "Unigram", "unk_id": 0, "vocab": [[c, -float(i)] for i, c in enumerate(alphabet)]}
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return json.dumps({"model": model, "pre_tokenizer": words if split else None, "added_tokens": []}).encode()
