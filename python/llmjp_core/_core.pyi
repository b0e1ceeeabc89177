import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

__version__: str

# --- data

_Path = str | os.PathLike[str]

class IndexedDataset:
    """A `.bin/.idx` pair, mapped into memory. `dataset[i]` is a copy of the ids of sequence i.

    The index is checked whole when it is opened (`CorruptDatasetError` names the place), ids are not:
    see `lc.data.verify`.
    """

    def __init__(self, prefix: _Path) -> None: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[Any]]: ...
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

class DatasetBuilder:
    def __init__(self, prefix: _Path, dtype: str) -> None: ...
    def add(self, ids: npt.NDArray[np.int64]) -> None: ...
    def end_document(self) -> None: ...
    def finish(self) -> dict[str, Any]: ...
    def abandon(self) -> None: ...

class Samples:
    """Training samples. `samples[i]` is `(inputs, targets)`; `item(i)` is the same, and wraps beyond the end."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
    @property
    def seq_length(self) -> int: ...
    def item(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...

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
    workers: int,
    skip_errors: bool,
    format: str | None,
    txt: str,
    tokenizer: str | None,
    sync_seconds: float,
    observe: Callable[[int, int, int, int, int], None] | None,
) -> dict[str, Any]: ...
