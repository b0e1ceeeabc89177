"""Configuration: GPT-NeoX YAML files to one resolved mapping, and what a run will need."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from . import _core
from .errors import ConfigError

Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"


class Key(NamedTuple):
    """One configuration key of the table in `docs/config.md`."""

    section: str
    name: str
    type: str
    default: str
    group: str
    note: str


def load(*sources: Source, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Merges files and mappings, checks every key, and returns all keys with their final values.

    A key of `overrides` wins over the sources and may be dotted: `{"optimizer.params.lr": 1e-4}`.
    `None` unsets a key. What deserves attention (keys without effect, numbers written as text)
    comes as Python warnings. Loading the result again gives the same result.

    Raises `ConfigError`, which names file, line and key of everything that is wrong.
    """
    text, messages = _core.config_load(_encode(sources), _pairs(overrides))
    for message in messages:
        warnings.warn(message, stacklevel=2)
    resolved: dict[str, Any] = json.loads(text)
    return resolved


def plan(*sources: Source, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parameters, bytes, FLOPs a token and fitting cards of the run that `sources` describe.

    `sources` are as for `load`; its result is one of them.
    """
    result: dict[str, Any] = json.loads(_core.config_plan(_encode(sources), _pairs(overrides)))
    return result


def to_yaml(config: Mapping[str, Any]) -> str:
    """One key a line, sorted; the same text for the same values."""
    return _core.config_to_yaml(_json(config))


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` of a command line; the value is YAML."""
    key, value = _core.config_parse_override(text)
    return key, json.loads(value)


def keys() -> list[Key]:
    """All keys that a configuration may hold."""
    return [Key(section, name, kind, default.strip(), group, note)
            for section, name, kind, default, group, note in _core.config_keys()]  # fmt: skip


_HEAD = """# Configuration keys

A run is described by one or more YAML files in GPT-NeoX's style; their keys are united, and the
command line (`key=value`) or `overrides={...}` wins. `llmjp-core config FILE...` prints the
resolved configuration, and `llmjp-core config --keys` prints this page.

- **supported**: has its meaning here.
- **ours**: exists only here, not in GPT-NeoX.
- **engine**: asks for several processes; 1 or less is accepted, more is refused.
- **no effect**: accepted; the log names it once if it differs from its default.
- **refused**: would change results and is not supported; only its default is accepted.
- **derived**: follows from other keys; may only repeat what they give.

`null` means the same as leaving a key out. Dotted names are keys of nested mappings.
"""


def reference() -> str:
    """The reference page `docs/config.md`, made from the table that checks configurations."""
    lines = [_HEAD]
    section = None
    for key in keys():
        if key.section != section:
            section = key.section
            lines += [f"\n## {section}\n", "| key | type | default | | |", "|---|---|---|---|---|"]
        cells = (f"`{key.name}`", key.type, f"`{key.default}`", key.group, key.note)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _encode(sources: tuple[Source, ...]) -> list[tuple[str | None, str]]:
    encoded: list[tuple[str | None, str]] = []
    for source in sources:
        if isinstance(source, Mapping):
            encoded.append(("mapping", _json(source)))
        else:
            encoded.append((None, os.fspath(source)))
    return encoded


def _pairs(overrides: Mapping[str, Any] | None) -> str:
    return _json(list((overrides or {}).items()))


def _json(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a value that no configuration can hold: {error}") from error


def _plain(value: object) -> object:
    """Paths as text, numpy scalars as numbers, any mapping as a dict."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
