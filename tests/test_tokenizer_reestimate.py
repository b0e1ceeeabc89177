"""New scores for a trained vocabulary, against expectation maximisation written out in Python (f64, logarithms)."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
import torch
from sentencepiece import sentencepiece_model_pb2 as pb
from unigram_quality import log_likelihood

import llmjp_core as lc
from llmjp_core import errors

DATA = Path(__file__).parent / "data"
NEKO = [line for line in (DATA / "neko.txt").read_text(encoding="utf-8").splitlines() if line]
OTHER = ["東京都に行く。<sep>東京都で会う。", "猫は東京都が好きだ。", "A cat in 東京都 鬱"] * 5 + NEKO[:8]
NORMAL = pb.ModelProto.SentencePiece.NORMAL
NEW = ["東京都", "東京都に行く", "▁A▁cat", "鯨飲"]


def proto_of(tokenizer: lc.Tokenizer, folder: Path) -> pb.ModelProto:
    tokenizer.save(folder / "m.model")
    return pb.ModelProto.FromString((folder / "m.model").read_bytes())


@pytest.fixture(scope="module")
def tokenizer() -> lc.Tokenizer:
    options: dict[str, Any] = {"vocab_size": 3000, "byte_fallback": True, "user_defined_symbols": ["<sep>"]}
    return lc.Tokenizer.train(iter(NEKO), max_sentence_length=1 << 20, progress=False, **options)


def digamma(x: float) -> float:
    return float(torch.digamma(torch.tensor(x, dtype=torch.float64)))


def add_logs(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def expected(part: str, scores: dict[str, float], counts: Counter[str]) -> None:
    """Adds how often each piece is expected in `part`."""
    unknown = min(scores.values()) - 10
    edges = []
    for start in range(len(part)):
        for end in range(start + 1, min(len(part), start + 16) + 1):
            if part[start:end] in scores:
                edges.append((start, end, part[start:end], scores[part[start:end]]))
        if part[start] not in scores:
            edges.append((start, start + 1, "", unknown))
    before = [0.0] + [-math.inf] * len(part)
    after = [-math.inf] * len(part) + [0.0]
    for start, end, _, score in sorted(edges):
        before[end] = add_logs(before[end], before[start] + score)
    for start, end, _, score in sorted(edges, reverse=True):
        after[start] = add_logs(after[start], after[end] + score)
    for start, end, piece, score in edges:
        counts[piece] += math.exp(before[start] + score + after[end] - before[-1])


def by_hand(proto: pb.ModelProto, lines: list[str], new: list[str], iterations: int) -> dict[str, float]:
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    middle = sorted(scores.values())[len(scores) // 2]
    scores |= dict.fromkeys(new, middle)
    processor = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())
    parts = [part.replace(" ", "▁") for line in processor.normalize(lines) for part in line.split("<sep>") if part]
    present = {*"".join(parts)}
    for _ in range(iterations):
        counts: Counter[str] = Counter()
        for part in parts:
            # Pieces that the text cannot have do not make unknown characters less likely.
            expected(part, {piece: score for piece, score in scores.items() if present.issuperset(piece)}, counts)
        floored = {piece: max(counts[piece], 0.5) for piece in scores}
        total = digamma(sum(floored.values()))
        scores = {piece: digamma(count) - total for piece, count in floored.items()}
    return scores


@pytest.mark.parametrize(("iterations", "new"), [(1, []), (1, NEW), (3, NEW)])
def test_scores_are_those_of_expectation_maximisation(
    iterations: int, new: list[str], tokenizer: lc.Tokenizer, tmp_path: Path
) -> None:
    before = proto_of(tokenizer, tmp_path)
    got = proto_of(tokenizer.reestimate(iter(OTHER), new, iterations=iterations, progress=False), tmp_path)
    want = by_hand(before, OTHER, new, iterations)
    scores = {piece.piece: piece.score for piece in got.pieces if piece.type == NORMAL}
    assert scores.keys() == want.keys()
    assert max(abs(scores[piece] - want[piece]) for piece in want) < 1e-4
    # It can fail: one iteration more is another answer.
    other = by_hand(before, OTHER, new, iterations + 1)
    assert max(abs(scores[piece] - other[piece]) for piece in want) > 1e-2


def test_only_scores_change_and_new_pieces_come_last(tokenizer: lc.Tokenizer, tmp_path: Path) -> None:
    new = tokenizer.reestimate(iter(OTHER), NEW, progress=False)
    old, got = proto_of(tokenizer, tmp_path), proto_of(new, tmp_path)
    assert [(p.piece, p.type) for p in got.pieces[:3000]] == [(p.piece, p.type) for p in old.pieces]
    assert [p.piece for p in got.pieces[3000:]] == NEW
    assert all(a.score == b.score for a, b in zip(old.pieces, got.pieces[:3000], strict=True) if a.type != NORMAL)
    assert (got.trainer_spec.vocab_size, new.vocab_size) == (3004, 3004)
    got.trainer_spec.vocab_size = 3000
    assert (got.trainer_spec, got.normalizer_spec) == (old.trainer_spec, old.normalizer_spec)
    reference = spm.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    texts = [*OTHER, *NEKO[8:40], "A cat<sep> \t鯨飲"]
    assert new.encode_batch(texts) == reference.encode(texts)
    assert "東京都" in new.encode_as_pieces("私の東京都だ")
    assert "東京都" not in tokenizer.encode_as_pieces("私の東京都だ")


def test_other_text_becomes_more_likely(tokenizer: lc.Tokenizer, tmp_path: Path) -> None:
    lines = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").splitlines()
    new = tokenizer.reestimate(iter(lines), progress=False)
    before, after = (log_likelihood(proto_of(model, tmp_path), lines) for model in (tokenizer, new))
    assert after > 0.9 * before


def test_threads_and_files_change_nothing(tokenizer: lc.Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(OTHER) + "\n", encoding="utf-8")
    models = [tokenizer.reestimate(iter(OTHER), NEW, num_threads=n, progress=False) for n in (1, 2, 3)]
    models.append(tokenizer.reestimate(tmp_path / "a.txt", NEW, progress=False))
    assert len({model.fingerprint for model in models}) == 1


@pytest.mark.parametrize("name", ["code20K_en40K_ja60K.ver2.2.model", "llm-jp-tokenizer-100k.ver3.1.model"])
def test_llm_jp_models(name: str, shared: Path, tmp_path: Path) -> None:
    tokenizer = lc.Tokenizer.from_file(shared / "data/tokenizers/llm-jp" / name)
    new = tokenizer.reestimate(iter(NEKO), ["吾輩は猫"], progress=False, iterations=3)
    new.save(tmp_path / "m.model")
    reference = spm.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    assert new.encode_batch(NEKO) == reference.encode(NEKO)
    before, after = (log_likelihood(proto_of(model, tmp_path), NEKO[:20]) for model in (tokenizer, new))
    assert after > 0.95 * before


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((["猫"],), {}, errors.TokenizerError, "'猫'|\"猫\""),
        ((["鯨飲", "鯨飲"],), {}, errors.TokenizerError, "鯨飲"),
        ((["<sep>"],), {}, errors.TokenizerError, "<sep>"),
        (([""],), {}, errors.TokenizerError, "empty"),
        ((["a b"],), {}, errors.TokenizerError, "space"),
        ((["長" * 300],), {}, errors.UnsupportedModelError, "255"),
        (("鯨飲",), {}, errors.UnsupportedInputError, "list of str"),
        ((), {"iterations": 0}, errors.ConfigError, "iterations"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str, tokenizer: lc.Tokenizer
) -> None:
    with pytest.raises(error, match=message):
        tokenizer.reestimate(iter(OTHER), *arguments, progress=False, **options)


def test_bpe_and_no_text_are_refused(tokenizer: lc.Tokenizer) -> None:
    bpe = lc.Tokenizer.train(iter(NEKO), model_type="bpe", vocab_size=3000, progress=False)
    with pytest.raises(errors.UnsupportedModelError, match="BPE"):
        bpe.reestimate(iter(OTHER))
    with pytest.raises(errors.TokenizerError, match="no text"):
        tokenizer.reestimate(iter([]))
    with pytest.raises(errors.TokenizerError, match="no piece"):
        lc.Tokenizer.train(
            iter(["ab"] * 9), vocab_size=6, hard_vocab_limit=False, add_dummy_prefix=False, progress=False
        ).reestimate(iter(["猫"]))
