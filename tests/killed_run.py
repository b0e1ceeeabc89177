"""Trains a run by processes that are killed at random moments, until one reaches the end.

    python killed_run.py CONFIG.json SEED

Half of the kills come as soon as a checkpoint is being written. Each process is a fork of this one, which trains
nothing itself: so a kill costs milliseconds. Prints how many kills there were, and how many hit a checkpoint.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import llmjp_core as lc


def writing(save: Path) -> bool:
    try:
        return any(entry.name.endswith(".tmp") for entry in os.scandir(save))
    except FileNotFoundError:
        return False


def main(path: str, seed: str) -> None:
    config = json.loads(Path(path).read_text())
    save, rng = Path(config["save"]), random.Random(int(seed))
    kills = hits = 0
    while True:
        child = os.fork()
        if child == 0:
            lc.train(config, progress=False)
            os._exit(0)
        deadline = time.monotonic() + rng.uniform(0.0, 0.4)
        # A folder that an earlier kill left is not this process's.
        wait_for_checkpoint, left = kills % 2 == 1, writing(save)
        while time.monotonic() < deadline or (wait_for_checkpoint and time.monotonic() < deadline + 2):
            if os.waitpid(child, os.WNOHANG)[0]:
                print(json.dumps({"kills": kills, "hits": hits}))
                return
            left = left and writing(save)
            if wait_for_checkpoint and not left and writing(save):
                time.sleep(rng.uniform(0.0, 0.01))
                break
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            hits += writing(save)
        else:
            assert os.waitstatus_to_exitcode(status) == 0
            print(json.dumps({"kills": kills, "hits": hits}))
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
