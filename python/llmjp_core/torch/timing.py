"""`benchmark("rms_norm")`: an op beside torch's, on this machine, interleaved in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UnsupportedInputError
from . import functional as ours

Tensor = torch.Tensor
Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Contest:
    """The same computation twice, inputs of `rows` tokens and `width`, and what no implementation can save."""

    ours: Call
    plain: Call
    inputs: Callable[[int, int, torch.dtype], list[Tensor]]
    # How often all numbers of the first input must pass through memory, there or back, forward and backward.
    passes: int = 0
    # Floating point operations of its matrix products, forward and backward, of (rows, width).
    flops: Callable[[int, int], int] | None = None
    rows: int = 2048
    width: int = 768


def _normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype).requires_grad_()


def _rows(count: int, weights: int = 0) -> Callable[[int, int, torch.dtype], list[Tensor]]:
    return lambda n, d, dtype: [
        *(_normal(n, d, dtype=dtype) for _ in range(count)),
        *(_normal(d, dtype=dtype) for _ in range(weights)),
    ]


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    other = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos[:, :, None] + other * sin[:, :, None]


def _heads(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    """One sequence, heads of 64."""
    return [_normal(1, d // 64, n, 64, dtype=dtype) for _ in range(3)]


def _rotary(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    angles = torch.arange(n)[:, None] * 10_000.0 ** (-torch.arange(0, 64, 2) / 64)
    angles = torch.cat((angles, angles), -1)[None]
    return [_normal(1, n, d // 64, 64, dtype=dtype), angles.cos().to(dtype), angles.sin().to(dtype)]


VOCABULARY = 50_000


def _targets(n: int) -> Tensor:
    return torch.arange(n) * 7919 % VOCABULARY


def _logits(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    return [_normal(n, VOCABULARY, dtype=dtype), _targets(n)]


def _output(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    return [_normal(n, d, dtype=dtype), (_normal(VOCABULARY, d, dtype=dtype) * 0.02).detach().requires_grad_(),
            _targets(n)]  # fmt: skip


CONTESTS = {
    "rms_norm": Contest(
        lambda x, w: ours.rms_norm(x, x.shape[-1:], w, 1e-6),
        lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6),
        _rows(1, 1),
        passes=5,
    ),
    "layer_norm": Contest(
        lambda x, w, b: ours.layer_norm(x, x.shape[-1:], w, b),
        lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        _rows(1, 2),
        passes=5,
    ),
    "gelu": Contest(ours.gelu, F.gelu, _rows(1), passes=5, width=3072),
    "swiglu": Contest(ours.swiglu, lambda gate, up: F.silu(gate) * up, _rows(2), passes=8, width=2048),
    "rotary": Contest(ours.rotary, _turn, _rotary, passes=4),
    "attention": Contest(
        lambda q, k, v: ours.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        _heads,
        flops=lambda n, d: 7 * n * n * d,
    ),
    "linear": Contest(
        ours.linear,
        F.linear,
        lambda n, d, dtype: [_normal(n, d, dtype=dtype), _normal(4 * d, d, dtype=dtype)],
        flops=lambda n, d: 6 * n * d * 4 * d,
    ),
    "cross_entropy": Contest(ours.cross_entropy, F.cross_entropy, _logits, passes=3, rows=512),
    "linear_cross_entropy": Contest(
        ours.linear_cross_entropy,
        lambda x, w, t: F.cross_entropy(F.linear(x, w), t),
        _output,
        flops=lambda n, d: 6 * n * d * VOCABULARY,
        rows=1024,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One op forward and backward: milliseconds of each contender, median of the rounds.

    `limit`: milliseconds that copying as many bytes took in the same rounds, or a matrix product of as many operations.
    `spread`: half of the rounds of each contender lie within this share of its median.
    """

    op: str
    dtype: str
    shape: str
    milliseconds: dict[str, float]
    limit: float
    spread: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster than the best of the others."""
        others = [t for name, t in self.milliseconds.items() if name != "llmjp_core"]
        return min(others) / self.milliseconds["llmjp_core"]

    @property
    def of_limit(self) -> float:
        """The speed as a share of what copying, or the matrix product, reached."""
        return self.limit / self.milliseconds["llmjp_core"]


@dataclass(frozen=True)
class Timings:
    """Rows as a table: text, Markdown, HTML in Jupyter, a bar chart by `plot()`."""

    rows: list[Row]

    def _cells(self) -> list[list[str]]:
        names = list(self.rows[0].milliseconds)
        head = ["op", "dtype", "shape", *(f"{name}, ms" for name in names), "ratio", "of the limit"]
        body = [
            [
                *(r.op, r.dtype, r.shape),
                *(f"{r.milliseconds[name]:.2f} ± {100 * r.spread[name]:.0f} %" for name in names),
                *(f"{r.ratio:.2f}", f"{100 * r.of_limit:.0f} %"),
            ]
            for r in self.rows
        ]
        return [head, *body]

    def markdown(self) -> str:
        head, *body = ["| " + " | ".join(cells) + " |" for cells in self._cells()]
        return "\n".join([head, "|---" * len(self._cells()[0]) + "|", *body])

    __str__ = markdown

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        rows = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
        rows += ["".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in body]
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"

    def plot(self) -> Any:
        """Milliseconds as bars, in matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 0.6 + 0.5 * len(self.rows)))
        axes = figure.subplots()
        names = list(self.rows[0].milliseconds)
        for i, name in enumerate(names):
            places = [j + i * 0.8 / len(names) for j in range(len(self.rows))]
            axes.barh(places, [r.milliseconds[name] for r in self.rows], 0.8 / len(names), label=name)
        labels = [f"{r.op} {r.dtype}" for r in self.rows]
        axes.set_yticks([j + 0.4 - 0.4 / len(names) for j in range(len(self.rows))], labels)
        axes.invert_yaxis()
        axes.set_xlabel("forward and backward, ms (median)")
        axes.legend()
        figure.tight_layout()
        return figure


# Rows and columns of the product that tells the speed of matrix products.
_SQUARE = 1024


def _spread(times: list[float]) -> float:
    """Half of the distance between the quartiles, as a share of the median."""
    ordered = sorted(times)
    return (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]) / 2 / statistics.median(times)


def _once(call: Call, inputs: list[Tensor], dy: Tensor) -> float:
    """Seconds of one forward and backward pass. dy is there before, as in a model: to make it is no part of an op."""
    begin = time.perf_counter()
    call(*inputs).backward(dy)
    seconds = time.perf_counter() - begin
    for x in inputs:
        x.grad = None
    return seconds


# Threads of OpenMP look for work for some 10 ms after each call, and hold a core meanwhile, whoever is next.
_REST = 0.02
# A call that takes longer does not notice.
_LONG = 0.1


def _timed(call: Call, inputs: list[Tensor], dy: Tensor) -> float:
    """The second of two passes after a rest: threads of others sleep, and those of `call` are awake."""
    time.sleep(_REST)
    seconds = _once(call, inputs, dy)
    return seconds if seconds > _LONG else _once(call, inputs, dy)


class _Limit:
    """The work that is measured beside an op: a copy of its first input, or a square matrix product."""

    def __init__(self, contest: Contest, x: Tensor, n: int, d: int) -> None:
        source = x.detach()
        if contest.flops is None:
            target = torch.empty_like(source)
            self.work: Callable[[], Any] = lambda: target.copy_(source)
            self.times = contest.passes / 2
        else:
            a = source.flatten()[:1].expand(_SQUARE, _SQUARE).contiguous()
            self.work = lambda: torch.mm(a, a)
            self.times = contest.flops(n, d) / (2 * _SQUARE**3)

    def seconds(self) -> float:
        time.sleep(_REST)
        self.work()
        begin = time.perf_counter()
        self.work()
        return (time.perf_counter() - begin) * self.times


def _check(name: str, a: Tensor, b: Tensor) -> None:
    bound = {torch.float32: 1e-4}.get(b.dtype, 5e-2) * float(b.detach().abs().max())
    if not float((a.detach().double() - b.detach().double()).abs().max()) <= bound:
        raise AssertionError(f"benchmark: {name} and torch disagree")


def benchmark(
    op: str | Sequence[str],
    against: Sequence[str] = ("torch", "torch.compile"),
    *,
    dtype: torch.dtype = torch.float32,
    rows: int | None = None,
    width: int | None = None,
    rounds: int = 15,
) -> Timings:
    """Forward and backward of one op or several beside torch's, each taking turns; medians.

    A turn is a rest, a pass that is not timed (unless it is long), and one that is.

    `against`: "torch" (eager) and "torch.compile" (inductor). Results are compared first, and must agree. The last
    column is our speed as a share of that of copying the bytes that must move, or of one large matrix product of torch,
    measured in the same rounds.
    """
    makers: dict[str, Callable[[Call], Call]] = {"torch": lambda f: f, "torch.compile": torch.compile}
    for name in against:
        if name not in makers:
            raise UnsupportedInputError(f"benchmark: `against` knows {', '.join(makers)}, not {name!r}")
    table = []
    for name in [op] if isinstance(op, str) else op:
        if name not in CONTESTS:
            raise UnsupportedInputError(f"benchmark: no op is called {name!r}; known are {', '.join(CONTESTS)}")
        contest = CONTESTS[name]
        n, d = rows or contest.rows, width or contest.width
        inputs = contest.inputs(n, d, dtype)
        calls = {"llmjp_core": contest.ours, **{other: makers[other](contest.plain) for other in against}}
        result = contest.plain(*inputs)
        _check(name, contest.ours(*inputs), result)
        dy = torch.ones_like(result)
        del result
        limit, limits = _Limit(contest, inputs[0], n, d), []
        seconds: dict[str, list[float]] = {key: [] for key in calls}
        for turn in range(-2, rounds):  # two to warm up
            for key, call in calls.items():
                took = _timed(call, inputs, dy)
                if turn >= 0:
                    seconds[key].append(took)
            limits.append(limit.seconds())
        medians = {key: 1e3 * statistics.median(times) for key, times in seconds.items()}
        spread = {key: _spread(times) for key, times in seconds.items()}
        shape = " · ".join("x".join(map(str, x.shape)) for x in inputs[:2])
        kind = str(dtype).removeprefix("torch.")
        table.append(Row(name, kind, shape, medians, 1e3 * statistics.median(limits), spread))
    return Timings(table)
