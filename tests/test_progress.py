"""The live views: what they show, and that the right one is chosen."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable

import pytest

from llmjp_core import progress
from llmjp_core.progress import Meter, PlainView, clock_time, sparkline


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(step: int, loss: float = 5.0) -> dict[str, object]:
    return {"iteration": step, "loss": loss, "learning_rate": 1.5e-3, "tokens_per_sec": 6123.4, "grad_norm": 0.5}


def test_the_time_left_follows_the_pace() -> None:
    clock = Clock()
    meter = Meter(100, done=40, clock=clock)
    assert meter.remaining is None
    for step in range(41, 51):
        clock.now += 2.0
        meter.take(report(step))
    assert meter.remaining == pytest.approx(100.0)
    assert meter.share == 0.5


def test_fields_show_what_is_known() -> None:
    meter = Meter(10)
    meter.take({"iteration": 1, "loss": 5.25, "unknown": object()})
    names = [name for name, _ in meter.fields()]
    assert names == ["loss", "ETA"]
    meter.take(report(2) | {"valid_loss": 4.5})
    assert dict(meter.fields()) | {"ETA": ""} == {
        "loss": "5.0000", "valid": "4.5000", "lr": "1.50e-03", "grad": "0.500", "tokens/s": "6,123", "ETA": "",
    }  # fmt: skip


def test_a_loss_that_is_not_finite_is_not_drawn() -> None:
    meter = Meter(10)
    for step, loss in enumerate((3.0, math.nan, math.inf, 2.0), 1):
        meter.take(report(step, loss))
    assert meter.losses == [3.0, 2.0]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (59.6, "1:00"), (3675, "1:01:15")])
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([3.0]) == "▁"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 7, 0, 0], width=2) == "█▁"
    assert len(sparkline(list(range(1000)))) == progress.SPARKLINE_WIDTH


def test_plain_lines_are_few_and_keep_the_first_and_last() -> None:
    clock, stream = Clock(), io.StringIO()
    view = PlainView(Meter(100, clock=clock), stream, every=10)
    for step in range(1, 101):
        clock.now += 0.5
        view.update(report(step))
    view.note("done")
    view.close()
    shown = stream.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in shown] == [
        "step 1/100", "step 21/100", "step 41/100", "step 61/100", "step 81/100", "step 100/100", "done",
    ]  # fmt: skip
    assert "loss 5.0000 | lr 1.50e-03 | grad 0.500 | tokens/s 6,123 | ETA" in shown[0]


def test_auto_is_plain_in_a_pipe_and_rich_in_a_terminal() -> None:
    assert isinstance(progress.open_view(5, stream=io.StringIO()), PlainView)
    view = progress.open_view(5, stream=Terminal())
    view.close()
    assert type(view).__name__ == "TerminalView"


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(progress.open_view(5, stream=Terminal()), PlainView)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'fancy'"):
        progress.open_view(5, kind="fancy")  # type: ignore[arg-type]


def test_the_terminal_view_shows_bar_figures_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    view = progress.open_view(4, kind="terminal", stream=stream)
    for step in range(1, 5):
        view.update(report(step, loss=6.0 - step))
    view.note("saved [here]")
    view.close()
    view.close()
    shown = stream.getvalue()
    assert all(text in shown for text in ("100%", "step 4/4", "2.0000", "6,123", "█▆▃▁", "saved [here]")), shown


def test_the_notebook_view_updates_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, block: Callable[[], None]) -> None:
            shown.append(block.data)  # type: ignore[attr-defined]

    from llmjp_core import _notebook

    monkeypatch.setattr(_notebook, "display", lambda block, display_id: shown.append(block.data) or Handle())
    monkeypatch.setattr(_notebook, "EVERY", 0.0)
    view = _notebook.NotebookView(Meter(3))
    for step in range(1, 4):
        view.update(report(step, loss=6.0 - step))
    view.note("<b>saved</b>")
    view.close()
    count = len(shown)
    view.close()
    assert count == len(shown) == 6
    assert "value='3' max='3'" in shown[-1] and "polyline" in shown[-1]
    assert "&lt;b&gt;saved&lt;/b&gt;" in shown[-1]


def test_progress_imports_neither_rich_nor_ipython() -> None:
    program = "import sys, llmjp_core.progress as p; p.open_view(3).update({'iteration': 1}); " \
              "sys.exit(bool({'rich', 'IPython'} & set(sys.modules)))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
