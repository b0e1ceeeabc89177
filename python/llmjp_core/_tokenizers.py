"""What `lc.data.tokenize` needs of a tokenizer, for ours and for those of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import _core
from .errors import ConfigError, UnsupportedInputError


@dataclass(frozen=True)
class Adapted:
    encode: Any
    """An `lc.Tokenizer`, or a function from text to ids."""
    vocab_size: int
    bos: Callable[[], int]
    eod: Callable[[], int]
    identity: str | None = None
    """Names the content; without it a killed run cannot be resumed."""


def adapt(tok: Any) -> Adapted:
    """Raises `UnsupportedInputError` for an object that is no tokenizer."""
    library = type(tok).__module__.partition(".")[0]
    if isinstance(tok, getattr(_core, "Tokenizer", ())):
        return _native(tok)
    if library == "transformers":
        return _function(
            lambda text: tok.encode(text, add_special_tokens=False), len(tok), tok.bos_token_id, tok.eos_token_id
        )
    if library == "tokenizers":
        return _function(lambda text: tok.encode(text, add_special_tokens=False).ids, tok.get_vocab_size())
    if library == "sentencepiece":
        return _function(tok.encode, tok.get_piece_size(), tok.bos_id())
    if callable(getattr(tok, "encode", None)) and isinstance(getattr(tok, "vocab_size", None), int):
        return _function(tok.encode, tok.vocab_size, getattr(tok, "bos_id", None), getattr(tok, "eod_id", None))
    raise UnsupportedInputError(f"{type(tok).__name__} has no `encode(text)` and integer `vocab_size`")


def _native(tok: Any) -> Adapted:
    bos = _known("bos", tok.bos_id)
    return Adapted(tok, tok.vocab_size, bos, lambda: int(tok.eod_id()), tok.fingerprint)


def _function(
    encode: Callable[[str], Sequence[int]], vocab_size: int, bos: object = None, eod: object = None
) -> Adapted:
    return Adapted(encode, vocab_size, _known("bos", bos), _known("eod", eod))


def _known(name: str, value: object) -> Callable[[], int]:
    def get() -> int:
        if isinstance(value, int) and value >= 0:
            return value
        raise ConfigError(f"the tokenizer names no {name} id; pass {name}=<id>" if name == "eod" else f"no {name} id")

    return get
