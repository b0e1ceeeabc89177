"""Ids, pieces and decoding against the `sentencepiece` package."""

from __future__ import annotations

import functools
import itertools
import json
import lzma
import pickle
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece as spm
from tokenizer_models import DATA, KINDS, NEKO, model_bytes, reference
from unicode_strings import strings

import llmjp_core as lc
from llmjp_core import errors

REAL = {
    "code10k_en20k_ja30k.ver2.1": "llm-jp/code10k_en20k_ja30k.ver2.1.model",
    "code10K_en20K_ja30K.ver2.2": "llm-jp/code10K_en20K_ja30K.ver2.2.model",
    "llm-jp-tokenizer-100k.ver3.1": "llm-jp/llm-jp-tokenizer-100k.ver3.1.model",
    "llm-jp-tokenizer_ver4.0_alpha1.0": "llm-jp/llm-jp-tokenizer_ver4.0_alpha1.0.model",
    "cc100_ja20K_en30K.symbolRemoved.vocab.reestimated": (
        "llm-jp/cc100_ja20K_en30K.symbolRemoved.vocab.reestimated.model"
    ),
    "spm_test_ja": "sentencepiece/test_ja_model.model",
    "own_bpe50k": "made/own_bpe50k.model",
}
# Letters that meet every branch: spaces, unknown kanji, marks, widths, literals of pieces.
ALPHABET = [
    *"吾輩は猫である。鬱𠮷ｶﾞか\u3099ＡBe\u0301１2 \u3000\n\t▁▅\x00\ufffd\u200b~～…—",
    "<s>",
    "<0x0A>",
    "<a>",
    "<a>b",
    "  ",
]
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(ALPHABET), max_size=30).map("".join),
    st.tuples(st.sampled_from(ALPHABET), st.integers(1, 300)).map(lambda pair: pair[0] * pair[1]),
)


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[dict[str, Any]]:
    with lzma.open(shared / "specs" / "tokenizer" / "conformance.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def neko() -> lc.Tokenizer:
    return lc.Tokenizer.from_file(NEKO)


def input_of(case: dict[str, Any]) -> str | bytes:
    return case["text"] if "text" in case else bytes.fromhex(case["bytes_hex"])


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("compat", ["sentencepiece", "sentencepiece<=0.2.1"])
def test_conformance(shared: Path, cases: list[dict[str, Any]], name: str, compat: str) -> None:
    tok = lc.Tokenizer.from_file(shared / "data" / "tokenizers" / REAL[name], compat=compat)
    key = "ids" if compat == "sentencepiece" else "ids_spm_le_0.2.1"
    wrong = []
    for case in cases:
        want = case["refs"][name]
        text = input_of(case)
        same = tok.encode(text) == want.get(key, want["ids"]) and tok.decode(want["ids"]) == want["decoded"]
        if key == "ids" and "byte_spans" in want:
            data = text.encode() if isinstance(text, str) else text
            same &= [[begin, end] for _, _, begin, end in tok.encode_with_offsets(data)] == want["byte_spans"]
        if not same:
            wrong.append(case["id"])
    assert wrong == []


def test_conformance_can_fail(shared: Path, cases: list[dict[str, Any]]) -> None:
    """The two generations differ on some cases, so a mix-up of their rules would be seen."""
    name = "code10K_en20K_ja30K.ver2.2"
    tok = lc.Tokenizer.from_file(shared / "data" / "tokenizers" / REAL[name], compat="sentencepiece<=0.2.1")
    assert sum(tok.encode(input_of(case)) != case["refs"][name]["ids"] for case in cases) > 5


@pytest.mark.parametrize("name", ["code10K_en20K_ja30K.ver2.2", "llm-jp-tokenizer-100k.ver3.1", "own_bpe50k"])
def test_corpus(shared: Path, name: str) -> None:
    path = shared / "data" / "tokenizers" / REAL[name]
    ours, ref = lc.Tokenizer.from_file(path), spm.SentencePieceProcessor(model_file=str(path))
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    texts += [line for text in texts[:50] for line in text.split("\n")]
    want = ref.encode(texts)
    assert ours.encode_batch(texts) == want
    assert [ours.decode(ids) for ids in want[:200]] == [ref.decode(ids) for ids in want[:200]]


@pytest.mark.parametrize("kind", KINDS)
def test_any_unicode(kind: str) -> None:
    """Strings that hypothesis shrinks where one differs."""
    model = model_bytes(kind)
    ours, ref = lc.Tokenizer.from_bytes(model), reference(model)

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(TEXTS)
    def check(text: str) -> None:
        ids = ref.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == ref.decode(ids)
        assert ours.encode_as_pieces(text) == ref.encode(text, out_type=str)

    check()


@functools.cache
def random_strings() -> list[str]:
    return list(itertools.islice(strings(0), 10_000))


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_strings(kind: str) -> None:
    """`benches/soak_tokenizer.py` does it with a million, on real models."""
    ours, ref = lc.Tokenizer.from_bytes(model_bytes(kind)), reference(model_bytes(kind))
    want = ref.encode(random_strings())
    got = ours.encode_batch(random_strings())
    assert [text for text, a, b in zip(random_strings(), want, got, strict=True) if a != b] == []
    assert [ours.decode(ids) for ids in want] == ref.decode(want)


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_training(kind: str) -> None:
    model = model_bytes(kind)
    ours, ref = lc.Tokenizer.from_bytes(model), reference(model)
    text = (DATA / "neko.txt").read_text(encoding="utf-8")
    lines = [*text.split("\n"), text, text[:5000].replace("。", "  "), "The cat x sat  on <a>b ＡＢ猫で mats. " * 9]
    want = ref.encode(lines)
    assert ours.encode_batch(lines) == want
    assert [ours.decode(ids) for ids in want] == ref.decode(want)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_any_ids(kind: str) -> None:
    """Any sequence of ids decodes as the reference does it: bytes that form no character too."""
    model = model_bytes(kind)
    ours, ref = lc.Tokenizer.from_bytes(model), reference(model)
    size = ref.get_piece_size()
    rng = np.random.default_rng(0)
    for length in itertools.chain(range(6), rng.integers(6, 40, 300)):
        # Half of the ids from the low end, where control and byte pieces are.
        ids = [int(rng.integers(0, 262 if rng.random() < 0.5 else size)) for _ in range(length)]
        assert ours.decode(ids) == ref.decode(ids), ids


def test_invalid_utf8(neko: lc.Tokenizer) -> None:
    ref = reference(NEKO.read_bytes())
    rng = np.random.default_rng(1)
    text = "吾輩は猫である。 A𠮷".encode()
    for _ in range(500):
        broken = bytearray(text[: rng.integers(1, len(text))])
        for _ in range(rng.integers(0, 4)):
            broken[rng.integers(0, len(broken))] = rng.integers(0, 256)
        assert neko.encode(bytes(broken)) == ref.encode(bytes(broken)), bytes(broken)


def test_offsets() -> None:
    """In bytes as the reference has them, in characters for `str`."""
    for kind in KINDS:
        ours, ref = lc.Tokenizer.from_bytes(model_bytes(kind)), reference(model_bytes(kind))
        for text in ("吾輩は 鬱𠮷である。", "  ｶﾞ㌀ a  b  ", "<a>b吾輩ＡＢ", "", "か\u3099鬱鬱\u3000"):
            pieces = ref.encode(text, out_type="proto").pieces
            got = ours.encode_with_offsets(text.encode())
            assert got == [(p.id, p.piece, p.begin, p.end) for p in pieces], (kind, text)
            by_character = ours.encode_with_offsets(text)
            place = [len(text.encode()[:at].decode(errors="ignore")) for at in range(len(text.encode()) + 1)]
            assert by_character == [(id, piece, place[begin], place[end]) for id, piece, begin, end in got]


def test_names_and_ids(neko: lc.Tokenizer) -> None:
    ref = reference(NEKO.read_bytes())
    assert len(neko) == neko.vocab_size == ref.get_piece_size()
    assert [neko.id_to_piece(i) for i in range(len(neko))] == [ref.id_to_piece(i) for i in range(len(neko))]
    assert [neko.piece_to_id(ref.id_to_piece(i)) for i in range(len(neko))] == list(range(len(neko)))
    assert (neko.unk_id, neko.bos_id, neko.eos_id, neko.pad_id) == (0, 1, 2, None)
    assert neko.piece_to_id("no such piece") is None
    assert "2500" in repr(neko) and "unigram" in repr(neko)
    for id in (-1, len(neko)):
        with pytest.raises(errors.UnsupportedInputError, match=str(id)):
            neko.id_to_piece(id)
        with pytest.raises(errors.UnsupportedInputError, match=f"id {id} at place 1"):
            neko.decode([5, id])


def test_specials_as_the_reference_finds_them() -> None:
    for kind in ("unigram_no_specials", "unigram_nfkc"):
        ours, ref = lc.Tokenizer.from_bytes(model_bytes(kind)), reference(model_bytes(kind))
        want = [None if i < 0 else i for i in (ref.unk_id(), ref.bos_id(), ref.eos_id(), ref.pad_id())]
        assert [ours.unk_id, ours.bos_id, ours.eos_id, ours.pad_id] == want


def test_begin_and_end_are_asked_for(neko: lc.Tokenizer) -> None:
    plain = neko.encode("猫")
    assert neko.encode("猫", add_bos=True, add_eos=True) == [1, *plain, 2]
    assert neko.encode("") == [] and neko.encode("", add_eos=True) == [2]
    bare = lc.Tokenizer.from_bytes(model_bytes("unigram_no_specials"))
    with pytest.raises(errors.TokenizerError, match="bos"):
        bare.encode("猫", add_bos=True)


def test_end_of_document(neko: lc.Tokenizer) -> None:
    assert neko.eod_id() == neko.piece_to_id("<|endoftext|>")
    assert neko.eod_id("</s>") == 2
    with pytest.raises(errors.TokenizerError, match="<EOD"):
        lc.Tokenizer.from_bytes(model_bytes("unigram_nfkc")).eod_id()
    with pytest.raises(errors.TokenizerError, match=r"nothing.*</s>"):
        neko.eod_id("nothing")


def test_batch_is_single_for_any_threads(neko: lc.Tokenizer) -> None:
    text = (DATA / "neko.txt").read_text(encoding="utf-8")
    texts: list[str | bytes] = ["", *text.split("\n"), text, text.encode(), "", b"\xff"] * 3
    single = [neko.encode(t) for t in texts]
    for threads in (None, 1, 2, 3, 7):
        assert neko.encode_batch(texts, num_threads=threads) == single
        ids, offsets = neko.encode_flat(texts, num_threads=threads)
        assert ids.dtype == np.uint32 and offsets.dtype == np.int64
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == single
    assert neko.encode_batch([]) == [] and neko.encode_batch(iter(["猫"])) == [neko.encode("猫")]


def test_decode_takes_arrays(neko: lc.Tokenizer) -> None:
    ids = neko.encode("吾輩は猫である")
    for dtype in (np.uint32, np.int64, np.uint16, np.int32):
        assert neko.decode(np.array(ids, dtype=dtype)) == "吾輩は猫である"


def test_wrong_arguments(neko: lc.Tokenizer, tmp_path: Path) -> None:
    bad: Any = 3
    with pytest.raises(errors.UnsupportedInputError, match=r"texts\[1\] must be str or bytes, not int"):
        neko.encode_batch(["a", bad])
    with pytest.raises(errors.UnsupportedInputError, match="not one str"):
        neko.encode_batch("abc")
    with pytest.raises(errors.UnsupportedInputError, match="surrogate"):
        neko.encode("\ud800")
    with pytest.raises(errors.UnsupportedInputError, match="compat"):
        lc.Tokenizer.from_file(NEKO, compat="spm")
    with pytest.raises(errors.FileError, match="missing"):
        lc.Tokenizer.from_file(tmp_path / "missing.model")


def test_save_and_pickle(neko: lc.Tokenizer, tmp_path: Path) -> None:
    neko.save(tmp_path / "copy.model")
    assert (tmp_path / "copy.model").read_bytes() == NEKO.read_bytes()
    other = pickle.loads(pickle.dumps(neko))
    assert other.fingerprint == neko.fingerprint and other.encode("吾輩は猫") == neko.encode("吾輩は猫")


def test_long_and_adversarial(neko: lc.Tokenizer) -> None:
    """Linear time: ten million characters take seconds, not hours; the score reset is met."""
    ref = reference(NEKO.read_bytes())
    for text in ("吾" * 300_000, "鬱" * 100_000, " " * 300_000, "吾輩は" * 100_000):
        assert neko.encode(text) == ref.encode(text)
    assert len(neko.encode("の" * 10_000_000)) > 1_000_000
