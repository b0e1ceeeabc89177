"""What the README and the pages in docs/ show works: Python blocks run in order, commands run, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmjp_core import cli
from llmjp_core.quickstart import DATA, steps

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `configs/`, where the quickstart's config has three steps."""
    folder = tmp_path_factory.mktemp("readme")
    short = folder / "quickstart_data"
    shutil.copytree(DATA, short)
    config = short / "quickstart.yml"
    config.write_text(re.sub(r"train_iters: \d+", "train_iters: 3", config.read_text()))
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


@pytest.mark.slow
def test_the_readmes_python_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "DATA", workplace / "quickstart_data")
    monkeypatch.chdir(workplace)
    programs = blocks(ROOT / "README.md", "python")
    assert programs
    namespace: dict[str, object] = {}
    for number, program in enumerate(programs, 1):
        exec(compile(program, f"README.md, block {number}", "exec"), namespace)


@pytest.mark.slow
def test_the_readmes_commands_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that begin with `llmjp-core`, as far as they need nothing of the reader's own."""
    test_the_readmes_python_runs(workplace, monkeypatch)
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    ran = 0
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[:1] == ["llmjp-core"] and "your" not in line and words[1] != "quickstart":
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
            done = subprocess.run(
                [sys.executable, "-m", "llmjp_core", *words[1:]], capture_output=True, env=environment
            )
            assert done.returncode == 0, (line, done.stderr.decode())
            ran += 1
    assert ran >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_understood(page: Path) -> None:
    """Each `llmjp-core ...` line in a shell block parses: the command exists and takes these arguments."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["llmjp-core"]:
                cli.parser().parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_shown_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_first_screen_is_a_program_and_a_picture() -> None:
    screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "```python" in screen and "](docs/loss_curve.png)" in screen and "make quickstart" in screen
