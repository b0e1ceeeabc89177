"""Segmentations drawn at random: exact distributions, those of sentencepiece, the same for any threads."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizer_models import DATA, NEKO, model_bytes, reference

import llmjp_core as lc
from llmjp_core import errors

DRAWS = 20_000
Distribution = dict[tuple[str, ...], float]


def proto(model: bytes) -> pb.ModelProto:
    parsed = pb.ModelProto()
    parsed.ParseFromString(model)
    return parsed


def segmentations(text: str, scores: dict[str, float], unknown: float) -> dict[tuple[str, ...], float]:
    """Every way to cut normalised text into pieces, with its score."""
    if not text:
        return {(): 0.0}
    found: dict[tuple[str, ...], float] = {}
    for end in range(1, len(text) + 1):
        score = scores.get(text[:end], unknown if end == 1 else None)
        if score is not None:
            for rest, value in segmentations(text[end:], scores, unknown).items():
                found[(text[:end], *rest)] = score + value
    return found


def softmax(scores: dict[tuple[str, ...], float], alpha: float) -> Distribution:
    highest = max(scores.values())
    weights = {key: math.exp(alpha * (score - highest)) for key, score in scores.items()}
    return {key: weight / sum(weights.values()) for key, weight in weights.items()}


def pieces_of_unigram(model: bytes) -> tuple[dict[str, float], float]:
    normal = {p.piece: p.score for p in proto(model).pieces if p.type == p.NORMAL}
    return normal, min(normal.values()) - 10.0


def dropout(text: str, ranks: dict[str, float], alpha: float) -> Distribution:
    """BPE dropout by following both outcomes of every draw."""

    def pairs(symbols: tuple[tuple[int, str], ...], among: set[int]) -> list[tuple[float, int, str, str]]:
        numbered = list(zip(symbols, symbols[1:], strict=False))
        return [(-ranks[a + b], at, a, b) for (at, a), (_, b) in numbered if a + b in ranks and at in among]

    found: Counter[tuple[str, ...]] = Counter()

    def go(symbols: tuple[tuple[int, str], ...], waiting: frozenset[tuple[float, int, str, str]], p: float) -> None:
        if not waiting:
            found[tuple(symbol for _, symbol in symbols)] += p  # type: ignore[assignment]
            return
        top = min(waiting)
        rest = waiting - {top}
        _, at, left, right = top
        place = next((i for i, (begin, _) in enumerate(symbols) if begin == at), None)
        gone = place is None or place + 1 >= len(symbols) or (symbols[place][1], symbols[place + 1][1]) != (left, right)
        if gone:
            return go(symbols, rest, p)
        assert place is not None
        if alpha > 0:
            go(symbols, rest, p * alpha)
        merged = (*symbols[:place], (at, left + right), *symbols[place + 2 :])
        near = {begin for begin, _ in merged[max(0, place - 1) : place + 1]}
        go(merged, rest | frozenset(pairs(merged, near)), p * (1 - alpha))

    symbols = tuple(enumerate(text))
    go(symbols, frozenset(pairs(symbols, set(range(len(text))))), 1.0)
    return dict(found)


def frequencies(tok: lc.Tokenizer, text: str, **options: float) -> Counter[tuple[str, ...]]:
    ids = tok.encode_batch([text] * DRAWS, 2, enable_sampling=True, **options)  # type: ignore[arg-type]
    return Counter(tuple(tok.id_to_piece(id) for id in each) for each in ids)


def chi_squared(counts: Counter[tuple[str, ...]], want: Distribution) -> tuple[float, int]:
    """Of the outcomes expected five times at least; the others together are one outcome."""
    assert set(counts) <= set(want)
    total = sum(counts.values())
    often = [key for key, p in want.items() if p * total >= 5]
    pairs = [(counts[key], want[key] * total) for key in often]
    rest = total - sum(got for got, _ in pairs), total - sum(expected for _, expected in pairs)
    pairs += [rest] if rest[1] > 1e-6 * total else []
    return sum((got - expected) ** 2 / expected for got, expected in pairs), max(len(pairs) - 1, 1)


def fits(counts: Counter[tuple[str, ...]], want: Distribution) -> bool:
    """Within five standard deviations of the chi-squared distribution."""
    value, degrees = chi_squared(counts, want)
    return value < degrees + 5 * math.sqrt(2 * degrees)


@pytest.fixture(scope="module")
def plain() -> tuple[bytes, lc.Tokenizer]:
    model = model_bytes("unigram_plain")
    return model, lc.Tokenizer.from_bytes(model)


@pytest.mark.parametrize("text", ["吾輩は猫である", "ではないかと思う", "ている ように鬱"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_all_segmentations(plain: tuple[bytes, lc.Tokenizer], text: str, alpha: float) -> None:
    model, tok = plain
    scores = segmentations("▁" + text.replace(" ", "▁"), *pieces_of_unigram(model))
    assert len(scores) > 6
    assert fits(frequencies(tok, text, alpha=alpha, seed=3), softmax(scores, alpha))


def test_can_fail(plain: tuple[bytes, lc.Tokenizer]) -> None:
    """A slightly different distribution is told apart."""
    model, tok = plain
    scores = segmentations("▁吾輩は猫である", *pieces_of_unigram(model))
    counts = frequencies(tok, "吾輩は猫である", alpha=0.2)
    assert fits(counts, softmax(scores, 0.2))
    assert not fits(counts, softmax(scores, 0.23))


@pytest.mark.parametrize("size", [2, 5, 12])
def test_the_best_few(plain: tuple[bytes, lc.Tokenizer], size: int) -> None:
    model, tok = plain
    scores = segmentations("▁吾輩は猫である", *pieces_of_unigram(model))
    best = dict(sorted(scores.items(), key=lambda item: -item[1])[:size])
    assert fits(frequencies(tok, "吾輩は猫である", alpha=0.3, nbest_size=size), softmax(best, 0.3))


@pytest.mark.parametrize("compat", ["sentencepiece", "sentencepiece<=0.2.1", "hf"])
def test_one_or_none_of_the_best_is_encoding(compat: str) -> None:
    tok = lc.Tokenizer.from_bytes(model_bytes("unigram_plain"), compat=compat)
    lines = (DATA / "neko.txt").read_text(encoding="utf-8").split("\n")[:60]
    for size in (0, 1):
        got = tok.encode_batch(lines, enable_sampling=True, nbest_size=size)
        assert sum(a != b for a, b in zip(got, tok.encode_batch(lines), strict=True)) <= 1  # a near tie at most
    sure = tok.encode_batch(lines, enable_sampling=True, alpha=1e4)
    assert sum(a != b for a, b in zip(sure, tok.encode_batch(lines), strict=True)) <= 1


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("text", ["吾輩は猫", "laz do", "のののの"])
def test_bpe_dropout(alpha: float, text: str) -> None:
    model = model_bytes("bpe_plain")
    tok = lc.Tokenizer.from_bytes(model)
    ranks = {p.piece: p.score for p in proto(model).pieces if p.type == p.NORMAL}
    want = dropout("▁" + text.replace(" ", "▁"), ranks, alpha)
    assert sum(want.values()) == pytest.approx(1.0)
    counts = frequencies(tok, text, alpha=alpha, seed=1)
    assert fits(counts, want)
    if alpha in (0.1, 0.5) and len(want) > 3:
        assert not fits(counts, dropout("▁" + text.replace(" ", "▁"), ranks, alpha + 0.05))


def same_distribution(a: Counter[tuple[int, ...]], b: Counter[tuple[int, ...]]) -> bool:
    """Two samples of one size: chi-squared over the outcomes seen ten times together."""
    keys = [key for key in a | b if a[key] + b[key] >= 10]
    value = sum((a[key] - b[key]) ** 2 / (a[key] + b[key]) for key in keys)
    return value < len(keys) + 5 * math.sqrt(2 * len(keys))


@pytest.mark.parametrize(
    "kind, options",
    [
        ("unigram_plain", {"alpha": 0.2, "nbest_size": -1}),
        ("unigram_plain", {"alpha": 0.2, "nbest_size": 8}),
        ("unigram_nfkc", {"alpha": 0.5, "nbest_size": -1}),
        ("unigram_unk", {"alpha": 0.1, "nbest_size": -1}),
        ("bpe_plain", {"alpha": 0.2, "nbest_size": -1}),
        ("bpe_unk", {"alpha": 0.3, "nbest_size": -1}),
        ("bpe_symbols", {"alpha": 0.3, "nbest_size": -1}),
    ],
)
def test_as_sentencepiece_draws(kind: str, options: dict[str, float]) -> None:
    tok, theirs = lc.Tokenizer.from_bytes(model_bytes(kind)), reference(model_bytes(kind))
    for text in ("吾輩は猫である鬱", "ではないかと 思うThe "):
        drawn = [tuple(theirs.encode(text, enable_sampling=True, **options)) for _ in range(DRAWS // 4)]
        ours = tok.encode_batch([text] * (DRAWS // 4), enable_sampling=True, seed=5, **options)  # type: ignore[arg-type]
        counts = Counter(map(tuple, ours))
        assert same_distribution(counts, Counter(drawn))
        other = options | {"alpha": options["alpha"] * 2}
        ours = tok.encode_batch([text] * (DRAWS // 4), enable_sampling=True, seed=5, **other)  # type: ignore[arg-type]
        assert not same_distribution(Counter(map(tuple, ours)), Counter(drawn))


def test_the_same_for_any_threads() -> None:
    texts = (DATA / "neko.txt").read_text(encoding="utf-8").split("\n") * 3
    for model in (NEKO.read_bytes(), model_bytes("bpe_plain")):
        tok = lc.Tokenizer.from_bytes(model)
        one = tok.encode_batch(texts, 1, enable_sampling=True, seed=7)
        for threads in (2, 3):
            assert tok.encode_batch(texts, threads, enable_sampling=True, seed=7) == one
        ids, offsets = tok.encode_flat(texts, 2, enable_sampling=True, seed=7)
        assert ids.tolist() == [id for each in one for id in each]
        assert np.diff(offsets).tolist() == [len(each) for each in one]
        assert one != tok.encode_batch(texts, 1, enable_sampling=True, seed=8)
        assert one[0] == tok.encode(texts[0], enable_sampling=True, seed=7)
        # Equal texts at other places are drawn anew.
        assert one[: len(texts) // 3] != one[len(texts) // 3 : 2 * len(texts) // 3]
        assert [tok.decode(ids) for ids in one[:50]] == [tok.decode(tok.encode(text)) for text in texts[:50]]
        assert tok.encode("", enable_sampling=True) == []


def test_what_cannot_be_drawn_is_refused() -> None:
    unigram, bpe = lc.Tokenizer.from_file(NEKO), lc.Tokenizer.from_bytes(model_bytes("bpe_plain"))
    for alpha in (-0.1, math.nan, math.inf):
        with pytest.raises(errors.UnsupportedInputError, match="alpha"):
            unigram.encode("猫", enable_sampling=True, alpha=alpha)
    with pytest.raises(errors.UnsupportedInputError, match="probability"):
        bpe.encode_batch(["猫"], enable_sampling=True, alpha=1.5)
    with pytest.raises(errors.UnsupportedInputError, match="512"):
        unigram.encode_flat(["猫"], enable_sampling=True, nbest_size=513)
    unused = proto(model_bytes("bpe_plain"))
    unused.pieces[900].type = 5
    with pytest.raises(errors.UnsupportedModelError, match="unused"):
        lc.Tokenizer.from_bytes(unused.SerializeToString()).encode("猫", enable_sampling=True)
    json_model = b'{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}'
    with pytest.raises(errors.UnsupportedModelError, match=r"tokenizer\.json"):
        lc.Tokenizer.from_bytes(json_model).encode("猫", enable_sampling=True)
    assert isinstance(reference(NEKO.read_bytes()), spm.SentencePieceProcessor)
