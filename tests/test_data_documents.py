"""Labels, masks and samples of whole documents: against numpy, as GPT-NeoX builds them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from reference_samples import IGNORE, labelled, labelled_set, neox_oracle, shuffled

import llmjp_core as lc
from llmjp_core import errors


def test_labels_say_where_the_loss_is(tmp_path: Path) -> None:
    texts, labels = labelled_set(tmp_path, np.random.default_rng(0), 40, 30)
    train = lc.data.samples(train=labelled(tmp_path), seq_length=9, count=60).train
    wanted = math.ceil(60 * 1.005)
    tokens, targets = (neox_oracle(x, 9, 1234, wanted) for x in (texts, labels))
    for i in range(60):
        inputs, got = train[i]
        assert inputs.tolist() == tokens[i][:-1] and got.tolist() == targets[i][1:]


def test_any_negative_label_means_no_loss(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "t", [[1, 2, 3, 4, 5]])
    lc.data.write(tmp_path / "l", [[1, -1, 3, -7, 5]])
    train = lc.data.samples(train=labelled(tmp_path), seq_length=3, count=1).train
    assert train.item(0)[1].tolist() in ([IGNORE, 3, IGNORE], [3, IGNORE, 5])


def test_labels_must_mirror_their_text(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "t", [[1, 2, 3], [4, 5]])
    for labels, what in (([[1, 2, 3]], "1 label sequences for the 2"), ([[1, 2, 3], [4]], "sequence 1 has 1 labels")):
        lc.data.write(tmp_path / "l", labels)
        with pytest.raises(errors.CorruptDatasetError, match=what):
            lc.data.samples(train=labelled(tmp_path), seq_length=3, count=1)


def test_no_loss_after_eod(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lc.data.write(tmp_path / "d", [[*rng.integers(1, 50, 7).tolist(), 0] for _ in range(30)])
    plain = lc.data.samples(tmp_path / "d", seq_length=11, split="1", eod=0).train
    masked = lc.data.samples(tmp_path / "d", seq_length=11, split="1", eod=0, eod_mask_loss=True).train
    hidden = 0
    for i in range(len(plain)):
        (inputs, targets), (same, fewer) = plain[i], masked[i]
        np.testing.assert_array_equal(inputs, same)
        np.testing.assert_array_equal(fewer, np.where(inputs == 0, IGNORE, targets))
        hidden += int((inputs == 0).sum())
    assert hidden > 20
    with pytest.raises(errors.ConfigError, match="eod"):
        lc.data.samples(tmp_path / "d", seq_length=11, split="1", eod_mask_loss=True)


def whole_oracle(
    texts: list[list[int]], labels: list[list[int]], s: int, n: int, seed: int, packing: str, chopped: bool
) -> list[tuple[list[int], list[int]]]:
    """(s + 1 tokens, s + 1 labels) in training order."""
    rng = np.random.RandomState(seed)
    places = shuffled(rng, np.arange(n))
    order = np.arange(len(texts))
    if packing == "pack_until_overflow":
        rng.shuffle(order)
    groups: list[list[int]] = []
    while len(groups) <= n:
        for k in order:
            unusable = all(x == IGNORE for x in labels[k][: s + 1]) or (not chopped and len(texts[k]) > s + 1)
            if unusable:
                continue
            fits = groups and sum(len(texts[j]) for j in groups[-1]) + len(texts[k]) <= s + 1
            if packing == "unpacked" or not fits:
                groups.append([])
            groups[-1].append(int(k))
        if packing == "pack_until_overflow":
            rng.shuffle(order)

    def padded(rows: list[list[int]], group: list[int], fill: int) -> list[int]:
        return ([x for k in group for x in rows[k]] + [fill] * (s + 1))[: s + 1]

    return [(padded(texts, groups[k], 0), padded(labels, groups[k], IGNORE)) for k in places]


@pytest.mark.parametrize("packing", ["pack_until_overflow", "unpacked"])
@pytest.mark.parametrize("chopped", [True, False])
@pytest.mark.parametrize("case", range(4))
def test_whole_documents(tmp_path: Path, packing: str, chopped: bool, case: int) -> None:
    rng = np.random.default_rng(case)
    texts, labels = labelled_set(tmp_path, rng, int(rng.integers(5, 40)), 30)
    s, seed, n = int(rng.integers(8, 40)), int(rng.integers(0, 2**31)), int(rng.integers(1, 120))
    train = lc.data.samples(
        train=labelled(tmp_path),
        seq_length=s,
        count=n,
        seed=seed,
        packing=packing,
        allow_chopped=chopped,  # type: ignore[arg-type]
    ).train
    wanted = math.ceil(n * 1.005)
    expected = whole_oracle(texts, labels, s, wanted, seed, packing, chopped)
    assert len(train) == wanted
    for i, (tokens, targets) in enumerate(expected):
        inputs, got = train[i]
        assert (inputs.tolist(), got.tolist()) == (tokens[:-1], targets[1:]), i


def test_whole_documents_of_a_split_stay_in_their_part(tmp_path: Path) -> None:
    """GPT-NeoX takes the documents from the start of the file for every part."""
    lc.data.write(tmp_path / "d", [[k + 1] * 5 for k in range(40)])
    parts = lc.data.samples(tmp_path / "d", seq_length=14, split="30,10", count=20, packing="pack_until_overflow")
    assert parts.valid is not None
    seen = {int(x) for i in range(20) for x in parts.valid[i][0]}
    assert seen == set(range(31, 41))


def test_no_usable_document(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "t", [[1] * 9, [2] * 9])
    lc.data.write(tmp_path / "l", [[IGNORE] * 9] * 2)
    for packing in ("unpacked", "pack_until_overflow"):
        with pytest.raises(errors.ConfigError, match="none of the 2 documents"):
            lc.data.samples(train=labelled(tmp_path), seq_length=20, count=5, packing=packing)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="none of the 2 documents"):
        lc.data.samples(
            tmp_path / "t", split="1", seq_length=5, count=5, packing="pack_until_overflow", allow_chopped=False
        )
    with pytest.raises(errors.ConfigError, match="label"):
        lc.data.samples(tmp_path / "t", split="1", seq_length=5, count=5, packing="unpacked")
