import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final, overload

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

__version__: str

# --- data

_Path = str | os.PathLike[str]

@final
class IndexedDataset:
    """A `.bin/.idx` pair, mapped into memory. `dataset[i]` is a copy of the ids of sequence i.

    The index is checked whole when it is opened (`CorruptDatasetError` names the place), ids are not:
    see `lc.data.verify`.
    """

    def __new__(cls, prefix: _Path) -> IndexedDataset: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[npt.NDArray[Any]]: ...
    def get(self, index: int, offset: int = 0, length: int | None = None) -> npt.NDArray[Any]: ...
    @property
    def sizes(self) -> npt.NDArray[np.int32]: ...
    @property
    def documents(self) -> npt.NDArray[np.int64]: ...
    @property
    def num_documents(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def prefix(self) -> Path: ...
    def fingerprint(self) -> str: ...

@final
class DatasetBuilder:
    def __new__(cls, prefix: _Path, dtype: str) -> DatasetBuilder: ...
    def add(self, ids: npt.NDArray[np.int64]) -> None: ...
    def end_document(self) -> None: ...
    def finish(self) -> dict[str, Any]: ...
    def abandon(self) -> None: ...

@final
class Samples:
    """Training samples. `samples[i]` is `(inputs, targets)`; `item(i)` is the same, and wraps beyond the end."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
    @property
    def seq_length(self) -> int: ...
    def item(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...

@final
class DocumentReader:
    """The documents of inputs, a batch a call."""

    def __new__(
        cls,
        inputs: Sequence[str],
        *,
        key: str,
        skip_errors: bool,
        format: str | None,
        txt: str,
        parquet: Callable[[Path, list[str]], Any] | None,
    ) -> DocumentReader: ...
    def next_batch(self) -> tuple[list[str], list[Path], list[int | None], list[str]] | None: ...

def data_verify(prefix: _Path, vocab_size: int | None = None) -> dict[str, Any]: ...
def data_split(split: str, documents: int, flavor: str) -> list[int]: ...
def data_weights(documents: Sequence[int], alpha: float) -> list[float]: ...
def data_samples(
    split: tuple[str, str] | None,
    lists: tuple[Any, ...],
    *,
    seq_length: int,
    seed: int,
    samples: Sequence[int | None],
    packing: str,
    allow_chopped: bool,
    flavor: str,
    weight_by_num_documents: bool,
    weighted_sampler_alpha: float,
    eod_mask_loss: bool,
    eod: int | None,
    vocab_size: int,
) -> dict[str, Any]: ...
def data_tokenize(
    encode: Any,
    inputs: Sequence[str],
    outputs: Sequence[tuple[str, str]],
    *,
    dtype: str | None,
    vocab_size: int,
    bos: int | None,
    eod: int | None,
    workers: int | None,
    skip_errors: bool,
    format: str | None,
    txt: str,
    tokenizer: str | None,
    sync_seconds: float,
    observe: Callable[[int, int, int, int, int], None] | None,
    parquet: Callable[[Path, list[str]], Any] | None,
) -> dict[str, Any]: ...

# --- tokenizer

def tokenizer_train(
    named: dict[str, Any],
    *,
    inputs: Sequence[str] | None,
    sentences: Iterator[str] | None,
    format: str | None,
    key: str,
    normalizer_from: _Path | None,
    parquet: Callable[[Path, list[str]], Any] | None,
    observe: Callable[[str, int, int], None] | None,
) -> tuple[bytes, str, dict[str, Any]]: ...
def tokenizer_train_options() -> list[str]: ...
def tokenizer_reestimate(
    tokenizer: Tokenizer,
    add_pieces: Sequence[str],
    *,
    inputs: Sequence[str] | None,
    sentences: Iterator[str] | None,
    format: str | None,
    key: str,
    parquet: Callable[[Path, list[str]], Any] | None,
    iterations: int,
    num_threads: int | None,
    observe: Callable[[str, int, int], None] | None,
) -> bytes: ...

@final
class Tokenizer:
    """Text to ids and back: a SentencePiece model with the ids of the `sentencepiece` package, or a
    `tokenizer.json` with those of Hugging Face `tokenizers` (`add_special_tokens=False`).

    Immutable and shared freely between threads; no begin, end or document piece is added unless
    asked for. Text is `str`, or `bytes` in which each byte that is not UTF-8 counts as U+FFFD.
    A picklable object; a pickle holds the whole model.

    Examples:
        >>> tok = Tokenizer.from_file("m.model")
        >>> ids = tok.encode("日本語の文")
        >>> tok.decode(ids)
        '日本語の文'
    """

    @staticmethod
    def from_file(
        path: str | os.PathLike[str],
        *,
        compat: str = "sentencepiece",
        special_tokens: Mapping[str, str] | None = None,
    ) -> Tokenizer:
        """Reads a `.model` file, a `tokenizer.json`, or a folder with one; the content tells which.

        Of a `tokenizer.json`, BPE (byte-level or over characters) and Unigram models are read, with
        added tokens, which are found in the text, special or not. A component that is not supported
        is refused by name. `truncation` and `padding` are left out, as transformers does. `decode`
        leaves special tokens out.

        Args:
            path: the file or folder. A folder's `tokenizer_config.json` names its special tokens.
            compat: whose ids are meant, since sentencepiece changed the arithmetic of unigram
                models: "sentencepiece" (0.2.2 and later), "sentencepiece<=0.2.1", or "hf" (what
                Hugging Face makes of the folder that `export` writes). A `tokenizer.json` is
                always "hf".
            special_tokens: of a `tokenizer.json`, the tokens behind `bos_id`, `eos_id`, `pad_id` and
                `unk_id`, by "bos_token", ...; default: the usual names among its special tokens.

        Raises:
            TokenizerError: the file is damaged, or of a kind that is not supported (named).
            UnsupportedModelError: a component of `tokenizer.json`, or a model beyond the limits, is
                not supported (named).
            FileError: the file cannot be read.
        """

    @staticmethod
    def from_bytes(
        model: bytes, *, compat: str = "sentencepiece", special_tokens: Mapping[str, str] | None = None
    ) -> Tokenizer:
        """As `from_file`, from the file's bytes."""

    @staticmethod
    def train(
        input: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Iterable[str], **options: Any
    ) -> Tokenizer:
        """Trains a SentencePiece model.

        Args:
            input: a path, folder or glob, or a list of them: `.txt` (a sentence a line) or
                `.jsonl`, also with `.gz`, `.zst`, `.xz`. Or any other iterable of str (a
                generator, `iter(sentences)`): a sentence each.
            options: SentencePiece's own options with its defaults, among them `vocab_size`
                (8000), `model_type` ("unigram" or "bpe"), `character_coverage` (0.9995),
                `byte_fallback`, `user_defined_symbols`, `control_symbols`, `required_chars`,
                `normalization_rule_name` ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf" or
                "identity"), `max_sentence_length` (4192 bytes; longer sentences are cut at
                sentence ends, counted and reported), `max_sentencepiece_length` (16),
                `pretokenization_delimiter` (no piece crosses it), `auto_character_coverage` (BPE
                with `byte_fallback`: the alphabet that gives the fewest tokens),
                `num_threads` (changes no result). Further:
                `vocab`, a path for the list of pieces with their scores;
                `input_format`, "text" or "jsonl" for files whose names do not say it, or "tsv"
                (a line is a sentence, a tab and how often it occurs);
                `json_key` ("text"); `normalizer_from`, a model file whose normaliser is taken;
                `progress`, False or a function of what is done; `report`, a function that is
                given counts of what became of the text (default: cuts are told on stderr).

        Raises:
            ConfigError: an unknown option (the nearest one is named) or a value of another kind.
            TokenizerError: options that cannot be met, such as a vocabulary larger than the text
                gives or smaller than its alphabet.
            CorruptDatasetError: a line that is not UTF-8 or no JSON, with file and line.
        """

    def reestimate(
        self,
        texts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Iterable[str],
        add_pieces: Sequence[str] | None = None,
        **options: Any,
    ) -> Tokenizer:
        """A copy of a unigram model whose scores are estimated on other text.

        Every piece keeps its id; scores of ordinary pieces change, those of control, user-defined
        and byte pieces do not. New pieces come after the last id.

        Args:
            texts: what `train` takes as `input`.
            add_pieces: pieces to add; `▁` stands for a space. What it takes to join the
                vocabularies of several models: train them, add the pieces of one to another.
            options: `iterations` of expectation maximisation (8), `num_threads` (changes no
                result), `input_format`, `json_key`, `progress` as in `train`.

        Raises:
            UnsupportedModelError: a BPE model.
            TokenizerError: a piece is there already, is empty, or has a space in it.
        """

    def encode(
        self,
        text: str | bytes,
        *,
        add_bos: bool = False,
        add_eos: bool = False,
        enable_sampling: bool = False,
        alpha: float = 0.1,
        nbest_size: int = -1,
        seed: int = 0,
    ) -> list[int]:
        """The ids of one text. With `enable_sampling`, as the first text of `encode_batch`.

        Raises:
            TokenizerError: `add_bos` or `add_eos` and the model has no such piece.
            UnsupportedInputError: `text` is neither str nor bytes, or has a lone surrogate.
        """

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        num_threads: int | None = None,
        *,
        enable_sampling: bool = False,
        alpha: float = 0.1,
        nbest_size: int = -1,
        seed: int = 0,
    ) -> list[list[int]]:
        """The ids of each text, over several threads; the same for any number of them.

        Args:
            texts: str or bytes each.
            num_threads: default `LLMJP_NUM_THREADS`, else `OMP_NUM_THREADS`, else the machine's.
            enable_sampling: draw each text's segmentation at random (subword regularization), by
                `seed` and the text's place alone. Of SentencePiece models only.
            alpha: unigram: how much better segmentations are preferred, 0 not at all; BPE: the
                probability with which a merge is left out.
            nbest_size: unigram: draw among this many of the best, below 0 among all, 0 and 1 the
                best one.
            seed: of the draws.

        Raises:
            UnsupportedInputError: a text is neither str nor bytes; `alpha` or `nbest_size` is out of range.
            UnsupportedModelError: the model cannot be sampled from.
        """

    @overload
    def encode_flat(
        self,
        texts: Iterable[str | bytes],
        num_threads: int | None = None,
        *,
        return_offsets: None = None,
        enable_sampling: bool = False,
        alpha: float = 0.1,
        nbest_size: int = -1,
        seed: int = 0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """As `encode_batch`, as one array of all ids and one of offsets.

        Args:
            return_offsets: "bytes" or "characters": a third array has the place of each token, as
                Hugging Face's `offset_mapping`. Bytes are of UTF-8; of `bytes`, each byte that is
                not UTF-8 is a character. The bytes of an unknown character share its place: the
                last has it, the others are empty and stand at its beginning.

        Returns:
            `(ids, offsets)`; text `i` is `ids[offsets[i]:offsets[i + 1]]`. With `return_offsets`
            `(ids, offsets, places)`; token `k` stands for `[places[k, 0], places[k, 1])` of its text.

        Examples:
            >>> ids, offsets, places = tok.encode_flat(texts, return_offsets="characters")
            >>> [texts[0][begin:end] for begin, end in places[: offsets[1]]]
        """

    @overload
    def encode_flat(
        self,
        texts: Iterable[str | bytes],
        num_threads: int | None = None,
        *,
        return_offsets: Literal["bytes", "characters"],
        enable_sampling: bool = False,
        alpha: float = 0.1,
        nbest_size: int = -1,
        seed: int = 0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
    def encode_as_pieces(self, text: str | bytes) -> list[str]:
        """The pieces of a text, as strings; `▁` is a space."""

    def encode_with_offsets(self, text: str | bytes) -> list[tuple[int, str, int, int]]:
        """The tokens of a text as `(id, piece, begin, end)`; `encode_flat` has them as arrays, faster.

        Places count characters of a `str`, bytes of `bytes`. The bytes of an unknown character
        share its place: the last has it, the others are empty and stand at its beginning.
        """

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids. Control pieces vanish; bytes that form no character become U+FFFD.

        Raises:
            UnsupportedInputError: an id outside the vocabulary, with its place.
        """

    def piece_to_id(self, piece: str) -> int | None:
        """The id of a piece, `None` where there is no such piece (never the unknown id)."""

    def id_to_piece(self, id: int) -> str:
        """The piece of an id."""

    def eod_id(self, piece: str | None = None) -> int:
        """The id that ends a document: of the piece asked for, else of the first of
        `<|endoftext|>`, `<EOD|LLM-jp>`, `<EOD>` that the model has.

        Raises:
            TokenizerError: there is none; the message lists the model's candidates.
        """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file that it was read from: a `.model` or a `tokenizer.json`."""

    def export(self, dir: str | os.PathLike[str], *, parse_special: bool = False) -> None:
        """Writes a folder that `transformers.AutoTokenizer` opens, with the same ids.

        Nothing is appended on encoding there either (of a `tokenizer.json`, which is written as it
        was read, with `add_special_tokens=False`). Hugging Face sums the scores of unigram models in
        f64, so that about one document in some hundreds may differ at a near tie; BPE models have
        the same ids.

        Args:
            dir: made where it is missing.
            parse_special: whether `</s>` and the like typed in a text become the special piece
                there, as chat templates want. By default they are plain characters, as here. A
                `tokenizer.json` has special tokens in text, here and there.

        Raises:
            UnsupportedModelError: the model has something that the format cannot say.
        """

    @property
    def vocab_size(self) -> int:
        """Number of pieces, of all kinds."""

    @property
    def unk_id(self) -> int | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def pad_id(self) -> int | None: ...
    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model file."""

    @property
    def compat(self) -> str:
        """Whose ids these are; see `from_file`."""

    def __len__(self) -> int: ...

# --- model

@final
class Model:
    @staticmethod
    def load(path: str, dtype_name: str) -> Model: ...
    @staticmethod
    def from_config(
        sources: Sequence[tuple[str | None, str]], overrides: str, seed: int | None, dtype_name: str
    ) -> Model: ...
    @staticmethod
    def initialized(config: str, init: str, seed: int, dtype_name: str) -> Model: ...
    @staticmethod
    def from_tensors(config: str, tensors: Sequence[tuple[str, NDArray[np.float32]]], dtype_name: str) -> Model: ...
    @property
    def config(self) -> str: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int | None, list[int], int | None]: ...
    def tensors(self) -> dict[str, NDArray[np.float32]]: ...
    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def loss(self, ids: NDArray[np.int32], targets: NDArray[np.int32], options: Mapping[str, Any]) -> float: ...
    def gradients(
        self,
        ids: NDArray[np.int32],
        targets: NDArray[np.int32],
        options: Mapping[str, Any],
        recompute_layers: int | None,
    ) -> tuple[float, dict[str, NDArray[np.float32]]]: ...
    def generate(self, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]) -> list[list[int]]: ...
    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]: ...
    def save(self, path: str, options: Mapping[str, Any]) -> None: ...

# --- config
def config_load(sources: Sequence[tuple[str | None, str]], overrides: str) -> tuple[str, list[str]]: ...
def config_plan(sources: Sequence[tuple[str | None, str]], overrides: str) -> str: ...
def config_to_yaml(mapping: str) -> str: ...
def config_parse_override(text: str) -> tuple[str, str]: ...
def config_keys() -> list[tuple[str, str, str, str, str, str]]: ...

# --- ops

_F32 = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int32]
_Stored = npt.NDArray[Any]  # float32, or the bits of a half type in uint16
_Heads = tuple[int, int, int, int]  # offset, stride, count, dim

class ops:
    """Every op on numpy arrays, for tests and `lc.selftest()`; not a public interface (a module, in truth)."""

    @staticmethod
    def embedding_forward(table: _Stored, token_ids: _Ids, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def embedding_backward(dtable: _F32, dy: _Stored, token_ids: _Ids, dtype: str = "float32") -> _F32: ...
    @staticmethod
    def linear_forward(x: _Stored, w: _Stored, bias: _Stored | None = None, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def linear_backward_input(dy: _Stored, w: _Stored, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def linear_backward_weight(
        dw: _F32, dbias: _F32 | None, dy: _Stored, x: _Stored, dtype: str = "float32"
    ) -> tuple[_F32, _F32 | None]: ...
    @staticmethod
    def rms_norm_forward(x: _Stored, w: _Stored, eps: float, dtype: str = "float32") -> tuple[_Stored, _F32]: ...
    @staticmethod
    def rms_norm_forward_add(
        x: _Stored, residual: _Stored, w: _Stored, eps: float, dtype: str = "float32"
    ) -> tuple[_Stored, _Stored, _F32]: ...
    @staticmethod
    def rms_norm_backward(
        dw: _F32,
        dy: _Stored,
        x: _Stored,
        rstd: _F32,
        w: _Stored,
        dresidual: _Stored | None = None,
        dtype: str = "float32",
    ) -> tuple[_Stored, _F32]: ...
    @staticmethod
    def layer_norm_forward(
        x: _Stored, w: _Stored, bias: _Stored | None, eps: float, dtype: str = "float32"
    ) -> tuple[_Stored, _F32, _F32]: ...
    @staticmethod
    def layer_norm_forward_add(
        x: _Stored, residual: _Stored, w: _Stored, bias: _Stored | None, eps: float, dtype: str = "float32"
    ) -> tuple[_Stored, _Stored, _F32, _F32]: ...
    @staticmethod
    def layer_norm_backward(
        dw: _F32,
        dbias: _F32 | None,
        dy: _Stored,
        x: _Stored,
        mean: _F32,
        rstd: _F32,
        w: _Stored,
        dresidual: _Stored | None = None,
        dtype: str = "float32",
    ) -> tuple[_Stored, _F32, _F32 | None]: ...
    @staticmethod
    def rotary(
        qkv: _Stored,
        heads: _Heads,
        ndims: int,
        base: float,
        positions: int,
        start: int = 0,
        backward: bool = False,
        dtype: str = "float32",
    ) -> _Stored: ...
    @staticmethod
    def attention_forward(
        qkv: _Stored,
        q: _Heads,
        k: _Heads,
        v: _Heads,
        scale: float,
        dtype: str = "float32",
        window: tuple[int, int] = (-1, 0),
        document_ids: Sequence[int] | None = None,
    ) -> tuple[_Stored, _F32]: ...
    @staticmethod
    def attention_backward(
        dout: _Stored,
        out: _Stored,
        lse: _F32,
        qkv: _Stored,
        q: _Heads,
        k: _Heads,
        v: _Heads,
        scale: float,
        dtype: str = "float32",
        window: tuple[int, int] = (-1, 0),
        document_ids: Sequence[int] | None = None,
    ) -> _Stored: ...
    @staticmethod
    def attention_decode(
        q: _Stored, keys: _Stored, values: _Stored, scale: float, dtype: str = "float32"
    ) -> _Stored: ...
    @staticmethod
    def activation_forward(x: _Stored, kind: str, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def activation_backward(dy: _Stored, x: _Stored, kind: str, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def gated_mlp_forward(gate_up: _Stored, kind: str, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def gated_mlp_backward(dh: _Stored, gate_up: _Stored, kind: str, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def add_forward(a: _Stored, b: _Stored, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def cross_entropy_forward(
        logits: _Stored,
        targets: _Ids,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        dtype: str = "float32",
    ) -> _F32: ...
    @staticmethod
    def cross_entropy_backward(
        logits: _Stored,
        targets: _Ids,
        grad_scale: float,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        dtype: str = "float32",
    ) -> _Stored: ...
    @staticmethod
    def linear_cross_entropy_forward(
        x: _Stored,
        w: _Stored,
        targets: _Ids,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        dtype: str = "float32",
    ) -> _F32: ...
    @staticmethod
    def linear_cross_entropy_forward_backward(
        dw: _F32,
        x: _Stored,
        w: _Stored,
        targets: _Ids,
        grad_scale: float,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        dtype: str = "float32",
    ) -> tuple[_F32, _Stored, _F32]: ...
    @staticmethod
    def cast_from_f32(x: _F32, dtype: str = "float32") -> _Stored: ...
    @staticmethod
    def adamw_step(
        p: _F32,
        m: _F32,
        v: _F32,
        g: _F32,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step: int,
        grad_scale: float = 1.0,
    ) -> tuple[_F32, _F32, _F32]: ...
    @staticmethod
    def grad_norm_sum_of_squares(g: _F32) -> float: ...
    @staticmethod
    def grad_norm_first_non_finite(g: _F32) -> int | None: ...
    @staticmethod
    def set_num_threads(threads: int) -> None: ...
    @staticmethod
    def num_threads() -> int: ...
    @staticmethod
    def isa() -> str: ...
    @staticmethod
    def peak(dtype: str) -> float:
        """Operations a second that the vector unit of one core gives for products of `dtype`."""
    @staticmethod
    def selftest() -> list[tuple[str, float, float, bool]]:
        """(name, error, bound, passed) of each result of each op in float32 against its float64 reference."""

# --- cuda

class cuda:
    """GPUs; `llmjp_core.cuda` is the public interface (a module, in truth)."""

    @staticmethod
    def missing() -> str | None:
        """Why no GPU can be used, None when one can."""
    @staticmethod
    def device_count() -> int: ...
    @staticmethod
    def properties(device: int) -> tuple[str, tuple[int, int], int, str | None]:
        """(name, (major, minor) of its compute capability, bytes of memory, the kernels that are meant for it)"""
    @staticmethod
    def target(device: int, op: str) -> str:
        """Loads the kernels of an op; what they are: `sm_90`, or `compute_80` for PTX."""
    @staticmethod
    def built() -> tuple[str, list[str], list[str], list[str]]:
        """(version of the compiler, targets, ops, kernels) in this library."""
    @staticmethod
    def selftest(device: int, ops: Sequence[str] | None = None) -> list[tuple[str, float, float, bool]]:
        """[(name, error, bound, passed)] of each result of each kernel on a device against its float64 reference."""

# --- torch

class torch:
    """Ops on torch's CPU tensors, in place; `llmjp_core.torch` is the public interface (a module, in truth)."""

    @staticmethod
    def pooled(x: Any, width: int | None = None) -> Any | None:
        """A DLPack capsule like x, or with rows of another width, for `torch.utils.dlpack.from_dlpack`; None where
        there is no memory."""
    @staticmethod
    def rms_norm_forward(y: Any, rstd: Any | None, x: Any, w: Any, eps: float) -> None: ...
    @staticmethod
    def rms_norm_forward_add(y: Any, sum: Any, rstd: Any, x: Any, residual: Any, w: Any, eps: float) -> None: ...
    @staticmethod
    def rms_norm_backward(
        dx: Any, dw: Any, dy: Any, x: Any, rstd: Any, w: Any, dresidual: Any | None = None
    ) -> None: ...
    @staticmethod
    def layer_norm_forward(y: Any, stats: Any | None, x: Any, w: Any, bias: Any | None, eps: float) -> None: ...
    @staticmethod
    def layer_norm_forward_add(
        y: Any, sum: Any, stats: Any, x: Any, residual: Any, w: Any, bias: Any | None, eps: float
    ) -> None: ...
    @staticmethod
    def layer_norm_backward(
        dx: Any, dw: Any, dbias: Any | None, dy: Any, x: Any, stats: Any, w: Any, dresidual: Any | None = None
    ) -> None: ...
    @staticmethod
    def add(y: Any, a: Any, b: Any) -> None: ...
    @staticmethod
    def activation_forward(y: Any, x: Any, kind: str) -> None: ...
    @staticmethod
    def activation_backward(dx: Any, dy: Any, x: Any, kind: str) -> None: ...
    @staticmethod
    def gated_mlp_forward(h: Any, gate: Any, up: Any, kind: str) -> None: ...
    @staticmethod
    def gated_mlp_backward(dgate: Any, dup: Any, dh: Any, gate: Any, up: Any, kind: str) -> None: ...
    @staticmethod
    def linear_forward(y: Any, x: Any, w: Any, bias: Any | None = None) -> None: ...
    @staticmethod
    def linear_backward_input(dx: Any, dy: Any, w: Any) -> None: ...
    @staticmethod
    def linear_backward_input_add(dx: Any, dy: Any, w: Any) -> None: ...
    @staticmethod
    def linear_backward_weight(dw: Any, dbias: Any | None, dy: Any, x: Any) -> None: ...
    @staticmethod
    def rotary_into(y: Any, x: Any, cos: Any, sin: Any, interleaved: bool, backward: bool) -> None: ...
    @staticmethod
    def attention_forward(
        out: Any,
        lse: Any | None,
        turned: Any | None,
        q: Any,
        k: Any | None,
        v: Any | None,
        cos: Any | None,
        sin: Any | None,
        document: Any | None,
        scale: float,
        left: int,
        right: int,
        heads_first: bool,
    ) -> None: ...
    @staticmethod
    def attention_backward(
        dq: Any,
        dk: Any | None,
        dv: Any | None,
        dout: Any,
        out: Any,
        lse: Any,
        q: Any,
        k: Any | None,
        v: Any | None,
        cos: Any | None,
        sin: Any | None,
        document: Any | None,
        scale: float,
        left: int,
        right: int,
        heads_first: bool,
    ) -> None: ...
    @staticmethod
    def cross_entropy_forward(
        losses: Any, sums: Any, logits: Any, target: Any, ignore_index: int, label_smoothing: float, z_loss: float
    ) -> tuple[float, int]: ...
    @staticmethod
    def cross_entropy_backward(
        dlogits: Any,
        logits: Any,
        sums: Any,
        target: Any,
        scale: float,
        mean: bool,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
    ) -> None: ...
    @staticmethod
    def linear_cross_entropy_forward(
        losses: Any, x: Any, w: Any, target: Any, ignore_index: int, label_smoothing: float, z_loss: float
    ) -> None: ...
    @staticmethod
    def linear_cross_entropy_forward_backward(
        losses: Any,
        dx: Any,
        dw: Any,
        x: Any,
        w: Any,
        target: Any,
        grad_scale: float,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
    ) -> None: ...
    @staticmethod
    def adamw_step(
        p: Sequence[Any],
        m: Sequence[Any],
        v: Sequence[Any],
        g: Sequence[Any],
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step: int,
        grad_scale: float,
        dither: tuple[int, Sequence[int]] | None = None,
    ) -> None: ...
    @staticmethod
    def sum_of_squares(g: Sequence[Any]) -> list[float]: ...

# --- train

@final
class Trainer:
    """The trainer of a run; `lc.train` is the loop around it."""

    def __new__(cls, config: str, resume_name: str) -> Trainer: ...
    def step(self) -> dict[str, Any]: ...
    @property
    def last_report(self) -> dict[str, Any] | None: ...
    def gradient_norms(self) -> list[tuple[str, float]]: ...
    def evaluate(self, part_name: str) -> dict[str, Any]: ...
    def save(self) -> str | None: ...
    @property
    def checkpoint(self) -> str | None: ...
    def release(self) -> None: ...
    def can_evaluate(self, part_name: str) -> bool: ...
    @property
    def should_evaluate(self) -> bool: ...
    @property
    def should_save(self) -> bool: ...
    @property
    def should_exit(self) -> bool: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def iteration(self) -> int: ...
    @property
    def train_iters(self) -> int: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def notes(self) -> list[str]: ...
    def tensors(self) -> list[tuple[str, npt.NDArray[np.float32]]]: ...
    def moments(self, second: bool) -> list[tuple[str, npt.NDArray[np.float32]]]: ...
    def into_model(self) -> Model: ...

@final
class LossScaler:
    """fp16 loss scaling as DeepSpeed does it."""

    def __new__(
        cls,
        loss_scale: float,
        initial_scale_power: int,
        loss_scale_window: int,
        hysteresis: int,
        min_loss_scale: float,
        abort_at_min: bool,
    ) -> LossScaler: ...
    @property
    def scale(self) -> float: ...
    def update(self, overflow: bool) -> None: ...

def learning_rates(config: dict[str, Any], steps: Sequence[int]) -> npt.NDArray[np.float64]: ...
def checkpoint_verify(folder: _Path) -> str: ...
