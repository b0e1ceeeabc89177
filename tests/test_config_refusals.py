"""Combinations that no run may have, each with the place and the words that say what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from config_cases import THREE, Write, load, refused, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"num_layers": None}, '"num_layers" is missing'),
    "no width": ({"hidden_size": None}, '"hidden_size" is missing'),
    "no heads": ({"num_attention_heads": None}, '"num_attention_heads" is missing'),
    "no positions": ({"max_position_embeddings": None}, '"max_position_embeddings" is missing'),
    "no sequence length": ({"seq_length": None}, '"seq_length" is missing'),
    "no learning rate": ({"optimizer": {"type": "Adam", "params": {}}}, r'run\.yml:10:\d+: .* needs the learning rate'),
    "no optimizer params": ({"optimizer": {"type": "Adam"}}, 'needs the keys "type" and "params"'),
    "no optimizer type": ({"optimizer": {"params": {"lr": 0.1}}}, 'needs the keys "type" and "params"'),
    "heads do not divide": ({"hidden_size": 63}, r'run\.yml:2:14: "hidden_size" 63 is not a multiple of .*run\.yml:3:'),
    "too long a sequence": ({"seq_length": 64}, r'run\.yml:4:13: "seq_length" 64 is larger than .*run\.yml:5:26'),
    "min_lr above lr": ({"min_lr": 0.1}, r'run\.yml:11:9: "min_lr" 0\.1 is larger than the learning rate 0\.001'),
    "save without when": ({"save": "x"}, r'run\.yml:11:7: "save" needs "checkpoint_factor" or "extra_save_iters"'),
    "fp16 and bf16": ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "both enabled"),
    "precision against fp16": ({"precision": "bfloat16", "fp16": {"enabled": True}}, r"run\.yml:11:12: .*contradicts"),
    "fp16 of type bfloat16": ({"fp16": {"enabled": True, "type": "bfloat16"}}, r"write `bf16: \{enabled: true\}`"),
    "fp16 without enabled": ({"fp16": {"loss_scale": 1}}, r'run\.yml:11:7: "fp16" needs the key "enabled"'),
    "fp16 cross entropy": ({"fp16_lm_cross_entropy": True}, r"run\.yml:11:24: .*always computed in fp32"),
    "path and lists": ({"data_path": "a", **THREE}, r'run\.yml:11:12: "data_path" and .*exclude each other'),
    "two of three lists": ({**THREE, "test_data_paths": None}, '"test_data_paths" is missing'),
    "weights and paths differ": ({**THREE, "train_data_weights": [1, 2]}, r"run\.yml:14:21: .*has 2 entries, but .*1"),
    "labels and paths differ": ({**THREE, "train_label_data_paths": ["a", "b"]}, "has 2 entries, but"),
    "labels without paths": ({"train_label_data_paths": ["a"]}, 'needs "train_data_paths" beside it'),
    "weights without paths": ({"train_data_weights": [1]}, 'needs "train_data_paths" beside it'),
    "no data in a list": ({**THREE, "valid_data_paths": []}, r"run\.yml:12:19: .*is empty"),
    "all weights 0": ({**THREE, "test_data_weights": [0]}, "are all 0"),
    "iters and epochs": ({"train_epochs": 1}, r"run\.yml:9:14: .*run\.yml:11:15: .*exclude each other"),
    "neither": ({"train_iters": None}, '"train_iters" or "train_epochs" is missing'),
    "epochs, not packed": (
        {"train_iters": None, "train_epochs": 1, "pack_impl": "pack_until_overflow", "data_path": "a"},
        '"pack_impl" exclude each other',
    ),
    "epochs, by documents": (
        {"train_iters": None, "train_epochs": 1, "weight_by_num_documents": True},
        '"weight_by_num_documents" exclude each other',
    ),
    "epochs, weighted": (
        {"train_iters": None, "train_epochs": 1, **THREE, "train_data_weights": [2.0]},
        '"train_data_weights" exclude each other',
    ),
    "two widths": ({"intermediate_size": 100, "expansion_factor": 2.0}, "exclude each other"),
    "ffn width contradicts": ({"intermediate_size": 100, "ffn_hidden_size": 101}, "remove one of the two"),
    "gated width": ({"activation": "swiglu", "intermediate_size": 14336}, r"run\.yml:12:20: .*a gated MLP from 14336"),
    "kv heads": ({"num_kv_heads": 3}, r'run\.yml:11:15: "num_kv_heads" 3 does not divide'),
    "sparse attention": ({"sparsity_config": {"block": 16}}, "sparse attention is not supported"),
    "local attention": ({"attention_config": [[["local"], 2]]}, r"run\.yml:11:19: .*\"local\" is known to GPT-NeoX"),
    "unknown attention": ({"attention_config": [[["flesh"], 2]]}, 'unknown attention type "flesh"'),
    "attention of other depth": ({"attention_config": [[["flash"], 3]]}, "describes 3 layers, but num_layers is 2"),
    "attention malformed": ({"attention_config": ["flash", 2]}, "must have the form"),
    "ZeRO 2": ({"zero_optimization": {"stage": 2}}, r"run\.yml:11:\d+: .*distributed engine"),
    "ZeRO without stage": ({"zero_optimization": {}}, r'run\.yml:11:20: "zero_optimization" needs the key "stage"'),
    "ZeRO 4": ({"zero_optimization": {"stage": 4}}, "must be 0 to 3"),
    "experts": ({"moe_num_experts": 8}, "mixtures of experts are not supported"),
    "both schedulers": ({"override_lr_scheduler": True, "use_checkpoint_lr_scheduler": True}, "exclude each other"),
    "deepspeed off": ({"deepspeed": False}, "GPT-NeoX refuses false itself"),
    "row output": ({"output_layer_parallelism": "row"}, "one of column"),
    "seed 0": ({"seed": 0}, "a whole number, 1 or more"),
    "seed too large": ({"seed": 2**32}, "too large"),
    "half a step": ({"checkpoint_factor": 2.5}, r"run\.yml:11:20: .*must be a whole number of steps"),
    "log factor": ({"checkpoint_factor": 1, "checkpoint_scale": "log"}, "must be above 1 with checkpoint_scale log"),
    "onnx": ({"onnx_safe": True, "bias_gelu_fusion": True}, "exclude each other"),
    "rotary share": ({"rotary_pct": 1.5}, "a number from 0 to 1"),
    "odd rotation": ({"rotary_pct": 0.2}, "rotates 3 dimensions"),
    "unpacked": ({"pack_impl": "unpacked", "data_path": "a"}, 'unpacked needs "train_label_data_paths"'),
    "batch contradicts": (
        {"train_batch_size": 9, "gradient_accumulation_steps": 2},
        r"run\.yml:11:19: \"train_batch_size\" 9 is not 2 x 2",
    ),
    "batch indivisible": ({"train_batch_size": 9}, "is not a multiple of"),
    "no batch": ({"train_micro_batch_size_per_gpu": None}, '"train_batch_size" or .* is missing'),
    "batch 0": ({"train_batch_size": 0}, "a whole number, 1 or more"),
    "no vocabulary": ({"vocab_size": None}, 'set "vocab_file" .*or "vocab_size"'),
    "padding contradicts": ({"padded_vocab_size": 1000}, "1000 tokens are padded to 1024"),
    "derived contradicts": ({"batch_size": 3}, 'is derived from "train_micro_batch_size_per_gpu"'),
    "eod unknown": ({"eod_mask_loss": True}, "needs the end-of-document token"),
    "dropout": ({"hidden_dropout": 0.1}, r"run\.yml:11:17: .*must be 0"),
    "wsd without tail": ({"lr_decay_style": "wsd"}, 'needs "lr_wsd_decay_iters"'),
    "wsd too long": ({"lr_decay_style": "wsd", "lr_wsd_decay_iters": 100}, "more than the 100 steps"),
    "tail without wsd": ({"lr_wsd_decay_iters": 10}, "is of lr_decay_style wsd only"),
    "two warm-ups": ({"warmup": 0.1, "lr_warmup_iters": 5}, "exclude each other"),
    "two decays": ({"lr_decay_iters": 5, "lr_decay_fraction": 0.5}, "exclude each other"),
    "long warm-up": ({"lr_warmup_iters": 101}, "longer than the 100 steps"),
    "split": ({"split": "969, x"}, r"run\.yml:11:8: .*must be shares"),
    "split of nothing": ({"split": "0,0,0"}, "must be shares"),
    "betas": ({"optimizer": {"type": "Adam", "params": {"lr": 0.1, "betas": [0.9]}}}, "must be two numbers"),
    "optimizer": ({"optimizer": {"type": "Lion", "params": {"lr": 0.1}}}, "GPT-NeoX knows this one"),
    "scale power": ({"fp16": {"enabled": True, "initial_scale_power": 128}}, "beyond single precision"),
    "a model of nobody": ({"hidden_size": 2**30, "num_attention_heads": 1}, "check its sizes"),
    "a batch of nobody": ({"train_micro_batch_size_per_gpu": 2**50}, "check"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_combinations(name: str, write: Write) -> None:
    changes, wanted = REFUSED[name]
    path = write(**changes)
    assert re.search(wanted, refused(path)), refused(path)


def test_the_base_of_the_refused_is_fine(write: Write) -> None:
    load(write())
