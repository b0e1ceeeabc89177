"""GPUs: whether there are any, and which. The names are torch's.

`device: cuda` in a configuration trains on one; generation and `llmjp_core.torch` are on the CPU.
"""

from __future__ import annotations

from . import _core
from .errors import DeviceError, UnsupportedInputError


def is_available() -> bool:
    """Whether this library can use a GPU here: it has kernels, and there is a driver with a device."""
    return missing() is None


def missing() -> str | None:
    """What is missing where `is_available` is false."""
    return _core.cuda.missing()


def device_count() -> int:
    """How many GPUs can be asked for; 0 where `missing` says why."""
    return _core.cuda.device_count()


def get_device_name(device: int | str | None = None) -> str:
    """The name of a GPU, by its number or as `cuda:1`; the first by default."""
    number = 0 if device is None else device_number(device)
    if number is None:
        raise DeviceError(f"`device` must name a GPU, as 0 or 'cuda:0', got {device!r}")
    return _core.cuda.properties(number)[0]


def device_number(device: int | str) -> int | None:
    """The number of a GPU; None for the CPU."""
    if isinstance(device, int) and device >= 0:
        return device
    kind, colon, number = str(device).partition(":")
    if kind == "cpu" and not colon:
        return None
    if kind == "cuda" and (not colon or (number.isascii() and number.isdigit())):
        return int(number or 0)
    raise UnsupportedInputError(f"`device` must be 'cpu', 'cuda' or 'cuda:0', got {device!r}")
