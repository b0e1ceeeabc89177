"""What `accelerate` did to a model, as text and as a table in Jupyter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import escape

from torch import nn

from .forwards import FALLBACKS


@dataclass(frozen=True)
class Line:
    """One module: `by` is the op that replaced it, or None and `why` says why it was kept."""

    path: str
    layer: str
    by: str | None = None
    why: str | None = None


@dataclass
class Report:
    """Which modules were replaced by what, and why the others were not."""

    model: str
    lines: list[Line] = field(default_factory=list)
    fallbacks: tuple[str, ...] = FALLBACKS

    def replace(self, path: str, module: nn.Module, by: str) -> None:
        self.lines.append(Line(path, type(module).__name__, by=by))

    def keep(self, path: str, module: nn.Module, why: str) -> None:
        self.lines.append(Line(path, type(module).__name__, why=why))

    @property
    def replaced(self) -> list[Line]:
        return [line for line in self.lines if line.by is not None]

    @property
    def kept(self) -> list[Line]:
        return [line for line in self.lines if line.by is None]

    def rows(self) -> list[tuple[int, str, str, str]]:
        """(number of modules, layer, replaced by, why not), alike ones together, replaced ones first."""
        count = Counter((line.layer, line.by or "", line.why or "") for line in self.replaced + self.kept)
        return [(n, *key) for key, n in count.items()]

    def __str__(self) -> str:
        rows = self.rows()
        wide = max(len(layer) for _, layer, _, _ in rows)
        text = [f"{self.model}: {len(self.replaced)} modules replaced, {len(self.kept)} kept"]
        text += [f"  {n:>4} x {layer:<{wide}}  {f'-> {by}' if by else f'kept: {why}'}" for n, layer, by, why in rows]
        return "\n".join([*text, *(f"  otherwise, {rule}" for rule in self.fallbacks)])

    def _repr_html_(self) -> str:
        cells = [(str(n), layer, by or "–", why) for n, layer, by, why in self.rows()]
        head = "".join(f"<th>{name}</th>" for name in ("modules", "layer", "replaced by", "why not"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        rules = "".join(f"<li>{escape(rule)}</li>" for rule in self.fallbacks)
        title = f"{escape(self.model)}: {len(self.replaced)} modules replaced"
        return f"<table><caption>{title}</caption><tr>{head}</tr>{body}</table><p>Otherwise:</p><ul>{rules}</ul>"
