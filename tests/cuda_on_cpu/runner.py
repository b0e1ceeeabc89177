"""Programs that find the stand-in where NVIDIA's driver would be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Done:
    code: int
    out: str
    error: str
    log: list[str]

    @property
    def launched(self) -> set[str]:
        return {line.split()[1] for line in self.log if line.startswith("launch ")}

    def failed_with(self, *texts: str) -> None:
        """The last line of the traceback is a DeviceError with these texts."""
        last = self.error.strip().splitlines()[-1]
        assert self.code == 1 and last.startswith("llmjp_core.errors.DeviceError: "), self.error
        assert not [text for text in texts if text not in last], last


class Runner:
    def __init__(self, driver: Path, folder: Path) -> None:
        self.driver, self.log = driver, folder / "log"

    def __call__(self, *arguments: str, **variables: str) -> Done:
        """Python with the stand-in for a driver: a program, or a module and its arguments."""
        command = [sys.executable, *(["-c", *arguments] if len(arguments) == 1 else ["-m", *arguments])]
        path = os.pathsep.join(filter(None, [str(self.driver), os.environ.get("LD_LIBRARY_PATH")]))
        environment = {**os.environ, "LD_LIBRARY_PATH": path, "CUDA_ON_CPU_LOG": str(self.log), **variables}
        self.log.unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        log = self.log.read_text().splitlines() if self.log.exists() else []
        return Done(done.returncode, done.stdout.strip(), done.stderr, log)
