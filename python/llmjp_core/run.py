"""`lc.train`: the loop around the trainer, and the `Run` that it returns."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import _core, config, history, progress, sinks
from .errors import FileError

if TYPE_CHECKING:
    from .model import Model
    from .plots import Plot

Resume = Literal["auto", "never", "must"]
Progress: TypeAlias = "bool | progress.Kind"
Part = Literal["validation", "test"]


def train(
    *configs: config.Source,
    overrides: Mapping[str, Any] | None = None,
    resume: Resume = "auto",
    progress: Progress = True,
) -> Run:
    """Trains the run that GPT-NeoX YAML files (or mappings) describe, and returns it.

    `resume`: `auto` goes on from the newest checkpoint in `save` (or `load`) where there is one, `must` asks for
    one, `never` refuses a `save` folder that has any. `progress`: False is silent; or the name of a view, see
    `llmjp_core.progress`.

    Ctrl-C (and SIGTERM) ends the run within a step: the step in progress is dropped, a checkpoint is written, and the
    `Run` says so in `status`. A second Ctrl-C ends the process at once; the checkpoints on disk stay whole.

    Every step is a line of `metrics.jsonl`, in `log_dir`, else in `save`, else in a new folder below `runs/`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resolved = config.load(*configs, overrides=overrides)
    notes = [str(warning.message) for warning in caught]
    with _Stop() as stop:
        run = Run(resolved, _command(configs, overrides))
        _Loop(run, stop, resume, _kind(progress)).go(notes)
    return run


class Run:
    """A finished, interrupted or stopped run."""

    def __init__(self, resolved: dict[str, Any], command: str | None) -> None:
        self.config = resolved
        """Every key with its final value."""
        self.command = command
        """The command line that goes on with this run; None where it was not given by files alone."""
        self.history = history.History()
        """A report for each step and evaluation, those before a resume included."""
        self.status = "running"
        """`finished`, `interrupted`, `terminated` (SIGTERM) or `exit_interval`."""
        self.checkpoint: Path | None = None
        """The newest checkpoint, a folder that `transformers` opens too."""
        self.metrics: Path | None = None
        """`metrics.jsonl`."""
        self.iteration = self.train_iters = 0
        self.num_parameters = 0
        self._trainer: _core.Trainer | None = None

    @cached_property
    def model(self) -> Model:
        """The model with its present weights, in float32."""
        from .model import Model

        if self._trainer is None:
            raise RuntimeError("the run has not begun")
        trainer, self._trainer = self._trainer, None
        return Model(trainer.into_model())

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run before its last step."""
        return self.status in ("interrupted", "terminated")

    def plot(self, **options: Any) -> Plot:
        """The loss curve, see `llmjp_core.plots.loss_curve`."""
        from .plots import loss_curve

        return loss_curve(self.history, **options)

    def summary(self) -> dict[str, Any]:
        """The run in a few figures."""
        steps = [report for report in self.history if "loss" in report]
        valid = [report for report in self.history if "valid_loss" in report]
        seconds = sum(report["seconds"] for report in steps)
        tokens = sum(report["tokens"] for report in steps)
        return {
            "status": self.status,
            "iteration": self.iteration,
            "train_iters": self.train_iters,
            "parameters": self.num_parameters,
            "loss": steps[-1]["loss"] if steps else None,
            "valid_loss": valid[-1]["valid_loss"] if valid else None,
            "valid_perplexity": sinks.perplexity(valid[-1]["valid_loss"]) if valid else None,
            "tokens": tokens,
            "tokens_per_sec": tokens / seconds if seconds else None,
            "training_seconds": seconds,
            "skipped": sum(bool(report["skipped"]) for report in steps),
            "peak_memory_bytes": sinks.peak_memory(),
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "metrics": str(self.metrics) if self.metrics else None,
        }

    def __repr__(self) -> str:
        figures = ((key, value) for key, value in self.summary().items() if value is not None)
        return "\n".join(f"{key:18} {_figure(value)}" for key, value in figures)


class _Stop:
    """Turns Ctrl-C and SIGTERM into a wish that the loop looks at.

    KeyboardInterrupt is raised only `inside` the core, where it ends a step; anywhere else it could tear a line of the
    metrics or a checkpoint's announcement.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._inside = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            # A handler that somebody else installed is theirs: it stays, and its KeyboardInterrupt is obeyed.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Around a call that may be dropped half-way."""
        self._inside = True
        try:
            if self.reason:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            self.reason = self.reason or "interrupted"
            raise
        finally:
            self._inside = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.reason = "interrupted" if number == signal.SIGINT else "terminated"
        if number in self._before and not progress.in_notebook():
            # The next one goes to the system, which ends the process wherever it is.
            signal.signal(number, signal.SIG_DFL)
        if self._inside:
            raise KeyboardInterrupt


class _Loop:
    """One call of `train`."""

    def __init__(self, run: Run, stop: _Stop, resume: Resume, kind: progress.Kind) -> None:
        self.run, self.stop = run, stop
        with stop.inside():
            self.trainer = _core.Trainer(json.dumps(run.config), resume)
        self.done = self.trainer.iteration
        run._trainer, run.iteration, run.num_parameters = self.trainer, self.done, self.trainer.num_parameters
        self.total, self.folder = self.trainer.train_iters, metrics_folder(run.config)
        run.train_iters = self.total
        quiet, notebook = kind == "none", progress.in_notebook()
        # Where nobody watches, GPT-NeoX's line alone; in a notebook, the live view alone.
        bar: progress.Kind = kind if kind != "auto" or notebook or sys.stdout.isatty() else "none"
        self.view = progress.open_view(self.total, done=self.done, kind=bar)
        self.say: Callable[[str], None] = _print if bar == "none" and not quiet else self.view.note
        self.console = not quiet and not notebook

    def go(self, notes: list[str]) -> None:
        run, reason = self.run, "error"
        try:
            self.metrics = self._open_metrics()
            try:
                self.sinks = self._open_sinks()
                try:
                    for note in notes:
                        self.say(f"warning: {note}")
                    for note in self.trainer.notes:
                        self.say(note)
                    reason = self._steps()
                finally:
                    self.sinks.close()
            finally:
                self._end(reason)
            run.status = reason
            if run.interrupted:
                self.say(self._how_to_go_on())
        finally:
            self.trainer.release()
            self.view.close()

    def _end(self, reason: str) -> None:
        try:
            self.metrics.write({"event": "end", "iteration": self.done, "reason": reason, "time": time.time()})
        except FileError:
            # After an error (a full disk, say) the error itself is what must be seen.
            if reason != "error":
                raise
        finally:
            self.metrics.close()

    def _steps(self) -> str:
        """Until the end, a signal or `exit_interval`; then a checkpoint and the last evaluations."""
        trainer, reason = self.trainer, "finished"
        self._save_when_due()
        while not trainer.is_done:
            if not self._step():
                reason = self.stop.reason or "interrupted"
                break
            if trainer.should_evaluate:
                self._evaluate("validation")
            self._save_when_due()
            if trainer.should_exit and not trainer.is_done:
                reason = "exit_interval"
                break
        self._save()
        if reason == "finished":
            self._last_evaluations()
        return reason

    def _step(self) -> bool:
        """One step; False when a signal came before it was done."""
        try:
            with self.stop.inside():
                report = self.trainer.step()
        except KeyboardInterrupt:
            last = self.trainer.last_report
            # The signal came after the step, on the way back from it.
            if last and last["iteration"] > self.done:
                self._record(last)
            return False
        self._record(report)
        return True

    def _record(self, report: dict[str, Any]) -> None:
        self.done = self.run.iteration = report["iteration"]
        report["tokens_per_sec"] = report["tokens"] / report["seconds"]
        entry = {"event": "train", **{key: report[key] for key in _KEPT}}
        self.metrics.write({**entry, "time": time.time()})
        self.run.history.append(entry)
        if report["skipped"]:
            self.say(f"step {self.done} skipped: {report['note']}")
        if self.run.config.get("log_grad_norm"):
            report["gradient_norms"] = dict(self.trainer.gradient_norms())
        self.sinks.step(report)
        self.view.update(report)

    def _evaluate(self, part: Part) -> None:
        """Dropped by a signal; a resumed run does it again."""
        try:
            with self.stop.inside():
                result = self.trainer.evaluate(part)
        except KeyboardInterrupt:
            return
        name = "valid" if part == "validation" else "test"
        entry = {
            "event": part,
            "iteration": result["iteration"],
            f"{name}_loss": result["loss"],
            f"{name}_perplexity": result["perplexity"],
            "targets": result["targets"],
            "seconds_evaluating": result["seconds"],
        }
        self.metrics.write({**entry, "time": time.time()})
        self.run.history.append(entry)
        self.sinks.evaluation(part, result["iteration"], result["loss"])
        self.view.update({"iteration": self.done, f"{name}_loss": result["loss"]})

    def _last_evaluations(self) -> None:
        parts: tuple[Part, ...] = ("validation", "test")
        for part in parts:
            done = any(r["event"] == part and r["iteration"] == self.done for r in self.run.history)
            if self.trainer.can_evaluate(part) and not done:
                self._evaluate(part)

    def _save_when_due(self) -> None:
        if self.trainer.should_save:
            self._save()

    def _save(self) -> None:
        """Not dropped by a first signal: it is what the signal asks for."""
        before, path = self.trainer.checkpoint, self.trainer.save()
        if path is None or path == before:
            return
        self.run.checkpoint = Path(path)
        self.metrics.write({"event": "save", "iteration": self.done, "path": path, "time": time.time()})
        self.say(f"saved {path}")

    def _open_metrics(self) -> history.MetricsFile:
        path = self.folder / "metrics.jsonl"
        self.before = history.read(path) if self.done else []
        start = {"iteration": self.done, "train_iters": self.total, "version": _core.__version__, "time": time.time()}
        file = history.MetricsFile(path, start)
        self.run.metrics = path
        kept = [entry for entry in self.before if entry["iteration"] <= self.done]
        self.run.history = history.History(history.reports(kept))
        if self.trainer.checkpoint:
            self.run.checkpoint = Path(self.trainer.checkpoint)
        return file

    def _open_sinks(self) -> sinks.Sinks:
        settings, chosen = self.run.config, list[sinks.Sink]()
        plan = config.plan(settings)["flops_per_token"]
        recompute = 4 / 3 if settings.get("checkpoint_activations") else 1.0
        peak = settings.get("peak_theoretical_tflops")
        flops = sinks.Flops(plan["neox"], plan["full"], plan["causal"], plan["full"] * recompute, peak)
        if self.console:
            chosen.append(sinks.Console(self.total, self.say))
        if settings.get("tensorboard_dir"):
            chosen.append(sinks.TensorBoard(settings["tensorboard_dir"], self.done))
        if sinks.wandb_wanted(settings):
            ids = [entry["id"] for entry in self.before if entry["event"] == "wandb"]
            wandb = sinks.Wandb(settings, self.folder, ids[-1] if ids else None)
            self.metrics.write({"event": "wandb", "iteration": self.done, "id": wandb.run_id})
            chosen.append(wandb)
        return sinks.Sinks(chosen, settings.get("log_interval") or 100, flops)

    def _how_to_go_on(self) -> str:
        run = self.run
        at = f"{run.status} after step {self.done} of {self.total}"
        if run.checkpoint is None:
            return f"{at}; nothing was saved, as the configuration has no `save` folder"
        again = run.command or "the same call of llmjp_core.train"
        return f"{at}, saved in {run.checkpoint}. To go on:\n  {again}"


_KEPT = (
    "iteration", "loss", "learning_rate", "grad_norm", "loss_scale", "skipped", "nan", "note", "tokens",
    "consumed_samples", "consumed_tokens", "skipped_total", "nan_total", "epoch", "seconds", "tokens_per_sec",
)  # fmt: skip


def metrics_folder(settings: Mapping[str, Any]) -> Path:
    """Where `metrics.jsonl` of a run stands."""
    given = settings.get("log_dir") or settings.get("save")
    return Path(given) if given else Path("runs") / time.strftime("%Y%m%d-%H%M%S")


def _kind(wish: Progress) -> progress.Kind:
    if isinstance(wish, bool):
        return "auto" if wish else "none"
    return wish


def _command(configs: tuple[config.Source, ...], overrides: Mapping[str, Any] | None) -> str | None:
    """The command line with the same meaning; None when a mapping in memory takes part."""
    if any(isinstance(source, Mapping) for source in configs):
        return None
    files = [os.fspath(source) for source in configs if not isinstance(source, Mapping)]
    pairs = [f"{key}={json.dumps(value, default=os.fspath)}" for key, value in (overrides or {}).items()]
    return shlex.join(["llmjp-core", "train", *files, *pairs])


def _figure(value: object) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _print(line: str) -> None:
    print(line, flush=True)
