"""The quickstart end to end, cut to a few steps: the same code, checked by transformers, torch and sentencepiece."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from matplotlib.image import imread

import llmjp_core as lc
from llmjp_core.quickstart import DATA, evaluation
from llmjp_core.quickstart.baselines import KneserNeyBigram, Unigram, perplexity

STEPS = 40


def quickstart(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "llmjp_core", "quickstart", "--out", str(folder), "--iters", str(STEPS), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "quickstart"


@pytest.fixture(scope="module")
def shown(folder: Path) -> str:
    return quickstart(folder)


@pytest.fixture(scope="module")
def result(folder: Path, shown: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return loaded


def works(part: str) -> list[dict[str, str]]:
    with gzip.open(DATA / f"{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def reference_tokens(folder: Path, shown: str) -> dict[str, np.ndarray]:
    """The tokens of both parts as the sentencepiece package makes them."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    end = [model.piece_to_id("<|endoftext|>")]
    ids = {part: [model.encode(w["text"]) + end for w in works(part)] for part in ("train", "held_out")}
    return {part: np.concatenate(each) for part, each in ids.items()}


def test_the_text_is_attributed_and_split_by_work() -> None:
    train, held_out = works("train"), works("held_out")
    assert not {w["id"] for w in train} & {w["id"] for w in held_out}
    assert not {hashlib.sha256(w["text"].encode()).digest() for w in train} & {
        hashlib.sha256(w["text"].encode()).digest() for w in held_out
    }
    assert 2e6 < sum(len(w["text"].encode()) for w in train + held_out) < 4e6
    attribution = (DATA / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for work in train + held_out:
        assert work["credit"] and f"| {work['title']} | {work['author']} |" in attribution


def test_the_tokenizer_is_a_unigram_model_with_byte_fallback(folder: Path, shown: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert model.get_piece_size() == 4096
    assert model.is_byte(model.piece_to_id("<0xE3>"))
    assert model.is_control(model.piece_to_id("<|endoftext|>"))
    assert "tokenizer  4,096 pieces" in shown


def test_it_prints_what_it_found(shown: str, result: dict[str, Any], folder: Path) -> None:
    for text in (
        "held-out perplexity",
        "Kneser-Ney bigram",
        "unigram",
        "bits per character",
        "tokens/s",
        "peak memory",
    ):
        assert text in shown
    assert f"{result['perplexity']:.1f}" in shown
    assert str(folder / "loss_curve.png") in shown
    assert sum(line.startswith("  llmjp-core ") for line in shown.splitlines()) == 3
    assert result["continuation"] and result["steps"] == STEPS and result["tokens_per_sec"] > 0
    # Of this process, tests that ran before included.
    assert 30 * 2**20 < result["peak_memory"] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_tokens_are_those_of_sentencepiece(
    folder: Path, shown: str, reference_tokens: dict[str, np.ndarray]
) -> None:
    for part, want in reference_tokens.items():
        got = np.concatenate(lc.data.IndexedDataset(folder / "data" / part)[:])
        np.testing.assert_array_equal(got, want)


def test_the_baselines_are_on_the_same_tokens(result: dict[str, Any], reference_tokens: dict[str, np.ndarray]) -> None:
    train, held_out = reference_tokens["train"], reference_tokens["held_out"]
    for name, model in (("unigram", Unigram(train, 4096)), ("bigram", KneserNeyBigram(train, 4096))):
        assert result[f"{name}_perplexity"] == pytest.approx(perplexity(model.log_likelihood(held_out)), rel=1e-9)
    characters = sum(len(w["text"]) for w in works("held_out"))
    bits = math.log2(result["perplexity"]) * (len(held_out) - 1) / characters
    assert result["bits_per_character"] == pytest.approx(bits, rel=1e-9)


def test_a_few_steps_learn_something(result: dict[str, Any]) -> None:
    """Better than a guess among 4096 pieces by far, and on the way to the unigram."""
    assert result["perplexity"] < 1.5 * result["unigram_perplexity"] < 4096 / 2


def test_the_plot_is_a_picture(folder: Path, shown: str) -> None:
    pixels = imread(folder / "loss_curve.png")
    assert pixels.shape[:2] == (675, 1200) and pixels[..., :3].std() > 0.05


def test_transformers_opens_the_folder(
    folder: Path, result: dict[str, Any], reference_tokens: dict[str, np.ndarray]
) -> None:
    """The same logits, and the same perplexity of the whole held-out part."""
    import torch
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()
    ours = lc.Model.load(folder / "hf")
    tokens = reference_tokens["held_out"].astype(np.int64)
    inputs, targets = tokens[:-1], tokens[1:]
    total = 0.0
    with torch.no_grad():
        for number, cut in enumerate(evaluation.windows(len(targets), 128)):
            logits = theirs(torch.from_numpy(inputs[cut])).logits
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(targets[cut]).flatten(), reduction="sum"
            ).item()
            if number == 0:
                assert np.abs(ours.logits(inputs[cut]) - logits.numpy()).max() < 1e-4
    assert result["perplexity"] == pytest.approx(math.exp(total / len(targets)), rel=1e-4)


def test_transformers_has_the_same_ids(folder: Path, shown: str) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder / "hf")
    # Hugging Face sums scores in f64, SentencePiece in f32: they part at a rare near tie.
    ours = lc.Tokenizer.from_file(folder / "hf/tokenizer.model", compat="hf")
    paragraphs = [p for work in works("held_out") for p in work["text"].split("\n") if p]
    assert len(paragraphs) > 1000
    assert [theirs.encode(p, add_special_tokens=False) for p in paragraphs] == ours.encode_batch(paragraphs)
    assert theirs.decode(theirs.encode(paragraphs[0])) == paragraphs[0]


def test_a_second_call_only_measures(folder: Path, result: dict[str, Any]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").rglob("*.safetensors")}
    quickstart(folder)
    again = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").rglob("*.safetensors")} == before
    varying = {"peak_memory"}
    assert {k: v for k, v in again.items() if k not in varying} == {k: v for k, v in result.items() if k not in varying}


def test_restart_begins_anew(folder: Path, result: dict[str, Any]) -> None:
    quickstart(folder, "--restart")
    again = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert again["perplexity"] == result["perplexity"]  # bit for bit: same seed, same data


def test_windows_cover_each_place_once() -> None:
    for length, window in ((10, 3), (9, 3), (2, 3), (1, 1), (128 * 16 * 2 + 5, 128)):
        batches = evaluation.windows(length, window)
        assert sorted(np.concatenate([b.ravel() for b in batches])) == list(range(length))
        assert all((np.diff(b, axis=1) == 1).all() for b in batches)
