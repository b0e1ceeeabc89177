"""Checkpoint folders: what others read from them, what damage does, what a full disk does."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from safetensors.numpy import load_file

import llmjp_core as lc
from llmjp_core import _core


def trainer(config: dict[str, Any], resume: str = "auto") -> _core.Trainer:
    return _core.Trainer(json.dumps(lc.config.load(config)), resume)


def test_files_are_what_they_say(tmp_path: Path) -> None:
    t = trainer(tiny_run.make(tmp_path))
    t.step()
    folder = Path(t.save() or "")
    assert folder.name == "global_step1"
    manifest = json.loads(_core.checkpoint_verify(folder))
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", "manifest.sha256", *manifest["files"]}
    assert {"model.safetensors", "optimizer.safetensors", "config.json"} <= names
    for name, record in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert record == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = (folder / "manifest.json").read_bytes()
    assert (folder / "manifest.sha256").read_text() == f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    assert (tmp_path / "run/latest").read_text() == "global_step1"
    assert (manifest["consumed_samples"], manifest["consumed_tokens"]) == (4, 4 * tiny_run.TIME)
    assert manifest["config"]["hidden_size"] == 24 and manifest["rng"]["seed"] == 1234


def test_tensors_are_the_trainers(tmp_path: Path) -> None:
    t = trainer(tiny_run.make(tmp_path, tiny_run.LLAMA))
    t.step()
    folder = Path(t.save() or "")
    weights, moments = load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")
    for name, value in t.tensors():
        np.testing.assert_array_equal(weights[name], value)
    for second, prefix in ((False, "exp_avg"), (True, "exp_avg_sq")):
        ours = dict(t.moments(second))
        assert {f"{prefix}.{name}" for name in ours} == {name for name in moments if name.startswith(prefix + ".")}
        for name, value in ours.items():
            np.testing.assert_array_equal(moments[f"{prefix}.{name}"], value)
            assert np.any(value), name


@pytest.mark.parametrize("base", [tiny_run.NEOX, tiny_run.LLAMA], ids=["neox", "llama"])
def test_transformers_opens_the_folder(tmp_path: Path, base: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    t = trainer(tiny_run.make(tmp_path, base))
    t.step()
    model, report = AutoModelForCausalLM.from_pretrained(t.save(), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = np.arange(16, dtype=np.int32).reshape(1, 16)
    with torch.no_grad():
        theirs = model(torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_allclose(t.into_model().logits(ids), theirs, atol=1e-4)


def test_a_model_without_a_class_is_saved_and_resumed(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, pos_emb="learned")
    t = trainer(config)
    t.step()
    folder = Path(t.save() or "")
    assert not (folder / "config.json").exists()
    before = dict(t.tensors())
    t.release()
    after = dict(trainer(config).tensors())
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json", "manifest.json"])
def test_damage_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    config = tiny_run.make(tmp_path, train_iters=6)
    tiny_run.trained(config)
    path = tmp_path / "run/global_step6" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(
        lc.errors.CheckpointError, match=rf"global_step6/{name}.*global_step3 is the newest.*iteration: 3"
    ):
        tiny_run.trained(config)
    assert tiny_run.trained({**config, "iteration": 3}).status == "finished"
    assert tiny_run.trained(config).iteration == 6


def test_a_checkpoint_with_a_nan_is_refused_by_tensor(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    config = tiny_run.make(tmp_path, train_iters=3)
    tiny_run.trained(config)
    path = tmp_path / "run/global_step3/model.safetensors"
    tensors = load_file(path)
    tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 5] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    seal(path.parent)
    with pytest.raises(lc.errors.CheckpointError, match=r"`gpt_neox.layers.1.mlp.dense_4h_to_h.weight` holds NaN"):
        tiny_run.trained(config)


def seal(folder: Path) -> None:
    """Makes the checksums right again: what is wrong now is the content."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, train_iters=3)
    tiny_run.trained(config)
    folder = tmp_path / "run/global_step3"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    seal(folder)
    with pytest.raises(lc.errors.CheckpointError, match="format version 99, newer"):
        tiny_run.trained(config)


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    import torch

    old = tmp_path / "old/global_step10"
    old.mkdir(parents=True)
    torch.save({"module": {}}, old / "mp_rank_00_model_states.pt")
    for load in (tmp_path / "old", old, old / "mp_rank_00_model_states.pt"):
        with pytest.raises(lc.errors.CheckpointError, match=r"mp_rank_00_model_states.pt: is a pickle"):
            tiny_run.trained(tiny_run.make(tmp_path, load=str(load)))


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path)
    first = trainer(config)
    with pytest.raises(lc.errors.CheckpointError, match="another training run"):
        trainer(config)
    first.release()
    trainer(config)


def test_old_ones_go_and_extra_ones_stay(tmp_path: Path) -> None:
    config = tiny_run.make(
        tmp_path, checkpoint_scale="log", checkpoint_factor=2, extra_save_iters=[0, 3], keep_last_n_checkpoints=2
    )
    tiny_run.trained(config)
    left = sorted(int(p.name.removeprefix("global_step")) for p in (tmp_path / "run").glob("global_step*"))
    assert left == [0, 3, 8, 12]
    # A run that was killed after its last save, before it removed the old ones: the next start does.
    shutil.copytree(tmp_path / "run/global_step8", tmp_path / "run/global_step4")
    tiny_run.trained(config)
    assert not (tmp_path / "run/global_step4").exists() and (tmp_path / "run/global_step8").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A full disk, as far as files beyond `size` bytes go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.1, 0.9, 1.5])
def test_a_full_disk_costs_nothing_but_the_new_checkpoint(tmp_path: Path, share: float) -> None:
    """At 0.1 and 0.9 the weights do not fit, at 1.5 the moments."""
    t = trainer(tiny_run.make(tmp_path))
    t.step()
    first = Path(t.save() or "")
    size = int(share * (first / "model.safetensors").stat().st_size)
    before = tiny_run.digests(first)
    t.step()
    with largest_file(size), pytest.raises(lc.errors.FileError) as caught:
        t.save()
    assert caught.value.errno is not None and "safetensors" in str(caught.value.filename)
    assert [p.name for p in (tmp_path / "run").glob("global_step*")] == ["global_step1"]
    assert tiny_run.digests(first) == before and json.loads(_core.checkpoint_verify(first))["iteration"] == 1
    assert (tmp_path / "run/latest").read_text() == "global_step1"
    t.step()
    assert Path(t.save() or "").name == "global_step3", "with room again, the run goes on"


def test_a_full_disk_ends_lc_train_with_an_error(tmp_path: Path) -> None:
    config = tiny_run.make(tmp_path, train_iters=6)
    with largest_file(100_000), pytest.raises(lc.errors.FileError):
        tiny_run.trained(config)
    assert not list((tmp_path / "run").glob("global_step*"))
    assert tiny_run.trained(config).status == "finished"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for save in (tmp_path / "file/run", Path("/proc/run")):
        with pytest.raises(lc.errors.FileError) as caught:
            tiny_run.trained(tiny_run.make(tmp_path, save=str(save)))
        assert str(save) in str(caught.value.filename)


def test_a_finetuned_run_begins_at_step_0(tmp_path: Path) -> None:
    tiny_run.trained(tiny_run.make(tmp_path, train_iters=3))
    other = tiny_run.make(tmp_path, save=str(tmp_path / "tuned"), load=str(tmp_path / "run"), finetune=True)
    weights = load_file(tmp_path / "run/global_step3/model.safetensors")
    t = trainer({**other, "seed": 7})
    assert t.iteration == 0
    assert all(np.array_equal(weights[name], value) for name, value in t.tensors())
    t.release()
    # A folder of transformers gives weights too.
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "run/global_step3" / name, hub / name)
    t = trainer({**other, "load": str(hub), "finetune": False})
    assert t.iteration == 0
    assert all(np.array_equal(weights[name], value) for name, value in t.tensors())
