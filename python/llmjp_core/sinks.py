"""Where the figures of a run go: the console, TensorBoard, W&B, under GPT-NeoX's names. (`metrics.jsonl`: history.py)

A sink gets every step, a summary at each `log_interval`, and every evaluation.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from .errors import ConfigError

Report = Mapping[str, Any]
Config = Mapping[str, Any]


class Sink(Protocol):
    """A place for figures."""

    def step(self, report: Report) -> None:
        """After every step; the keys are those of `Run.history`."""

    def interval(self, summary: Summary) -> None:
        """At each `log_interval`."""

    def evaluation(self, part: str, iteration: int, loss: float, perplexity: float) -> None:
        """`part` is `validation` or `test`."""

    def close(self) -> None:
        """Everything is written; nothing comes after."""


class Summary:
    """The steps since the last console line."""

    def __init__(self, flops: Flops) -> None:
        self.flops = flops
        self.steps = self.skipped = self.nan = self.samples = self.tokens = 0
        self.seconds = self._loss = 0.0
        self.timers: dict[str, float] = {}
        self.report: Report = {}

    def add(self, report: Report) -> None:
        self.report = report
        self.steps += 1
        self.skipped += report["skipped"]
        self.nan += report["nan"]
        self.samples += report["samples"]
        self.tokens += report["tokens"]
        self.seconds += report["seconds"]
        self._loss += 0.0 if report["skipped"] else report["loss"]
        for name, seconds in report["timers"].items():
            self.timers[name] = self.timers.get(name, 0.0) + seconds

    @property
    def iteration(self) -> int:
        return int(self.report["iteration"])

    @property
    def loss(self) -> float:
        """The mean over the steps that were not skipped."""
        return self._loss / max(1, self.steps - self.skipped)

    @property
    def iteration_time(self) -> float:
        return self.seconds / self.steps

    @property
    def samples_per_sec(self) -> float:
        return self.samples / self.seconds

    @property
    def tokens_per_sec(self) -> float:
        return self.tokens / self.seconds

    @property
    def neox_flops_per_sec(self) -> float:
        return self.flops.neox * self.tokens_per_sec

    def utilization(self) -> dict[str, float]:
        """Share of the device's peak: MFU of the exact count with full attention and with its causal half, HFU."""
        return self.flops.utilization(self.tokens_per_sec)


class Flops:
    """FLOPs of one trained token by three conventions, and the device's peak."""

    def __init__(self, neox: float, full: float, causal: float, hardware: float, peak_tflops: float | None) -> None:
        """`neox` is upstream's formula, `full` the exact count with full attention, `causal` with half of it,
        `hardware` what is computed, recomputation included."""
        self.neox, self.full, self.causal, self.hardware = neox, full, causal, hardware
        self.peak = peak_tflops * 1e12 if peak_tflops else None

    def utilization(self, tokens_per_sec: float) -> dict[str, float]:
        if self.peak is None:
            return {}
        counts = {"MFU (full attention)": self.full, "MFU (causal)": self.causal, "HFU": self.hardware}
        return {name: flops * tokens_per_sec / self.peak for name, flops in counts.items()}


def human_flops(value: float) -> str:
    """1.5e12 -> 1.5TFLOPS."""
    for unit in ("", "K", "M", "G", "T", "P", "E"):
        if abs(value) < 1000:
            return f"{value:.1f}{unit}FLOPS"
        value /= 1000
    return f"{value:.1f}ZFLOPS"


class Console:
    """GPT-NeoX's line at each `log_interval`, its fields in its order."""

    def __init__(self, train_iters: int, say: Callable[[str], None]) -> None:
        self._total, self._say = train_iters, say

    def step(self, report: Report) -> None:
        pass

    def interval(self, summary: Summary) -> None:
        self._say(self.line(summary))
        if summary.timers:
            times = (f"{name}: {1000 * seconds / summary.steps:.2f}" for name, seconds in summary.timers.items())
            self._say("time (ms) | " + " | ".join(times))

    def line(self, summary: Summary) -> str:
        scale = summary.report["loss_scale"]
        fields = [
            f" samples/sec: {summary.samples_per_sec:.3f}",
            f"iteration {summary.iteration:8d}/{self._total:8d}",
            f"elapsed time per iteration (ms): {1000 * summary.iteration_time:.1f}",
            f"learning rate: {summary.report['learning_rate']:.3E}",
            f"approx flops per GPU: {human_flops(summary.neox_flops_per_sec)}",
            *(f"{name}: {share:.2%}" for name, share in summary.utilization().items()),
            f"lm_loss: {summary.loss:.6E}",
            *([f"loss scale: {scale:.1f}"] if scale is not None else []),
            f"number of skipped iterations: {summary.skipped:3d}",
            f"number of nan iterations: {summary.nan:3d}",
        ]
        return " | ".join(fields) + " |"

    def evaluation(self, part: str, iteration: int, loss: float, perplexity: float) -> None:
        text = f" {part} results at iteration {iteration} | lm_loss value: {loss:.6E} | "
        self._say(text + f"lm_loss_ppl value: {perplexity:.6E} | ")

    def close(self) -> None:
        pass


class Scalars:
    """Names and values for TensorBoard and W&B; `log` writes those of one iteration."""

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def step(self, report: Report) -> None:
        values = {
            "train/learning_rate": report["learning_rate"],
            "train/lm_loss": report["loss"],
            "train/grad_norm": report["grad_norm"],
            "data/epoch": report["epoch"],
            "data/tokens": report["consumed_tokens"],
        }
        if report["loss_scale"] is not None:
            values["train/loss_scale"] = report["loss_scale"]
        values.update({f"gradient_norms/{name}": norm for name, norm in report.get("gradient_norms", {}).items()})
        self.log(report["iteration"], values)

    def interval(self, summary: Summary) -> None:
        values = {
            "runtime/samples_per_sec": summary.samples_per_sec,
            "runtime/iteration_time": summary.iteration_time,
            "runtime/steps_per_sec": 1 / summary.iteration_time,
            "runtime/tokens_per_sec": summary.tokens_per_sec,
            "runtime/tokens_per_sec_per_gpu": summary.tokens_per_sec,
            "runtime/flops_per_sec_per_gpu": summary.neox_flops_per_sec,
            "memory/peak": float(peak_memory()),
            **{f"timers/{name}": seconds / summary.steps for name, seconds in summary.timers.items()},
        }
        shares = summary.utilization()
        if shares:
            values["runtime/model_flops_utilization"] = shares["MFU (full attention)"]
            values["runtime/model_flops_utilization_causal"] = shares["MFU (causal)"]
            values["runtime/hardware_flops_utilization"] = shares["HFU"]
        self.log(summary.iteration, values)

    def evaluation(self, part: str, iteration: int, loss: float, perplexity: float) -> None:
        self.log(iteration, {f"{part}/lm_loss": loss, f"{part}/lm_loss_ppl": perplexity})


class TensorBoard(Scalars):
    """Event files in `tensorboard_dir`, by the `tensorboard` package."""

    def __init__(self, folder: str | os.PathLike[str], iteration: int) -> None:
        """After a resume at `iteration`, what an earlier process wrote beyond it is hidden."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise _missing("tensorboard_dir", "tensorboard") from error
        self._events, self._summaries = event_pb2, summary_pb2
        self._writer = EventFileWriter(os.fspath(folder))
        if iteration:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=iteration + 1, session_log=start))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        scalars = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summary = self._summaries.Summary(value=scalars)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=iteration, summary=summary))

    def close(self) -> None:
        self._writer.close()


class Wandb(Scalars):
    """A W&B run; `WANDB_MODE=offline` keeps it on disk."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        """`run_id`: the run to go on with."""
        try:
            import wandb
        except ImportError as error:
            raise _missing("use_wandb", "wandb") from error
        host = config.get("wandb_host")
        settings = wandb.Settings(base_url=host) if host and host != DEFAULT_WANDB_HOST else None
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=config.get("wandb_project") or "neox",
            group=config.get("wandb_group"),
            name=config.get("wandb_run_name"),
            entity=config.get("wandb_team"),
            config=dict(config),
            dir=os.fspath(folder),
            id=run_id,
            resume="allow" if run_id else None,
            settings=settings,
        )
        self.run_id = str(self._run.id)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=iteration)

    def close(self) -> None:
        self._run.finish()


DEFAULT_WANDB_HOST = "https://api.wandb.ai"


def wandb_wanted(config: Config) -> bool:
    """`use_wandb`; where it is not set, whether a key for the host is found, as upstream has it."""
    wanted = config.get("use_wandb")
    if wanted is not None:
        return bool(wanted)
    return bool(os.environ.get("WANDB_API_KEY")) or _netrc_knows(config.get("wandb_host") or DEFAULT_WANDB_HOST)


def _netrc_knows(host: str) -> bool:
    import netrc
    from urllib.parse import urlsplit

    try:
        return netrc.netrc().authenticators(urlsplit(host).hostname or host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _missing(key: str, package: str) -> ConfigError:
    return ConfigError(f"`{key}` needs the package {package}: pip install {package}, or leave the key out")


class Sinks:
    """Several sinks as one, and the summary between two console lines."""

    def __init__(self, sinks: Sequence[Sink], log_interval: int, flops: Flops) -> None:
        self._sinks, self._every, self._flops = list(sinks), max(1, log_interval), flops
        self._summary = Summary(flops)

    def step(self, report: Report) -> None:
        for sink in self._sinks:
            sink.step(report)
        self._summary.add(report)
        if report["iteration"] % self._every == 0:
            for sink in self._sinks:
                sink.interval(self._summary)
            self._summary = Summary(self._flops)

    def evaluation(self, part: str, iteration: int, loss: float) -> None:
        for sink in self._sinks:
            sink.evaluation(part, iteration, loss, perplexity(loss))

    def close(self) -> None:
        """Closes all, also when one fails."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close)


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that does not fit."""
    return math.exp(loss) if loss < 709 else math.inf


def peak_memory() -> int:
    """Bytes that this process held at most."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
