"""`Model`: a decoder of the GPT-NeoX or Llama family with its weights, on the CPU, without torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from . import _core
from .config import Source, _encode
from .config import load as load_config
from .errors import TokenizerError, UnsupportedInputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Folder: TypeAlias = "str | os.PathLike[str]"


class TextTokenizer(Protocol):
    """What `generate` and `loglikelihood` ask of a tokenizer; `lc.Tokenizer` has it."""

    def encode(self, text: str, *, add_bos: bool = False) -> Sequence[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def eod_id(self) -> int: ...


def _eod(tokenizer: TextTokenizer) -> list[int]:
    """The id that ends a document, if the tokenizer has a piece for it."""
    try:
        return [int(tokenizer.eod_id())]
    except TokenizerError:
        return []


def _tokens(name: str, value: ArrayLike) -> NDArray[np.int32]:
    """A (batch, time) array of ids as int32; nothing is rounded, wrapped or broadcast."""
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        got = f"shape {array.shape} of {array.dtype}"
        raise UnsupportedInputError(f"{name} must be a (batch, time) array of integers, got {got}")
    outside = (array < -(2**31)) | (array >= 2**31)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise UnsupportedInputError(f"{name}[{row}, {column}] = {array[row, column]} is no token id")
    return np.ascontiguousarray(array, dtype=np.int32)


def _ids(name: str, value: Sequence[int]) -> list[int]:
    """One sequence of ids."""
    flat = _tokens(name, [np.asarray(value)]) if len(value) else np.zeros((1, 0), dtype=np.int32)
    return [int(token) for token in flat[0]]


class Model:
    """A language model: logits, losses, gradients, text.

    Weights and activations are stored in `dtype` (`float32`, `bfloat16` or `float16`); sums are
    always float32. Made by :meth:`load` or :meth:`from_config`.
    """

    def __init__(self, core: _core.Model) -> None:
        self._core = core

    # -- made from -------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Folder, *, dtype: str = "float32") -> Model:
        """Reads a folder of `transformers` (`config.json` and safetensors, one file or shards).

        GPT-NeoX, Llama and Mistral classes, the last with its sliding window. Anything else is
        refused by the key that asks for it; pickles are refused by name.
        """
        return cls(_core.Model.load(os.fspath(path), dtype))

    @classmethod
    def from_config(
        cls,
        *sources: Source,
        overrides: Mapping[str, Any] | None = None,
        seed: int | None = None,
        dtype: str = "float32",
    ) -> Model:
        """The model with which a run of these YAML files (or mappings) begins.

        `overrides` as in `lc.config.load`; `seed` replaces that of the configuration.
        """
        resolved = load_config(*sources, overrides=overrides)
        return cls(_core.Model.from_config(_encode((resolved,)), "[]", seed, dtype))

    @classmethod
    def from_spec(
        cls,
        spec: Mapping[str, Any],
        *,
        init: Mapping[str, Any] | None = None,
        seed: int = 1234,
        tensors: Mapping[str, ArrayLike] | None = None,
        dtype: str = "float32",
    ) -> Model:
        """A model from explicit fields, such as `Model.config` has them.

        With `tensors` ({HF name: array}) it takes these weights; else it draws them by `init`
        (default: all matrices N(0, 0.02)) from `seed`.
        """
        text = json.dumps(dict(spec))
        if tensors is None:
            method = {"normal": {"std": 0.02}}
            law = json.dumps(dict(init) if init is not None else {"method": method, "output_method": method})
            return cls(_core.Model.initialized(text, law, seed, dtype))
        named = [(name, np.ascontiguousarray(value, dtype=np.float32)) for name, value in tensors.items()]
        return cls(_core.Model.from_tensors(text, named, dtype))

    # -- what it is ------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Every field of the architecture, resolved."""
        config: dict[str, Any] = json.loads(self._core.config)
        return config

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors; a tied output matrix counts once."""
        return self._core.num_parameters

    @property
    def dtype(self) -> str:
        """How weights and activations are stored."""
        return self._core.dtype

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every tensor under its HF name, in float32."""
        return self._core.tensors()

    def __repr__(self) -> str:
        return f"Model({self._core})"

    # -- asked -----------------------------------------------------------------------------------

    def logits(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Logits (batch, time, vocabulary) of token ids (batch, time)."""
        return self._core.logits(_tokens("ids", ids))

    def loss(
        self,
        ids: ArrayLike,
        targets: ArrayLike,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> float:
        """Mean cross-entropy of `targets` (batch, time), the tokens that should follow `ids`.

        Targets equal to `ignore_index` do not count; NaN when none counts, as in torch.
        """
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
        return self._core.loss(_tokens("ids", ids), _tokens("targets", targets), options)

    def gradients(
        self,
        ids: ArrayLike,
        targets: ArrayLike,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        recompute_layers: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """The gradient of :meth:`loss` for every tensor, under its HF name.

        `recompute_layers` keeps activations at the borders of blocks of that many layers and
        computes the rest again: less memory, the same bits.
        """
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
        _, grads = self._core.gradients(_tokens("ids", ids), _tokens("targets", targets), options, recompute_layers)
        return grads

    def generate(
        self,
        tokenizer: TextTokenizer | None,
        prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: int | Sequence[int] | None = None,
        add_bos: bool = False,
    ) -> Any:
        """Continues a prompt, or several: text when given text, ids when given ids, prompt included.

        `temperature` 0 takes the most likely token each time; otherwise tokens are drawn after
        temperature, top-k (0 is off) and top-p (1 is off), the same ones for the same `seed`.
        `stop` lists the ids that end a sequence; by default the end-of-text ids of the model and of
        the tokenizer. A stop token stays in ids and is left out of text. `add_bos` begins text with
        the tokenizer's first piece, as models want that were trained so.
        """
        one = isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], int | np.integer))
        prompts: list[Any] = [prompt] if one else list(prompt)
        stops = self._stops(tokenizer, stop)
        ids = [self._encode(tokenizer, p, add_bos=add_bos) for p in prompts]
        options = {
            "max_new_tokens": max_new_tokens,
            "temperature": float(temperature),
            "top_k": top_k,
            "top_p": float(top_p),
            "seed": seed,
            "stop": stops,
        }
        new = self._core.generate(ids, options)
        results = [_joined(tokenizer, *each, stops) for each in zip(prompts, ids, new, strict=True)]
        return results[0] if one else results

    def loglikelihood(
        self,
        tokenizer: TextTokenizer | None,
        context: str | Sequence[int],
        continuations: Sequence[str | Sequence[int]],
    ) -> list[tuple[float, bool]]:
        """For each continuation: log p(continuation | context), and whether greedy generation gives it.

        Text is cut as lm-evaluation-harness cuts it: context and continuation are encoded together,
        and spaces at the end of the context belong to the continuation.
        """
        pairs = [self._pair(tokenizer, context, continuation) for continuation in continuations]
        return self._core.loglikelihood(pairs)

    def save(
        self,
        path: Folder,
        *,
        dtype: str | None = None,
        tokenizer: _core.Tokenizer | None = None,
        max_shard_bytes: int = 5_000_000_000,
        hidden_act: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes a folder that `transformers` opens with the same logits; whole, or not at all.

        `dtype` is the weights' (default: the model's own). `tokenizer` adds its files and ids.
        `overwrite` replaces a model folder. A model that no class of `transformers` computes is
        refused with the keys that stand in the way.
        """
        bos, eos, pad = self._core.token_ids
        options = {
            "dtype": dtype,
            "max_shard_bytes": max_shard_bytes,
            "hidden_act": hidden_act,
            "overwrite": overwrite,
            "bos": bos,
            "eos": eos,
            "pad": pad,
            "files": [],
        }
        if tokenizer is not None:
            options |= _tokenizer_files(tokenizer)
        self._core.save(os.fspath(path), options)

    # -- texts and ids ---------------------------------------------------------------------------

    def _encode(
        self, tokenizer: TextTokenizer | None, prompt: str | Sequence[int], *, add_bos: bool = False
    ) -> list[int]:
        if not isinstance(prompt, str):
            return _ids("prompt", prompt)
        if tokenizer is None:
            raise UnsupportedInputError("a prompt of text needs a tokenizer; pass one, or token ids")
        return [int(token) for token in tokenizer.encode(prompt, add_bos=add_bos)]

    def _stops(self, tokenizer: TextTokenizer | None, stop: int | Sequence[int] | None) -> list[int]:
        if stop is not None:
            return [stop] if isinstance(stop, int) else [int(token) for token in stop]
        own = self._core.token_ids[1]
        return own if tokenizer is None else own + _eod(tokenizer)

    def _pair(
        self, tokenizer: TextTokenizer | None, context: str | Sequence[int], continuation: str | Sequence[int]
    ) -> tuple[list[int], list[int]]:
        if isinstance(context, str) and isinstance(continuation, str):
            spaces = len(context) - len(context.rstrip())
            if spaces:
                context, continuation = context[:-spaces], context[-spaces:] + continuation
            head, whole = self._encode(tokenizer, context), self._encode(tokenizer, context + continuation)
            return head, whole[len(head) :]
        return self._encode(tokenizer, context), self._encode(tokenizer, continuation)


def _tokenizer_files(tokenizer: _core.Tokenizer) -> dict[str, Any]:
    """What a tokenizer adds to a folder: its files, and the ids with a meaning.

    Both the end of a document and the end of a sequence end generation.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "tokenizer")
        tokenizer.export(folder)
        files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    ends = list(dict.fromkeys(_eod(tokenizer) + eos))
    return {"files": files, "bos": tokenizer.bos_id, "eos": ends, "pad": tokenizer.pad_id}


def _joined(
    tokenizer: TextTokenizer | None, prompt: str | Sequence[int], ids: list[int], new: list[int], stops: list[int]
) -> str | list[int]:
    """Prompt and continuation. A text prompt is kept as it was given, whatever encoding makes of it."""
    if not isinstance(prompt, str) or tokenizer is None:
        return ids + new
    text = new[:-1] if new and new[-1] in stops else new
    head, whole = tokenizer.decode(ids), tokenizer.decode(ids + text)
    return prompt + whole[len(head) :] if whole.startswith(head) else whole
