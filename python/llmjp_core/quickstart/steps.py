"""The steps of the quickstart. Each can be repeated: what is there already is used or written again."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import Model, Tokenizer, data, train
from ..errors import CheckpointError, InternalError
from . import baselines, evaluation

if TYPE_CHECKING:
    from .._tokenizer_training import TrainingReport
    from ..run import Run

DATA = Path(str(files(__package__) / "data"))
TOKENIZER: dict[str, Any] = {
    "model_type": "unigram",
    "vocab_size": 4096,
    "character_coverage": 0.9995,  # the rarest kanji become bytes
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,  # Japanese has no space before a word
    "user_defined_symbols": ["\n"],
    "control_symbols": ["<|endoftext|>"],
    "max_sentence_length": 1 << 20,
}
PROMPT = "ある日の暮方の事である。"


@dataclass(frozen=True)
class Corpus:
    """The tokens on disk and in memory."""

    train_prefix: Path
    held_out_prefix: Path
    train: Any
    """Every token of the training works, `<|endoftext|>` after each."""
    held_out: Any
    works: tuple[int, int]
    held_out_characters: int


@dataclass(frozen=True)
class Result:
    """What the quickstart found. Losses are nats a token."""

    parameters: int
    steps: int
    perplexity: float
    unigram_perplexity: float
    bigram_perplexity: float
    bits_per_character: float
    tokens_per_sec: float
    train_seconds: float
    peak_memory: int
    """Bytes: the most this process had, up to the end of the export."""
    prompt: str
    continuation: str
    plot: Path | None
    """The loss curve; None where matplotlib is not installed."""
    model: Path
    """The folder that transformers opens."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def run(
    out: str | os.PathLike[str] = "runs/quickstart",
    *,
    overrides: dict[str, Any] | None = None,
    restart: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Walks the whole road in the folder `out`; a run that was broken off goes on where its last checkpoint is.

    `overrides` are keys of the config (`{"train_iters": 20}`); `restart` forgets the checkpoints of an earlier run.
    """
    out = Path(out)
    if restart:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(out, say)
    corpus = prepare(out, tokenizer)
    say(
        f"text       {corpus.works[0]} works, {len(corpus.train):,} tokens to learn from; "
        f"{corpus.works[1]} other works, {len(corpus.held_out):,} tokens, held out"
    )
    trained = learn(out, corpus, overrides or {})
    if trained.interrupted:
        raise KeyboardInterrupt
    say(f"trained    {trained.num_parameters:,} parameters, {trained.iteration} steps")
    model = export(trained.model, tokenizer, out / "hf")
    say(f"exported   {out / 'hf'}, read back: the same logits bit for bit")
    result = measure(out, model, tokenizer, corpus, trained)
    result.save(out / "result.json")
    return result


def paragraphs(part: str) -> Iterator[str]:
    """Of all works of a part."""
    for work in data.documents(DATA / f"{part}.jsonl.gz"):
        yield from work.text.split("\n")


def make_tokenizer(out: Path, say: Callable[[str], None]) -> Tokenizer:
    """Trains `tokenizer.model` on the works to learn from: the same file each time."""
    reports: list[TrainingReport] = []
    tokenizer = Tokenizer.train(paragraphs("train"), **TOKENIZER, progress=False, report=reports.append)
    tokenizer.save(out / "tokenizer.model")
    (report,) = reports
    say(f"tokenizer  {report.pieces:,} pieces from {report.characters:,} characters in {report.seconds:.1f} s")
    return tokenizer


def prepare(out: Path, tokenizer: Tokenizer) -> Corpus:
    """Text to `.bin/.idx`, both parts."""
    made = {}
    for part in ("train", "held_out"):
        prefix = out / "data" / part
        prefix.parent.mkdir(exist_ok=True)
        made[part] = data.tokenize(DATA / f"{part}.jsonl.gz", tokenizer, prefix, append_eod=True, progress=False)
    tokens = {part: np.concatenate(summary.datasets[0].open()[:]) for part, summary in made.items()}
    return Corpus(
        train_prefix=made["train"].prefix,
        held_out_prefix=made["held_out"].prefix,
        train=tokens["train"],
        held_out=tokens["held_out"],
        works=(made["train"].documents, made["held_out"].documents),
        held_out_characters=made["held_out"].characters,
    )


def learn(out: Path, corpus: Corpus, overrides: dict[str, Any]) -> Run:
    """Trains, or goes on, or finds the training done."""
    shutil.copyfile(DATA / "quickstart.yml", out / "quickstart.yml")
    paths = {
        "vocab_file": str(out / "tokenizer.model"),
        "train_data_paths": [str(corpus.train_prefix)],
        "valid_data_paths": [str(corpus.held_out_prefix)],
        "test_data_paths": [str(corpus.held_out_prefix)],
        "save": str(out / "checkpoints"),
        "load": str(out / "checkpoints"),
        "log_dir": str(out / "logs"),
    }
    # JSON is YAML: the two files together are a config that `llmjp-core train` takes.
    (out / "paths.yml").write_text(json.dumps(paths, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    try:
        return train(out / "quickstart.yml", out / "paths.yml", overrides=overrides, resume="auto")
    except CheckpointError as error:
        raise CheckpointError(f"{error}\n`llmjp-core quickstart --restart` forgets the earlier run") from error


def export(trained: Model, tokenizer: Tokenizer, folder: Path) -> Model:
    """Writes the folder, opens it again and compares the logits."""
    trained.save(folder, tokenizer=tokenizer, overwrite=True)
    model = Model.load(folder)
    ids = [tokenizer.encode(PROMPT)]
    if not np.array_equal(model.logits(ids), trained.logits(ids)):
        raise InternalError(
            f"the model read back from {folder} gives other logits than the one written; please report it"
        )
    return model


def measure(out: Path, model: Model, tokenizer: Tokenizer, corpus: Corpus, trained: Run) -> Result:
    """All figures, on the model that was read back."""
    vocab_size = tokenizer.vocab_size
    loss = evaluation.mean_loss(model, corpus.held_out, window=trained.config["seq_length"])
    unigram = baselines.Unigram(corpus.train, vocab_size).log_likelihood(corpus.held_out)
    bigram = baselines.KneserNeyBigram(corpus.train, vocab_size).log_likelihood(corpus.held_out)
    text = model.generate(tokenizer, PROMPT, max_new_tokens=80, temperature=0.8, top_p=0.95, seed=1)
    counted = {"unigram": -float(unigram.mean()), "Kneser-Ney bigram": -float(bigram.mean())}
    figures = trained.summary()
    return Result(
        parameters=model.num_parameters,
        steps=trained.iteration,
        perplexity=math.exp(loss),
        unigram_perplexity=baselines.perplexity(unigram),
        bigram_perplexity=baselines.perplexity(bigram),
        bits_per_character=loss * (len(corpus.held_out) - 1) / math.log(2) / corpus.held_out_characters,
        tokens_per_sec=figures["tokens_per_sec"] or 0.0,
        train_seconds=figures["training_seconds"],
        peak_memory=figures["peak_memory_bytes"],
        prompt=PROMPT,
        continuation=text.removeprefix(PROMPT),
        plot=draw(trained, counted, out / "loss_curve.png"),
        model=out / "hf",
    )


def draw(trained: Run, counted: dict[str, float], path: Path) -> Path | None:
    try:
        from ..plots import loss_curve

        return loss_curve(trained.history, baselines=counted, title="llmjp-core quickstart").save(path)
    except ImportError:
        return None
