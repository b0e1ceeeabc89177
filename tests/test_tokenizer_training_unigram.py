"""Unigram training beside the `sentencepiece` package: as good on other text, the same characters and special pieces.

There is no vocabulary to be equal to (two versions of the package share two thirds of theirs). What counts is how few
tokens a text gets that was not trained on, and how likely it is.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from unigram_quality import characters_a_token, log_likelihood, processor

import llmjp_core as lc
from llmjp_core import errors
from llmjp_core._tokenizer_training import TrainingProgress

DATA = Path(__file__).parent / "data"
NEKO = [line for line in (DATA / "neko.txt").read_text(encoding="utf-8").splitlines() if line]
HELD, TRAIN = NEKO[::8], [line for i, line in enumerate(NEKO) if i % 8]
MIXED = [
    "A cat and 2 dogs (１２３) ＡＢＣ ｶﾞｷﾞ <a> x y",
    "The  quick\tbrown fox; jumps over 1905 lazy dogs in 2026.",
    "aaaaaaa aaaa aaa ababababab abcabcabc xyxyxyxyx",
    "東京2020年とABC社のＸ線、か\u3099き\u3099く\u3099 <b> ﾃｽﾄ ㍿ ㌔",
]
LONG = {"max_sentence_length": 1 << 20}
NORMAL = pb.ModelProto.SentencePiece.NORMAL


def theirs(lines: Iterable[str], **options: Any) -> pb.ModelProto:
    """The model that sentencepiece trains."""
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, minloglevel=2, num_threads=2, **{**LONG, **options}
    )
    return pb.ModelProto.FromString(out.getvalue())


def ours(lines: Iterable[str], **options: Any) -> pb.ModelProto:
    return proto_of(lc.Tokenizer.train(iter(lines), progress=False, **{**LONG, **options}))


def proto_of(tokenizer: lc.Tokenizer) -> pb.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "m.model")
        return pb.ModelProto.FromString((Path(folder) / "m.model").read_bytes())


def assert_as_good(got: pb.ModelProto, want: pb.ModelProto, held: list[str]) -> None:
    """Within 0.2 %, in tokens and in likelihood."""
    assert characters_a_token(got, held) >= 0.998 * characters_a_token(want, held)
    assert log_likelihood(got, held) >= 1.002 * log_likelihood(want, held)


@pytest.mark.parametrize("size", [2000, 3000, 4000])
def test_as_good_as_sentencepiece_on_a_little_text(size: int) -> None:
    options = {"vocab_size": size, "character_coverage": 0.995}
    assert_as_good(ours(TRAIN, **options), theirs(TRAIN, **options), HELD)


def test_the_comparison_can_fail() -> None:
    """A model of short pieces, one of little text and one with wrong scores are worse."""
    options = {"vocab_size": 3000, "character_coverage": 0.995}
    want = theirs(TRAIN, **options)
    flat = ours(TRAIN, **options)
    for piece in flat.pieces:
        piece.score = -8.0
    for worse in [
        ours(TRAIN, **options, max_sentencepiece_length=2),
        ours(TRAIN[: len(TRAIN) // 2], **options),
        flat,
    ]:
        with pytest.raises(AssertionError):
            assert_as_good(worse, want, HELD)


def books(shared: Path) -> list[str]:
    names = ["botchan_en.txt", "wagahaiwa_nekodearu.txt"]
    texts = [(shared / "data/tokenizers/sentencepiece" / name).read_text(encoding="utf-8") for name in names]
    return [line for text in texts for line in text.splitlines() if line]


def corpus(shared: Path, size: int) -> list[str]:
    """Lines of an encyclopedia, old novels, manuals, laws and some English, `size` bytes."""
    lines: list[str] = []
    sources = ["ja_wikipedia_kyoto", "ja_aozora", "ja_debdocs", "ja_laws", "en_wikipedia_kyoto"]
    for source in sources:
        room = size // len(sources)
        with lzma.open(shared / f"data/corpus/{source}.jsonl.xz", "rt", encoding="utf-8") as file:
            for record in file:
                for line in json.loads(record)["text"].splitlines():
                    lines.append(line)
                    room -= len(line.encode())
                if room < 0:
                    break
    return lines


def test_as_good_as_sentencepiece_on_two_books(shared: Path) -> None:
    lines = books(shared)
    held, lines = lines[::20], [line for i, line in enumerate(lines) if i % 20]
    options = {"vocab_size": 8000, "byte_fallback": True}
    assert_as_good(ours(lines, **options), theirs(lines, **options), held)


@pytest.mark.slow
@pytest.mark.parametrize("size", [6000, 12_000])
def test_as_good_as_sentencepiece_on_a_mixed_corpus(size: int, shared: Path) -> None:
    lines = corpus(shared, 2_000_000)
    held, lines = lines[::20], [line for i, line in enumerate(lines) if i % 20]
    options = {"vocab_size": size, "byte_fallback": True, "max_sentence_length": 16384}
    assert_as_good(ours(lines, **options), theirs(lines, **options), held)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bytes": {"byte_fallback": True, "character_coverage": 0.99},
    "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "one script is not enough": {"split_by_unicode_script": False},
    "numbers": {"split_by_number": False},
    "digits": {"split_digits": True, "max_sentencepiece_length": 4},
    "across spaces": {"split_by_whitespace": False},
    "suffix": {"treat_whitespace_as_suffix": True},
    "only spaces": {
        "allow_whitespace_only_pieces": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
    },
    "no prefix": {"add_dummy_prefix": False},
    "symbols": {
        "user_defined_symbols": ["<a>", "<a>b", "吾輩", "猫で", "ＡＢ", " x "],
        "control_symbols": ["<b>", "<mask>"],
        "pad_id": 3,
        "required_chars": "鬱☃z",
    },
    "other specials": {"bos_id": -1, "eos_id": 5, "unk_piece": "[UNK]", "unk_surface": "?"},
    "cased": {"normalization_rule_name": "nmt_nfkc_cf", "max_sentencepiece_length": 40},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_mean_what_they_mean_there(name: str) -> None:
    lines = TRAIN[:80] + MIXED * 7
    options = {"vocab_size": 2500, "character_coverage": 0.998, **OPTIONS[name]}
    got, want = ours(lines, **options), theirs(lines, **options)
    others = [[(i, p.piece, p.score, p.type) for i, p in enumerate(m.pieces) if p.type != NORMAL] for m in (got, want)]
    assert others[0] == others[1]
    letters = [{p.piece for p in m.pieces if p.type == NORMAL and len(p.piece) == 1} for m in (got, want)]
    assert letters[0] == letters[1]
    assert len(got.pieces) == len(want.pieces) == 2500
    scores = [p.score for p in got.pieces if p.type == NORMAL]
    assert scores == sorted(scores, reverse=True)
    assert all(map(math.isfinite, scores))
    # The package itself says whether the ids are those of the model.
    texts = HELD + MIXED
    tokenizer = lc.Tokenizer.from_bytes(got.SerializeToString())
    assert tokenizer.encode_batch(texts) == processor(got).encode(texts)


def test_pieces_obey_the_rules() -> None:
    lines = TRAIN[:80] + MIXED * 7 + ["2026年の 第10回と  12月"] * 40

    def pieces(**options: Any) -> list[str]:
        model = ours(lines, vocab_size=2500, **options)
        return [p.piece for p in model.pieces if p.type == NORMAL and len(p.piece) > 1]

    assert all("▁" not in piece[1:] for piece in pieces())
    assert any("▁" in piece[1:] for piece in pieces(split_by_whitespace=False))
    assert all("▁" not in piece[:-1] for piece in pieces(treat_whitespace_as_suffix=True))
    assert not any(re.search("[0-9]", piece) for piece in pieces(split_digits=True))
    assert not any(re.search("[0-9][年月]|第[0-9]", piece) for piece in pieces())
    assert any(re.search("[0-9][年月]|第[0-9]", piece) for piece in pieces(split_by_number=False))
    assert max(map(len, pieces(max_sentencepiece_length=3))) == 3
    assert not any("猫で" in piece for piece in pieces(user_defined_symbols=["猫で"]))
    assert any("▁▁" in p for p in pieces(allow_whitespace_only_pieces=True, remove_extra_whitespaces=False))


def test_threads_change_nothing() -> None:
    models = [ours(NEKO, vocab_size=4000, num_threads=n).pieces for n in (1, 2, 3, 7)]
    assert all(model == models[0] for model in models)


def test_the_course_of_training_can_be_set() -> None:
    usual = ours(NEKO, vocab_size=3000)
    for change in [{"num_sub_iterations": 1}, {"shrinking_factor": 0.5}, {"seed_sentencepiece_size": 4000}]:
        other = ours(NEKO, vocab_size=3000, **change)
        assert len(other.pieces) == 3000
        assert [(p.piece, p.score) for p in other.pieces] != [(p.piece, p.score) for p in usual.pieces]


def test_a_vocabulary_that_the_text_does_not_fill() -> None:
    with pytest.raises(errors.TokenizerError, match="vocab_size 100000 is too high"):
        ours(NEKO, vocab_size=100_000)
    some = ours(NEKO, vocab_size=100_000, hard_vocab_limit=False)
    assert 4000 < len(some.pieces) < 100_000
    assert processor(some).encode(NEKO[0]) == lc.Tokenizer.from_bytes(some.SerializeToString()).encode(NEKO[0])


@pytest.mark.parametrize("lines", [["a"], ["aaaaaaaa" * 5000], ["ab" * 9, "ab" * 9], ["猫", "猫 猫", "  "]])
def test_odd_texts(lines: list[str]) -> None:
    model = ours(lines, vocab_size=12, hard_vocab_limit=False, character_coverage=1.0)
    assert processor(model).decode(processor(model).encode(lines[0])) == lines[0]
    assert processor(model).unk_id() not in processor(model).encode(lines[0])


def test_progress_and_interruption() -> None:
    stages: list[str] = []

    def tell(progress: TrainingProgress) -> None:
        stages.append(progress.stage)
        assert 0 <= progress.done <= progress.total or not progress.total

    lc.Tokenizer.train(iter(NEKO), vocab_size=3000, progress=tell)
    assert [*dict.fromkeys(stages)] == ["read", "seeds", "words", "estimate", "finish"]


@pytest.mark.parametrize("stage", ["seeds", "estimate"])
def test_ctrl_c_stops_training(stage: str) -> None:
    begun = threading.Event()

    def tell(progress: TrainingProgress) -> None:
        if progress.stage == stage and not begun.is_set():
            begun.set()
            os.kill(os.getpid(), signal.SIGINT)

    lines = [line[turn:] + line[:turn] for line in NEKO for turn in range(0, len(line), 30)]
    with pytest.raises(KeyboardInterrupt):
        lc.Tokenizer.train(iter(lines), vocab_size=8000, hard_vocab_limit=False, progress=tell, **LONG)
    assert begun.is_set()
