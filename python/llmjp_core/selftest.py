"""`selftest`: every op against its float64 reference, on this machine and with the kernels that run here."""

from __future__ import annotations

from dataclasses import dataclass

from . import _core
from .cuda import device_number
from .errors import InternalError


@dataclass(frozen=True)
class Check:
    """One result of one op, as `rms_norm.dx`; on a GPU with its dtype, as `rms_norm.dx.bfloat16`."""

    name: str
    error: float
    """The largest difference from the reference, in parts of the largest exact value."""
    bound: float
    passed: bool


def selftest(*, device: int | str = "cpu", strict: bool = True) -> list[Check]:
    """Runs every op, forward and backward, on small odd shapes; raises `InternalError` where one is wrong.

    `device="cuda"` (or `"cuda:1"`) runs those that have a kernel for GPUs, in each dtype; without a GPU it raises
    `DeviceError`. With `strict=False` a wrong result is only marked (`passed`).
    """
    number = device_number(device)
    checks = [Check(*each) for each in (_core.ops.selftest() if number is None else _core.cuda.selftest(number))]
    wrong = [f"{check.name} ({check.error:.1e}, may be {check.bound:.1e})" for check in checks if not check.passed]
    if wrong and strict:
        what, help = f"the {kernels(device)} kernels", "LLMJP_ISA=baseline may help"
        if number is not None:
            help = "LLMJP_CUDA_CODE=ptx may help; please report it"
        raise InternalError(f"wrong results from {what}: {', '.join(wrong)}; {help}")
    return checks


def kernels(device: int | str) -> str:
    """Which kernels a selftest runs: an instruction set, or the device and what its kernels were compiled for."""
    number = device_number(device)
    if number is None:
        return _core.ops.isa()
    return f"cuda:{number} ({_core.cuda.properties(number)[0]}) {_core.cuda.target(number, 'add')}"
