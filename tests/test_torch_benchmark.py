"""`lct.benchmark`: the table and the chart, not the times."""

from __future__ import annotations

import pytest
import torch
from parity import one_thread

import llmjp_core.torch as lct
from llmjp_core.errors import UnsupportedInputError
from llmjp_core.torch import timing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_op_has_a_row(dtype: torch.dtype) -> None:
    with one_thread():
        table = lct.benchmark(list(timing.CONTESTS), ("torch",), dtype=dtype, rows=8, width=64, rounds=1)
    assert [row.op for row in table.rows] == list(timing.CONTESTS)
    assert all(
        row.milliseconds.keys() == {"llmjp_core", "torch"} and min(row.ratio, row.of_limit) > 0 for row in table.rows
    )
    assert str(table).splitlines()[0] == "| op | dtype | shape | llmjp_core, ms | torch, ms | ratio | of the limit |"
    assert table._repr_html_().count("<tr>") == len(table.rows) + 1
    assert len(table.plot().axes[0].patches) == 2 * len(table.rows)


def test_a_wrong_op_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    contest = timing.CONTESTS["gelu"]
    monkeypatch.setitem(timing.CONTESTS, "gelu", timing.Contest(torch.relu, contest.plain, contest.inputs))
    with pytest.raises(AssertionError, match="gelu and torch disagree"):
        lct.benchmark("gelu", ("torch",), rows=8, width=64, rounds=1)


def test_refused() -> None:
    with pytest.raises(UnsupportedInputError, match="no op is called 'norm'"):
        lct.benchmark("norm")
    with pytest.raises(UnsupportedInputError, match="jax"):
        lct.benchmark("gelu", ("jax",))
