"""A sliding window between `transformers` and the native model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from decoder_twin import LLAMA
from test_hf import edit, hf_logits, randomized, sample

import llmjp_core as lc


@pytest.mark.parametrize("window", [8, 10])
def test_a_window_one_off_is_seen(window: int, tmp_path: Path) -> None:
    theirs = randomized("mistral-window")
    theirs.save_pretrained(tmp_path)
    assert lc.Model.load(tmp_path).config["sliding_window"] == 9
    edit(tmp_path, lambda config: config.update({"sliding_window": window}))
    ids, _ = sample()
    ours, logits = lc.Model.load(tmp_path).logits(ids), hf_logits(theirs, ids)
    first = min(window, 9)
    assert np.abs(ours - logits)[:, :first].max() <= 1e-4, "what no window has reached yet"
    assert np.abs(ours - logits)[:, first:].max() > 1e-2


def test_a_window_is_exported_as_mistral(tmp_path: Path) -> None:
    lc.Model.from_spec(LLAMA | {"sliding_window": 5}).save(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("mistral", ["MistralForCausalLM"])
    assert config["sliding_window"] == 5 and "mlp_bias" not in config
    lc.Model.from_spec(LLAMA).save(tmp_path / "plain")
    assert "sliding_window" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_a_window_as_long_as_the_positions_cuts_nothing(tmp_path: Path) -> None:
    randomized("mistral").save_pretrained(tmp_path)
    edit(tmp_path, lambda config: config.update({"sliding_window": 64}))
    ids, _ = sample(time=64)
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ours = lc.Model.load(tmp_path)
    assert "sliding_window" not in ours.config
    assert np.abs(ours.logits(ids) - hf_logits(auto, ids)).max() <= 1e-4
