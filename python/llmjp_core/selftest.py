"""`selftest`: every op against its float64 reference, on this machine and with the kernels that run here."""

from __future__ import annotations

from dataclasses import dataclass

from . import _core
from .errors import InternalError


@dataclass(frozen=True)
class Check:
    """One result of one op, as `rms_norm.dx`."""

    name: str
    error: float
    """The largest difference from the reference, in parts of the largest exact value."""
    bound: float
    passed: bool


def selftest(*, strict: bool = True) -> list[Check]:
    """Runs every op, forward and backward, on small odd shapes; raises `InternalError` where one is wrong.

    With `strict=False` a wrong result is only marked (`passed`).
    """
    checks = [Check(*each) for each in _core.ops.selftest()]
    wrong = [f"{check.name} ({check.error:.1e}, may be {check.bound:.1e})" for check in checks if not check.passed]
    if wrong and strict:
        isa = _core.ops.isa()
        raise InternalError(f"wrong results from the {isa} kernels: {', '.join(wrong)}; LLMJP_ISA=baseline may help")
    return checks
