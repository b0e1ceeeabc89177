"""A tokenizer among threads, forks and signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizer_models import NEKO

import llmjp_core as lc

TEXTS = [f"{number}: 吾輩は猫である。名前はまだ無い。" * 200 for number in range(400)]


@pytest.fixture(scope="module")
def neko() -> lc.Tokenizer:
    return lc.Tokenizer.from_file(NEKO)


def encoded(tokenizer: lc.Tokenizer) -> bytes:
    ids, offsets = tokenizer.encode_flat(TEXTS[:40], 2)
    return np.asarray(ids).tobytes() + np.asarray(offsets).tobytes()


def child(tokenizer: lc.Tokenizer, pipe: Any) -> None:
    pipe.send_bytes(encoded(tokenizer))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_after_threads(neko: lc.Tokenizer) -> None:
    """Workers of a DataLoader are forks of a process whose threads have encoded: none of those is there any more."""
    want = encoded(neko)
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(neko, theirs))
        process.start()
        assert ours.poll(60), "the fork waits for threads that are not there"
        assert ours.recv_bytes() == want
        process.join(60)
        assert process.exitcode == 0


def test_threads_share_a_tokenizer(neko: lc.Tokenizer) -> None:
    want = encoded(neko)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(encoded(neko))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [want] * 4


CALLS: dict[str, Callable[[lc.Tokenizer], object]] = {
    "encode_batch": lambda tokenizer: tokenizer.encode_batch(TEXTS * 3, 2),
    "encode_flat": lambda tokenizer: tokenizer.encode_flat(TEXTS * 10, 1),
    "encode": lambda tokenizer: tokenizer.encode("".join(TEXTS)),
}


@pytest.mark.parametrize("call", CALLS)
def test_others_run_meanwhile(neko: lc.Tokenizer, call: str) -> None:
    """Each turn of the other thread needs the interpreter; a call that kept it would let none or one happen."""
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.wait(0.001):
            turns += 1

    other = threading.Thread(target=count)
    other.start()
    try:
        before = turns
        CALLS[call](neko)
        assert turns - before > 3
    finally:
        done.set()
        other.join()


@pytest.mark.parametrize("threads", [1, 2])
def test_interruption(neko: lc.Tokenizer, threads: int) -> None:
    """Far more text than is done when the signal comes: the call would go on for seconds."""
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            neko.encode_flat(TEXTS * 200, threads)
            timer.join()  # were it done already, the signal would come here, outside of what is tested
            pytest.fail("the call did not see the signal")
    finally:
        timer.cancel()
    assert len(encoded(neko)) > 0
