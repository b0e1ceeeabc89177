"""SentencePiece models of every kind, trained on the spot, and the reference that reads them."""

from __future__ import annotations

import functools
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm

DATA = Path(__file__).parent / "data"
NEKO = DATA / "neko_unigram.model"

# What differs from a model with byte fallback, character map nmt_nfkc and 2500 pieces.
KINDS: dict[str, dict[str, Any]] = {
    "unigram_plain": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "unigram_nfkc": {},
    "unigram_casefold": {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": False},
    "unigram_unk": {"byte_fallback": False, "character_coverage": 0.98},
    "unigram_suffix": {"treat_whitespace_as_suffix": True},
    "unigram_no_prefix": {"add_dummy_prefix": False, "normalization_rule_name": "identity"},
    "unigram_symbols": {"user_defined_symbols": ["<a>", "<a>b", "吾輩", "猫で", "ＡＢ", " x "]},
    "unigram_spaces": {"allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False},
    "unigram_no_specials": {"bos_id": -1, "eos_id": -1, "pad_id": 3, "unk_piece": "[UNK]"},
    "bpe_plain": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "bpe_nfkc": {"model_type": "bpe"},
    "bpe_unk": {"model_type": "bpe", "byte_fallback": False, "character_coverage": 0.98},
    "bpe_suffix": {"model_type": "bpe", "treat_whitespace_as_suffix": True},
    "bpe_symbols": {"model_type": "bpe", "user_defined_symbols": ["<a>", "<a>b", "吾輩", "猫で", "ＡＢ", " x "]},
    "bpe_digits": {"model_type": "bpe", "split_digits": True, "vocab_size": 4000},
}


@functools.cache
def model_bytes(kind: str) -> bytes:
    """The `.model` file of a kind, trained on `neko.txt` (about a second)."""
    options: dict[str, Any] = {
        "vocab_size": 2500,
        "byte_fallback": True,
        "character_coverage": 0.995,
        "max_sentence_length": 16384,
        "required_chars": "".join(map(chr, range(33, 127))),
        "minloglevel": 2,
        "num_threads": 2,
        "hard_vocab_limit": False,
    } | KINDS[kind]
    out = io.BytesIO()
    lines = (DATA / "neko.txt").read_text(encoding="utf-8").splitlines()
    extra = ["A cat and 2 dogs (１２３) ＡＢＣ ｶﾞｷﾞ <a> x y", "The  quick\tbrown fox; jumps over 1905 lazy dogs."] * 20
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines + extra), model_writer=out, **options)
    return out.getvalue()


def reference(model: bytes) -> spm.SentencePieceProcessor:
    return spm.SentencePieceProcessor(model_proto=model)


def check_interruption(work: Callable[[], object]) -> None:
    """`work` takes longer than 0.1 s; a signal then stops it, and what its handler raises comes out."""

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Stop):
            work()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
