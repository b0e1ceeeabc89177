"""The trainer on a GPU: whole runs on the stand-in for the driver, beside the same runs on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from safetensors.numpy import load_file

import llmjp_core as lc
from cuda_on_cpu.runner import Done, Runner
from llmjp_core import _core

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _core.cuda.built()[2], reason=f"no CUDA kernels: {lc.cuda.missing()}"),
]

# Odd sizes; a head is one tile of attention. With the usual eps AdamW makes a gradient that is rounding, as of the biases
# of keys, as large as any other.
SIZES: dict[str, Any] = {
    "seq_length": 13,
    "max_position_embeddings": 13,
    "vocab_size": 67,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-2, "betas": [0.9, 0.95], "eps": 1.0e-4}},
    "train_iters": 20,
    "checkpoint_factor": 10,
}
NEOX = {**tiny_run.NEOX, **SIZES, "hidden_size": 24, "num_attention_heads": 2, "rotary_pct": 0.5}
LLAMA = {**tiny_run.LLAMA, **SIZES}
# What the two leave out.
OTHERWISE = {
    **NEOX,
    "gpt_j_residual": False,
    "use_bias_in_norms": False,
    "no_weight_tying": False,
    "checkpoint_activations": True,
    "gradient_clipping": 0.0,
    "z_loss": 1e-3,
    "log_grad_norm": True,
    "train_iters": 6,
}


def make(folder: Path, base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A configuration, with lines that count up as data: learnt in a few steps."""
    data = folder / "data"
    if not data.with_suffix(".idx").exists():
        rng = np.random.default_rng(1)
        lines = [[int(i) for i in (rng.integers(67) + np.arange(40) * rng.integers(1, 4)) % 67] for _ in range(200)]
        lc.data.write(data, lines, dtype="uint16")
    return {**base, "data_path": str(data), "save": str(folder / "run"), **changes}


def trained(run: Runner, config: dict[str, Any], device: str = "cuda", **variables: str) -> Done:
    """`llmjp-core train`, in a process of its own."""
    path = tiny_run.write(Path(config["data_path"]).parent, config)
    return run("llmjp_core", "train", str(path), f"device={device}", **variables)


def events(save: Path, event: str, key: str) -> list[Any]:
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if line["event"] == event]


def weights(save: Path) -> dict[str, Any]:
    return load_file(save / (save / "latest").read_text().strip() / "model.safetensors")


def beside_the_cpu(run: Runner, folder: Path, base: dict[str, Any], **variables: str) -> tuple[float, float]:
    """The largest difference of a loss, in parts of the largest, and of a tensor of weights, in parts of its length."""
    saves = cpu, cuda = [folder / device for device in ("cpu", "cuda")]
    for save in saves:
        done = trained(run, make(folder, base, save=str(save)), save.name, **variables)
        assert done.code == 0, done.error
        assert bool(done.launched) == (save == cuda)
    assert done.log[-1] == "alive 0", "memory of the device was not freed"
    for key in ("skipped", "loss_scale", "learning_rate", "consumed_tokens"):
        assert events(cuda, "train", key) == events(cpu, "train", key)
    exact, ours = (np.array(events(save, "train", "loss") + events(save, "validation", "valid_loss")) for save in saves)
    assert exact[-1] < exact[0], "something is learnt"
    theirs, mine = weights(cpu), weights(cuda)
    far = [np.linalg.norm(mine[name] - w) / max(np.linalg.norm(w), 1e-30) for name, w in theirs.items()]
    return float(abs(ours - exact).max() / exact.max()), float(max(far))


@pytest.mark.parametrize("base", [NEOX, LLAMA, OTHERWISE], ids=["neox", "llama", "otherwise"])
def test_the_steps_are_those_of_the_cpu(run: Runner, tmp_path: Path, base: dict[str, Any]) -> None:
    loss, weight = beside_the_cpu(run, tmp_path, base)
    assert loss < 2e-7 and weight < 1e-5


@pytest.mark.parametrize(("name", "bounds"), [("bf16", (2e-3, 5e-2)), ("fp16", (2e-4, 1e-2))])
def test_in_half_precision(run: Runner, tmp_path: Path, name: str, bounds: tuple[float, float]) -> None:
    """fp16 begins with a loss scale that is too large: steps are skipped where the CPU skips them."""
    half = {"enabled": True, **({"initial_scale_power": 24, "hysteresis": 1} if name == "fp16" else {})}
    far = beside_the_cpu(run, tmp_path, {**LLAMA, name: half, "train_iters": 12})
    assert far[0] < bounds[0] and far[1] < bounds[1]
    assert any(events(tmp_path / "cuda", "train", "skipped")) == (name == "fp16")


@pytest.mark.parametrize("mistake", ["attention_bwd_q_f32_d64 word 53 1", "rotary_f32 swap 1 2", "adamw_f32 set 16 9"])
def test_a_mistake_of_the_host_is_seen(run: Runner, tmp_path: Path, mistake: str) -> None:
    loss, _ = beside_the_cpu(run, tmp_path, {**NEOX, "train_iters": 3}, CUDA_ON_CPU_PLANT=mistake)
    assert loss > 1e-5


def test_a_run_goes_on_bit_for_bit(run: Runner, tmp_path: Path) -> None:
    """On the device, and from the CPU's checkpoint."""
    config = {**LLAMA, "train_iters": 6, "checkpoint_factor": 3}
    whole, parts = (make(tmp_path, config, save=str(tmp_path / name)) for name in ("whole", "parts"))
    for each in (whole, {**parts, "exit_interval": 3}, parts):
        done = trained(run, each)
        assert done.code == 0, done.error
    assert tiny_run.digests(tmp_path / "parts/global_step6") == tiny_run.digests(tmp_path / "whole/global_step6")
    assert events(tmp_path / "parts", "train", "loss") == events(tmp_path / "whole", "train", "loss")
    other = make(tmp_path, config, save=str(tmp_path / "other"))
    for device, exit in (("cpu", 3), ("cuda", None)):
        assert trained(run, {**other, "exit_interval": exit}, device).code == 0
    np.testing.assert_allclose(
        events(tmp_path / "other", "train", "loss"), events(tmp_path / "whole", "train", "loss"), rtol=1e-6
    )


def test_another_device(run: Runner, tmp_path: Path) -> None:
    config = make(tmp_path, LLAMA, train_iters=1)
    done = trained(run, config, "cuda:1", CUDA_ON_CPU_DEVICES="2", CUDA_ON_CPU_FAIL="adamw_f32:701")
    assert done.code == 1 and "cuda:1 (Stand-in 1)" in done.error
    for device in ("gpu", "cuda:x", "cuda:+1", "cuda-1", "CUDA"):
        done = trained(run, config, device)
        assert done.code == 1 and f'"device" must be cpu, cuda or cuda:N, got "{device}"' in done.error, done.error


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        ({"CUDA_ON_CPU_DEVICES": "0"}, ["CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"]),
        ({"CUDA_ON_CPU_CAPABILITY": "75"}, ["compute capability 7.5", "8.0 (Ampere) or later"]),
        (
            {"CUDA_ON_CPU_MEMORY": "200000"},
            ["OUT_OF_MEMORY", "of 200000 bytes are free", "llmjp-core plan", "checkpoint_activations"],
        ),
        ({"CUDA_ON_CPU_MEMORY": "440000"}, ["OUT_OF_MEMORY", "make the batch smaller"]),  # within the first step
        (
            {"CUDA_ON_CPU_FAIL": "attention_bwd_q_f32_d64:701"},
            ["launching attention_bwd_q_f32_d64 of shape [2, 13, 4, 8]", "OUT_OF_RESOURCES"],
        ),
        ({"CUDA_ON_CPU_FAIL_LATER": "adamw_f32:700"}, ["waiting for the kernels", "ILLEGAL_ADDRESS"]),
    ],
    ids=str,
)
def test_what_goes_wrong_is_said(run: Runner, tmp_path: Path, variables: dict[str, str], texts: list[str]) -> None:
    done = trained(run, make(tmp_path, LLAMA, train_iters=2), **variables)
    assert done.code == 1 and done.error.startswith("llmjp-core train: "), done.error
    assert not [text for text in texts if text not in done.error], done.error


def test_without_a_driver(tmp_path: Path) -> None:
    """Also where there is one: then it is told to hide its GPUs."""
    path = tiny_run.write(tmp_path, make(tmp_path, LLAMA))
    done = tiny_run.command("train", path, "device=cuda", CUDA_VISIBLE_DEVICES="")
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 1 and ("libcuda.so" in said or "CUDA_VISIBLE_DEVICES" in said), said
