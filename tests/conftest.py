"""What tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository, or `LLMJP_SHARED`."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("LLMJP_SHARED", default))
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is not there; set LLMJP_SHARED")
    return path
