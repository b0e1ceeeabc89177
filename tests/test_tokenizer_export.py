"""The exported folder in `transformers`: the same ids, nothing appended."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizer_models import DATA, NEKO, model_bytes

import llmjp_core as lc
from llmjp_core import errors

TEXTS = [
    *(DATA / "neko.txt").read_text(encoding="utf-8").split("\n"),
    *(
        "",
        " ",
        "  a",
        " a  b ",
        "猫\n 猫",
        "\t猫",
        "鬱𠮷😀",
        "<s>猫</s>",
        "<0x0A>",
        "<unk>",
        "<|endoftext|>猫",
        "e\u0301",
    ),
    *("か\u3099は\u309a", "ｶﾞｷﾞﾊﾟｱ", "ＡＢＣ１２３", "～", "㌀㍿", "ＡＢ　ｃ", "The  cat sat.", "a" * 200, "。" * 50),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def different(ours: lc.Tokenizer, theirs: Any, texts: list[str]) -> list[str]:
    return [text for text in texts if theirs(text)["input_ids"] != ours.encode(text)]


@pytest.mark.parametrize("kind", [None, "unigram_nfkc", "unigram_no_prefix", "unigram_spaces"])
def test_same_ids(kind: str | None, tmp_path: Path) -> None:
    ours = lc.Tokenizer.from_bytes(NEKO.read_bytes() if kind is None else model_bytes(kind))
    ours.export(tmp_path / "new" / "folder")
    theirs = load(tmp_path / "new" / "folder")
    assert different(ours, theirs, TEXTS) == []
    assert len(theirs) == len(ours)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    for text in TEXTS[:50]:
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    assert (tmp_path / "new" / "folder" / "tokenizer.model").read_bytes()[:100] == (
        NEKO.read_bytes() if kind is None else model_bytes(kind)
    )[:100]


@pytest.mark.parametrize("kind", ["bpe_plain", "bpe_nfkc", "bpe_unk", "bpe_digits"])
def test_bpe_models(kind: str, tmp_path: Path) -> None:
    """The merges that the model leaves unsaid; runs and overlaps test their order."""
    tok = lc.Tokenizer.from_bytes(model_bytes(kind))
    tok.export(tmp_path)
    theirs = load(tmp_path)
    draw = random.Random(0)
    texts = TEXTS + ["".join(draw.choices("ab aのはn。あ▁", k=draw.randrange(60))) for _ in range(400)]
    assert different(tok, theirs, texts) == []
    if kind != "bpe_unk":  # an unknown piece is written <unk> there, " ⁇ " here
        for text in TEXTS[:50]:
            assert theirs.decode(tok.encode(text)) == tok.decode(tok.encode(text))
    merges = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert different(
        lc.Tokenizer.from_bytes(model_bytes("bpe_digits" if kind == "bpe_plain" else "bpe_plain")), theirs, texts
    )
    assert len(merges) >= 500
    ours = lc.Tokenizer.from_file(tmp_path)
    assert [text for text in TEXTS if ours.encode(text) != theirs(text, split_special_tokens=False)["input_ids"]] == []


def test_bpe_of_the_usual_size(shared: Path, tmp_path: Path) -> None:
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 100)]
    tok = lc.Tokenizer.from_file(shared / "data" / "tokenizers" / "made" / "own_bpe50k.model")
    tok.export(tmp_path)
    assert different(tok, load(tmp_path), texts) == []


def test_can_fail(tmp_path: Path) -> None:
    """Another model's folder is told apart by the same comparison."""
    lc.Tokenizer.from_bytes(model_bytes("unigram_plain")).export(tmp_path)
    assert len(different(lc.Tokenizer.from_file(NEKO), load(tmp_path), TEXTS)) > 50


def test_special_pieces_in_text(tmp_path: Path) -> None:
    """Plain characters by default; the special piece where asked for."""
    ours = lc.Tokenizer.from_file(NEKO)
    ours.export(tmp_path, parse_special=True)
    theirs = load(tmp_path)
    assert theirs("猫</s>")["input_ids"] == [*ours.encode("猫"), 2]
    assert 2 not in ours.encode("猫</s>")


def test_real_models(shared: Path, tmp_path: Path) -> None:
    """f64 sums fall otherwise at rare near ties: at most one document in a hundred here."""
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 200)]
    texts = [line for text in texts for line in text.split("\n")][:3000]
    for name in ("llm-jp/code10K_en20K_ja30K.ver2.2.model", "llm-jp/llm-jp-tokenizer-100k.ver3.1.model"):
        ours = lc.Tokenizer.from_file(shared / "data" / "tokenizers" / name)
        ours.export(tmp_path)
        assert len(different(ours, load(tmp_path), texts)) <= len(texts) // 100


def test_compat_hf_is_what_transformers_gives(shared: Path, tmp_path: Path) -> None:
    """No differences at all: f64 sums, every piece can match; BPE and character maps by way of the exported file."""
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 100)] + TEXTS
    tokenizers = shared / "data" / "tokenizers" / "llm-jp"
    for path in (
        NEKO,
        tokenizers / "code10K_en20K_ja30K.ver2.2.model",
        tokenizers / "llm-jp-tokenizer-100k.ver3.1.model",
    ):
        ours = lc.Tokenizer.from_file(path, compat="hf")
        ours.export(tmp_path)
        assert different(ours, load(tmp_path), texts) == []
    plain = lc.Tokenizer.from_file(tokenizers / "code10K_en20K_ja30K.ver2.2.model")
    assert different(plain, load(tmp_path), texts) != []


@pytest.mark.parametrize("kind", ["unigram_nfkc", "unigram_casefold", "bpe_plain", "bpe_nfkc", "bpe_unk", "bpe_digits"])
def test_compat_hf_of_every_kind(kind: str, tmp_path: Path) -> None:
    ours = lc.Tokenizer.from_bytes(model_bytes(kind), compat="hf")
    plain = lc.Tokenizer.from_bytes(model_bytes(kind))
    ours.export(tmp_path)
    assert (ours.compat, ours.fingerprint, len(ours)) == ("hf", plain.fingerprint, len(plain))
    theirs = load(tmp_path)
    texts = [*TEXTS, "か\u3099\u309a", "¹\ufe0f", "ﷺ\u0301", "\u1100\u1161\u11a8", "ﬁ\u0301", "  <s> a\u200b"]
    assert different(ours, theirs, texts) == []
    for text in TEXTS[:50]:
        assert ours.decode(ours.encode(text)) == plain.decode(ours.encode(text))
        places = theirs(text, return_offsets_mapping=True)["offset_mapping"]
        assert [(begin, end) for _, _, begin, end in ours.encode_with_offsets(text)] == places
    if kind == "unigram_nfkc":
        assert different(plain, theirs, texts) != []
    with pytest.raises(errors.UnsupportedModelError, match="sampling"):
        ours.encode("猫", enable_sampling=True)


@pytest.mark.parametrize("name", ["made/own_bpe50k.model", "made/own_uni50k.model"])
def test_compat_hf_of_models_with_a_character_map(name: str, shared: Path, tmp_path: Path) -> None:
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 60)] + TEXTS
    ours = lc.Tokenizer.from_file(shared / "data" / "tokenizers" / name, compat="hf")
    ours.export(tmp_path)
    assert different(ours, load(tmp_path), texts) == []


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModelError, match="treat_whitespace_as_suffix"):
        lc.Tokenizer.from_bytes(model_bytes("unigram_suffix")).export(tmp_path)
    with pytest.raises(errors.UnsupportedModelError, match="user-defined"):
        lc.Tokenizer.from_bytes(model_bytes("unigram_symbols")).export(tmp_path)
    with pytest.raises(errors.UnsupportedModelError, match="BPE models with user-defined"):
        lc.Tokenizer.from_bytes(model_bytes("bpe_symbols")).export(tmp_path)
    bpe = pb.ModelProto()
    bpe.ParseFromString(model_bytes("bpe_plain"))
    same, alone = pb.ModelProto(), pb.ModelProto()
    same.CopyFrom(bpe)
    same.pieces[300].score = same.pieces[301].score
    with pytest.raises(errors.UnsupportedModelError, match="one score for two pieces"):
        lc.Tokenizer.from_bytes(same.SerializeToString()).export(tmp_path)
    alone.CopyFrom(bpe)
    alone.pieces[-1].piece = "吾吾\u9f98"
    with pytest.raises(errors.UnsupportedModelError, match="no piece by themselves"):
        lc.Tokenizer.from_bytes(alone.SerializeToString()).export(tmp_path)
    model = pb.ModelProto()
    model.ParseFromString(NEKO.read_bytes())
    model.pieces[500].type = 5
    with pytest.raises(errors.UnsupportedModelError, match="unused"):
        lc.Tokenizer.from_bytes(model.SerializeToString()).export(tmp_path)
    assert list(tmp_path.iterdir()) == []
