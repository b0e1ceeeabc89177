"""`lc.train` and `llmjp-core train`: what a user sees, stops, and breaks."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import llmjp_core as lc
from llmjp_core import _core, history
from llmjp_core.run import _Stop


def test_a_run_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lc.train(tiny_run.write(tmp_path, tiny_run.make(tmp_path)), progress=True)
    losses = run.history["loss"]
    assert run.status == "finished" and run.iteration == 12 and len(losses) == 12
    assert abs(losses[0] - math.log(tiny_run.VOCAB)) < 0.3 and losses[-1] < losses[0] - 0.1
    assert list(run.history.steps("valid_loss")) == [6, 12]
    assert run.checkpoint == tmp_path / "run/global_step12"
    summary = run.summary()
    assert summary["tokens"] == 12 * 4 * tiny_run.TIME and summary["tokens_per_sec"] > 0
    assert summary["parameters"] == run.num_parameters == run.model.num_parameters
    assert "valid_loss" in repr(run)
    out = capsys.readouterr().out
    assert "iteration        4/      12 |" in out and f"saved {run.checkpoint}" in out
    assert "validation results at iteration 6 | lm_loss value:" in out and "test results at iteration 12" in out


def test_the_model_is_the_checkpoint(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    run = tiny_run.trained(tiny_run.make(tmp_path, train_iters=2))
    ids = np.arange(20, dtype=np.int32).reshape(2, 10)
    theirs = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_allclose(run.model.logits(ids), logits, atol=1e-4)


def test_a_trainer_that_gave_its_model_away_says_so(tmp_path: Path) -> None:
    trainer = _core.Trainer(json.dumps(lc.config.load(tiny_run.make(tmp_path))), "auto")
    trainer.into_model()
    with pytest.raises(lc.errors.UnsupportedInputError, match="model away"):
        trainer.step()


def test_plot_draws_the_history(tmp_path: Path) -> None:
    run = tiny_run.trained(tiny_run.make(tmp_path))
    picture = run.plot(title="tiny").save(tmp_path / "loss.png")
    assert picture.stat().st_size > 5_000


def test_evaluation_is_the_mean_over_the_stretch(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, train_iters=6, eval_interval=6, eval_iters=2)
    run = tiny_run.trained(config)
    parts = lc.data.samples(config["data_path"], seq_length=tiny_run.TIME, count=[24, 16, 8], split=config["split"])
    for part, samples in (("valid", parts.valid), ("test", parts.test)):
        assert samples is not None
        inputs, targets = (np.stack(both) for both in zip(*(samples.item(i) for i in range(8)), strict=True))
        assert run.history[f"{part}_loss"][-1] == pytest.approx(run.model.loss(inputs, targets), rel=1e-6)


def test_threads_do_not_matter(tmp_path: Path) -> None:
    text = tiny_run.make(tmp_path)
    seen = set()
    for threads in ("1", "2", "3"):
        config = tiny_run.write(tmp_path, {**text, "save": str(tmp_path / threads)}, f"{threads}.yml")
        process = tiny_run.command("train", config, "--quiet", LLMJP_NUM_THREADS=threads)
        assert process.wait(120) == 0, process.communicate()[0]
        seen.add(json.dumps(tiny_run.digests(tmp_path / threads / "global_step12")))
    assert len(seen) == 1


def test_epochs(tmp_path: Path) -> None:
    tiny_run.write_text(tmp_path / "text", skip=180)
    config = tiny_run.make(tmp_path, train_epochs=1, save=None, checkpoint_factor=None)
    del config["train_iters"]
    run = tiny_run.trained(config)
    samples = lc.data.samples(config["data_path"], seq_length=tiny_run.TIME, split=config["split"]).train
    assert run.iteration == run.train_iters == len(samples) // 4 > 2
    assert run.history[-1]["iteration"] == run.iteration


def test_exit_interval_stops_and_the_next_call_goes_on(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, exit_interval=5)
    assert tiny_run.trained(config).status == "exit_interval"
    second = tiny_run.trained(config)
    assert (second.status, second.iteration) == ("exit_interval", 10)
    third = tiny_run.trained(config)
    assert third.status == "finished" and list(third.history.steps("loss")) == list(range(1, 13))


def test_a_diverging_run_names_what_broke(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, weight_decay=0.0, warmup=0.0)
    config["optimizer"] = {"type": "Adam", "params": {"lr": 1e25}}
    with pytest.raises(lc.errors.NonFiniteError, match=r"step 4: .*3 steps in a row"):
        tiny_run.trained(config)
    entries = history.read(tmp_path / "run/metrics.jsonl")
    steps = [e for e in entries if e["event"] == "train"]
    assert [e["skipped"] for e in steps] == [False, True, True]
    assert steps[-1]["loss"] is None and "gradient of `" in steps[-1]["note"]
    assert entries[-1]["reason"] == "error"


def test_token_ids_outside_the_vocabulary_are_named(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, vocab_size=100)
    with pytest.raises(lc.errors.CorruptDatasetError, match=r"text"):
        tiny_run.trained(config)


def test_without_data_the_error_says_so(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path)
    del config["data_path"]
    with pytest.raises(lc.errors.ConfigError, match="data_path"):
        tiny_run.trained(config)


# -- signals ---------------------------------------------------------------------------------------------------------


def wait_for_steps(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        entries = history.read(folder / "metrics.jsonl")
        if sum(entry["event"] == "train" for entry in entries) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} steps: {process.communicate()[0]}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    config = tiny_run.write(tmp_path, tiny_run.make(tmp_path, train_iters=100_000, checkpoint_factor=100_000))
    process = tiny_run.command("train", config, "train_iters=90000")
    wait_for_steps(tmp_path / "run", 3, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    entries = history.read(tmp_path / "run/metrics.jsonl")
    last = entries[-1]["iteration"]
    assert entries[-1]["event"] == "end" and entries[-1]["reason"] in ("interrupted", "terminated")
    manifest = json.loads(_core.checkpoint_verify(tmp_path / f"run/global_step{last}"))
    assert manifest["iteration"] == last >= 3
    assert f"saved in {tmp_path / 'run' / f'global_step{last}'}. To go on:" in out
    assert f"llmjp-core train {config} train_iters=90000" in out


def test_a_signal_ends_a_long_step_soon(tmp_path: Path) -> None:
    """The step in progress is dropped, not waited for."""
    big = {"num_layers": 6, "hidden_size": 384, "num_attention_heads": 6, "seq_length": 256}
    config = tiny_run.make(
        tmp_path, **big, max_position_embeddings=256, train_micro_batch_size_per_gpu=4, gradient_accumulation_steps=2,
        train_iters=100, save=None, checkpoint_factor=None, log_dir=str(tmp_path / "run"),
    )  # fmt: skip
    process = tiny_run.command("train", tiny_run.write(tmp_path, config), "--quiet")
    wait_for_steps(tmp_path / "run", 1, process)
    step = history.read(tmp_path / "run/metrics.jsonl")[-1]["seconds"]
    time.sleep(0.2 * step)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    end = history.read(tmp_path / "run/metrics.jsonl")[-1]
    assert end["event"] == "end" and end["iteration"] == 1
    assert end["time"] - sent < 0.3 * step, f"answered after {end['time'] - sent:.2f} s of a {step:.2f} s step"


def test_a_signal_is_raised_only_inside_the_core() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "interrupted"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "a second Ctrl-C ends the process"
        with pytest.raises(KeyboardInterrupt), stop.inside():
            raise AssertionError("not reached: the wish came first")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    program = (
        "import os, signal, time; from llmjp_core.run import _Stop\n"
        "with _Stop():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(5); print('never', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=tiny_run.environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "still here\n"), done.stderr


# -- history ---------------------------------------------------------------------------------------------------------


def test_history_reads_like_a_list_and_like_a_table() -> None:
    h = history.History([{"iteration": 1, "loss": 3.0}, {"iteration": 2, "loss": None}, {"iteration": 2, "valid": 2.5}])
    assert h[0]["loss"] == 3.0 and len(h) == 3 and h.keys() == ["iteration", "loss", "valid"]
    np.testing.assert_array_equal(h["loss"], [3.0, math.nan])
    assert list(h.steps("valid")) == [2]
    with pytest.raises(KeyError):
        h["nothing"]


def test_what_a_later_start_made_void_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = history.MetricsFile(path, {"iteration": 0})
    for i in (1, 2, 3):
        file.write({"event": "train", "iteration": i, "loss": float(i)})
    file.close()
    with open(path, "a") as torn:
        torn.write('{"event": "train", "iter')
    assert [e["iteration"] for e in history.read(path)] == [0, 1, 2, 3]
    file = history.MetricsFile(path, {"iteration": 2})
    file.write({"event": "train", "iteration": 3, "loss": math.nan})
    file.close()
    steps = history.reports(history.read(path))
    assert [(s["iteration"], s["loss"]) for s in steps] == [(1, 1.0), (2, 2.0), (3, None)]
    history.MetricsFile(path, {"iteration": 0}).close()
    assert history.reports(history.read(path)) == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "start", "iteration": 0}\n{"ev\n{"event": "end", "iteration": 0}\n')
    with pytest.raises(lc.errors.FileError, match="line 2"):
        history.read(path)
