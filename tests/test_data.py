"""Splits, samples and blends: the goldens of GPT-NeoX and Megatron-LM, and numpy's generator as oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from reference_samples import joined, labelled, megatron_oracle, neox_oracle, random_set, shuffled

import llmjp_core as lc
from llmjp_core import errors

SIZES = [5, 3, 7, 2, 6, 4]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """Document k has the tokens 10k, 10k + 1, ..."""
    lc.data.write(tmp_path / "g", [[10 * k + i for i in range(size)] for k, size in enumerate(SIZES)], "uint16")
    return tmp_path / "g"


# --- packed samples


def test_neox_golden(golden: Path) -> None:
    parts = lc.data.samples(golden, seq_length=4, count=10, split="1")
    assert len(parts.train) == 12 and parts.valid is None and parts.test is None
    assert joined(parts.train, 4) == [
        [45, 10, 11, 12, 0],
        [51, 52, 53, 0, 1],
        [25, 26, 50, 51, 52],
        [52, 53, 20, 21, 22],
    ]


@pytest.mark.parametrize("case", range(40))
def test_neox_equals_numpy(tmp_path: Path, case: int) -> None:
    rng = np.random.default_rng(case)
    s, seed = int(rng.integers(1, 40)), int(rng.integers(0, 2**32))
    texts = random_set(tmp_path / "d", rng, int(rng.integers(1, 60)), int(rng.integers(1, 90)))
    n = None if case % 5 == 0 else int(rng.integers(1, 300))
    if n is None and sum(map(len, texts)) <= s + 1:
        return
    if sum(map(len, texts)) == 0:
        return
    train = lc.data.samples(tmp_path / "d", seq_length=s, count=n, split="1", seed=seed).train
    expected = neox_oracle(texts, s, seed, n)
    assert len(train) == max(1, len(expected) - 1)
    # The last one is there for a blend that asks for it; beyond it the numbers wrap.
    assert joined(train, len(expected)) == expected
    wrapped = len(expected) + 3
    np.testing.assert_array_equal(train.item(wrapped), train.item(wrapped % len(train)))


@pytest.mark.parametrize("case", range(40))
def test_megatron_equals_numpy(tmp_path: Path, case: int) -> None:
    rng = np.random.default_rng(1000 + case)
    s, seed, n = int(rng.integers(1, 30)), int(rng.integers(0, 2**32)), int(rng.integers(1, 400))
    texts = random_set(tmp_path / "d", rng, int(rng.integers(1, 30)), int(rng.integers(1, 90)))
    texts[0] or pytest.skip("an empty first document")
    train = lc.data.samples(tmp_path / "d", seq_length=s, count=n, split="1", seed=seed, flavor="megatron").train
    expected = megatron_oracle(texts, s, seed, n)
    assert joined(train, len(train)) == expected


def test_flavors_differ_where_the_last_epoch_is_apart(golden: Path) -> None:
    """The oracle itself meets the golden, and tells the flavors apart."""
    texts = [[10 * k + i for i in range(size)] for k, size in enumerate(SIZES)]
    assert neox_oracle(texts, 4, 1234, 10)[0] == [45, 10, 11, 12, 0]
    assert megatron_oracle(texts, 4, 1234, 10) == neox_oracle(texts, 4, 1234, 10)
    assert megatron_oracle(texts, 4, 1234, 8) != neox_oracle(texts, 4, 1234, 8)
    made = {
        f: joined(lc.data.samples(golden, seq_length=4, count=8, split="1", flavor=f).train, 12)
        for f in ("neox", "megatron")
    }
    assert made["neox"] != made["megatron"]


def test_another_seed_gives_another_order(golden: Path) -> None:
    orders = [
        joined(lc.data.samples(golden, seq_length=4, count=50, split="1", seed=seed).train, 50) for seed in (1, 2)
    ]
    assert orders[0] != orders[1]


def test_a_large_shuffle_equals_numpy(tmp_path: Path) -> None:
    """100,003 documents of two tokens: more words than one state of the generator holds, many rejections."""
    n = 100_003
    lc.data.write(tmp_path / "d", np.arange(2 * n).reshape(n, 2), "int32")
    train = lc.data.samples(tmp_path / "d", seq_length=2, split="1", seed=99).train
    rng = np.random.RandomState(99)
    order = shuffled(rng, np.arange(n, dtype=np.int32))
    places = shuffled(rng, np.arange((2 * n - 1) // 2, dtype=np.uint32))
    got = [int(train[i][0][0]) // 2 for i in range(5000)]
    assert got == order[places[:5000]].tolist()


# --- splits


@pytest.mark.parametrize(
    ("split", "documents", "bounds"),
    [
        ("969, 30, 1", 1000, [0, 969, 999, 1000]),
        ("969, 30, 1", 1234, [0, 1196, 1233, 1234]),
        ("969, 30, 1", 20, [0, 19, 20, 20]),
        ("949,50,1", 777, [0, 737, 776, 777]),
        ("1,1,1", 100, [0, 34, 67, 100]),
        ("99,1", 50, [0, 50, 50, 50]),
        ("99/1", 50, [0, 50, 50, 50]),
    ],
)
def test_split_goldens(split: str, documents: int, bounds: list[int]) -> None:
    assert [r.start for r in lc.data.split(documents, split)] + [documents] == bounds


@pytest.mark.parametrize("flavor", ["neox", "megatron"])
def test_splits_equal_python(flavor: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        shares = [float(x) for x in np.round(rng.random(3) * 10.0 ** rng.integers(0, 4), 2)]
        documents = int(rng.integers(1, 10**7))
        if sum(shares) == 0:
            continue
        parts = [share / sum(shares) for share in shares]
        if flavor == "neox":
            bounds = [0]
            for part in parts:
                bounds.append(bounds[-1] + round(part * documents))
            bounds = [0, *(min(max(b + documents - bounds[-1], 0), documents) for b in bounds[1:])]
        else:
            bounds = [round(edge * documents) for edge in (0, parts[0], parts[0] + parts[1], sum(parts))]
        got = lc.data.split(documents, ",".join(map(str, shares)), flavor)  # type: ignore[arg-type]
        assert [got[0].start, *(r.stop for r in got)] == bounds, shares


@pytest.mark.parametrize("split", ["", "x", "1,-1", "0,0,0", "1,2,3,4"])
def test_a_bad_split_is_refused(split: str) -> None:
    with pytest.raises(errors.ConfigError, match="split"):
        lc.data.split(10, split)


def test_parts_share_no_document(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "d", [[k] * 20 for k in range(50)])
    parts = lc.data.samples(tmp_path / "d", seq_length=7, split="80,10,10")
    seen = [
        {int(x) for i in range(len(part) + 1) for x in part.item(i)[0]}
        for part in (parts.train, parts.valid, parts.test)
        if part
    ]
    assert seen == [set(range(40)), set(range(40, 45)), set(range(45, 50))]


def test_an_empty_part_is_said(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "d", [[k] * 9 for k in range(50)])
    parts = lc.data.samples(tmp_path / "d", seq_length=7, split="99,1", count=(10, 5, 0))
    assert parts.valid is None and parts.test is None
    assert len(parts.warnings) == 1 and "no valid documents of 50" in parts.warnings[0]
    with pytest.raises(errors.ConfigError, match="train"):
        lc.data.samples(tmp_path / "d", seq_length=7, split="0,1")


# --- blends


def greedy(weights: Sequence[float], n: int) -> list[int]:
    taken, order = [0] * len(weights), []
    for i in range(n):
        behind = [w * max(i, 1) - t for w, t in zip(weights, taken, strict=True)]
        order.append(behind.index(max(behind)))
        taken[order[-1]] += 1
    return order


def constant_sets(folder: Path, count: int) -> list[Path]:
    """Set k holds the token k alone."""
    for k in range(count):
        lc.data.write(folder / f"s{k}", [[k] * 50] * 3)
    return [folder / f"s{k}" for k in range(count)]


def sets_of(train: lc.data.Samples, n: int) -> list[int]:
    return [int(train.item(i)[0][0]) for i in range(n)]


@pytest.mark.parametrize("flavor", ["neox", "megatron"])
@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ((0.7, 0.2, 0.1), [0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1]),
        ((1, 1), [0, 1, 0, 1, 0, 1]),
        ((0.3, 0.3, 0.4), [2, 0, 1, 2, 0, 1, 2, 0]),
    ],
)
def test_blend_goldens(tmp_path: Path, weights: tuple[float, ...], order: list[int], flavor: str) -> None:
    sets = constant_sets(tmp_path, len(weights))
    sources = [lc.data.Source(path, weight) for path, weight in zip(sets, weights, strict=True)]
    train = lc.data.samples(train=sources, seq_length=5, count=40, flavor=flavor).train  # type: ignore[arg-type]
    assert sets_of(train, len(order)) == order


@pytest.mark.parametrize("count", [2, 7, 8, 9, 30, 150])
def test_blends_equal_numpy(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    weights = rng.integers(1, 10**6, count).astype(float)
    sources = [lc.data.Source(p, w) for p, w in zip(constant_sets(tmp_path, count), weights, strict=True)]
    n = 2000
    train = lc.data.samples(train=sources, seq_length=5, count=n, flavor="neox").train
    normal = np.array([w / math.fsum(weights) for w in weights])
    assert sets_of(train, n) == greedy((normal / np.sum(normal)).tolist(), n)
    megatron = lc.data.samples(train=sources, seq_length=5, count=n, flavor="megatron").train
    shares = weights / np.sum(weights)
    assert sets_of(megatron, n) == greedy(shares.tolist(), n)
    assert len(megatron) == sum(math.ceil(n * share) for share in shares)


def test_a_blend_draws_each_set_in_its_own_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts = [random_set(tmp_path / f"d{k}", rng, 20, 30) for k in range(2)]
    sources = [lc.data.Source(tmp_path / f"d{k}", weight) for k, weight in enumerate((3.0, 1.0))]
    n, s = 200, 6
    train = lc.data.samples(train=sources, seq_length=s, count=n, seed=77).train
    each = [neox_oracle(text, s, 77, math.ceil(n * w * 1.005)) for text, w in zip(texts, (0.75, 0.25), strict=True)]
    assert len(train) == sum(len(samples) - 1 for samples in each)
    taken = [iter(samples) for samples in each]
    assert joined(train, n) == [next(taken[k]) for k in greedy([0.75, 0.25], n)]


def test_a_list_of_one_set_is_a_blend(tmp_path: Path) -> None:
    """GPT-NeoX asks half a percent more of it than of `data_path`: 201 samples may need another epoch."""
    texts = random_set(tmp_path / "d", np.random.default_rng(4), 30, 30)
    n = (sum(map(len, texts)) - 1) // 5
    listed = lc.data.samples(train=[tmp_path / "d"], seq_length=5, count=n).train
    alone = lc.data.samples(tmp_path / "d", split="1", seq_length=5, count=n).train
    assert joined(listed, 20) == neox_oracle(texts, 5, 1234, math.ceil(n * 1.005))[:20]
    assert joined(alone, 20) == neox_oracle(texts, 5, 1234, n)[:20] != joined(listed, 20)


def test_alpha_weights(tmp_path: Path) -> None:
    np.testing.assert_allclose(
        lc.data.weights_by_num_documents([100, 300, 600], 1.0), [0.1667, 0.3889, 0.4444], atol=5e-5
    )
    np.testing.assert_allclose(
        lc.data.weights_by_num_documents([100, 300, 600], 0.3), [0.35184, 0.38048, 0.26768], atol=5e-6
    )
    for k, documents in enumerate((1, 3, 6)):
        lc.data.write(tmp_path / f"s{k}", [[k] * 40] * documents)
    sources = [lc.data.Source(tmp_path / f"s{k}", 1000.0 * (k == 0) + 1) for k in range(3)]
    blend = lc.data.samples(
        train=sources, seq_length=5, count=1000, weight_by_num_documents=True, weighted_sampler_alpha=0.3
    ).train
    got = np.bincount(sets_of(blend, 1000), minlength=3) / 1000
    np.testing.assert_allclose(got, [0.35184, 0.38048, 0.26768], atol=2e-3)


def test_unused_and_bad_weights(tmp_path: Path) -> None:
    a, b = constant_sets(tmp_path, 2)
    parts = lc.data.samples(train=[lc.data.Source(a, 0), lc.data.Source(b, 2)], seq_length=5, count=20)
    assert set(sets_of(parts.train, 20)) == {1} and "weight 0" in parts.warnings[0]
    for weights in ((0, 0), (-1, 2), (math.nan, 1), (math.inf, 1)):
        with pytest.raises(errors.ConfigError, match="weight"):
            lc.data.samples(train=[lc.data.Source(a, weights[0]), lc.data.Source(b, weights[1])], seq_length=5, count=9)


def test_an_epoch_of_a_blend_uses_each_sample_once(tmp_path: Path) -> None:
    for k, documents in enumerate((2, 5)):
        lc.data.write(tmp_path / f"s{k}", [[100 * k + 10 * d + i for i in range(10)] for d in range(documents)])
    blend = lc.data.samples(train=[tmp_path / "s0", tmp_path / "s1"], seq_length=4).train
    items = [tuple(item) for item in joined(blend, len(blend))]
    assert len(set(items)) == len(items)


# --- what is wrong is named


def test_an_id_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    texts = [[1, 2, 3, 4, 5, 6], [7, 8, 999, 9, 10, 11]]
    lc.data.write(tmp_path / "t", texts)
    lc.data.write(tmp_path / "l", texts)
    sources = ({"data_path": tmp_path / "t", "split": "1"}, {"train": labelled(tmp_path)})
    for source, file in zip(sources, "tt", strict=True):
        train = lc.data.samples(**source, seq_length=11, count=1, vocab_size=100).train  # type: ignore[arg-type]
        with pytest.raises(errors.CorruptDatasetError, match=rf"{file}\.bin: document 1, token 2: id 999 .*0 to 99"):
            train.item(0)
    lc.data.write(tmp_path / "t", [[1] * 6, [2] * 6])
    train = lc.data.samples(train=labelled(tmp_path), seq_length=11, count=1, vocab_size=100).train
    with pytest.raises(errors.CorruptDatasetError, match=r"l\.bin: document 1, token 2: id 999"):
        train.item(0)


def test_too_little_text(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "d", [[1, 2], [3]])
    with pytest.raises(errors.ConfigError, match=r"d: 2 documents with 3 tokens"):
        lc.data.samples(tmp_path / "d", seq_length=5, split="1")
    lc.data.write(tmp_path / "e", [[], []])
    with pytest.raises(errors.ConfigError, match="0 tokens"):
        lc.data.samples(tmp_path / "e", seq_length=5, split="1", count=3)
    lc.data.write(tmp_path / "f", [])
    with pytest.raises(errors.CorruptDatasetError, match="no sequences"):
        lc.data.samples(tmp_path / "f", seq_length=5, split="1")


def test_arguments(golden: Path) -> None:
    for bad in ({"packing": "tight"}, {"flavor": "gpt"}, {"train": [golden]}, {"count": (1, 2)}, {"vocab_size": 0}):
        with pytest.raises(errors.ConfigError):
            lc.data.samples(golden, seq_length=4, **bad)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError):
        lc.data.samples(seq_length=4)
    train = lc.data.samples(golden, seq_length=4, split="1").train
    with pytest.raises(IndexError):
        train[len(train)]
    assert len(list(train)) == len(train)


def test_the_fingerprint_follows_data_alone(tmp_path: Path) -> None:
    def of(*texts: list[list[int]], **options: object) -> str:
        for k, text in enumerate(texts):
            lc.data.write(tmp_path / f"d{k}", text)
        train = [tmp_path / f"d{k}" for k in range(len(texts))]
        return lc.data.samples(train=train, seq_length=3, count=2, **options).fingerprint  # type: ignore[arg-type]

    a, b = [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 6]]
    assert of(a, b) == of(a, b, seed=5)
    assert len({of(a), of(b), of(a, b), of(b, a)}) == 4
