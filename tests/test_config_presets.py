"""The configurations that GPT-NeoX ships, as tables: each must load and resolve to the known values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from config_cases import Write, load, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


GPT = {
    "seq_length": 2048, "max_position_embeddings": 2048, "pos_emb": "rotary", "norm": "layernorm",
    "no_weight_tying": True, "init_method": "small_init", "output_layer_init_method": "wang_init",
    "lr_decay_style": "cosine", "warmup": 0.01, "train_iters": 320000, "lr_decay_iters": 320000,
    "train_micro_batch_size_per_gpu": 4, "checkpoint_factor": 10000, "weight_decay": 0.1, "gradient_clipping": 1.0,
    "fp16": {"enabled": True, "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1},
    "zero_optimization": {"stage": 1}, "vocab_size": 50257, "pipe_parallel_size": 1, "model_parallel_size": 1,
}  # fmt: skip
PYTHIA = {
    **GPT, "rotary_pct": 0.25, "gpt_j_residual": True, "bias_gelu_fusion": True, "train_iters": 143000,
    "lr_decay_iters": 143000, "checkpoint_factor": 1000, "tokenizer_type": "HFTokenizer", "vocab_size": 50277,
    "extra_save_iters": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
}  # fmt: skip
LLAMA = {
    **GPT, "norm": "rmsnorm", "rms_norm_epsilon": 1e-6, "activation": "swiglu", "mlp_multiple_of": 256,
    "make_vocab_size_divisible_by": 1, "use_bias_in_norms": False, "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False, "rotary_pct": 1, "tokenizer_type": "SPMTokenizer", "vocab_size": 32000,
}  # fmt: skip
LLAMA2 = {**LLAMA, "rms_norm_epsilon": 1e-5, "seq_length": 4096, "max_position_embeddings": 4096}
TWENTY = {
    "rotary_pct": 0.25, "gpt_j_residual": True, "bias_gelu_fusion": True, "gradient_accumulation_steps": 32,
    "train_iters": 150000, "lr_decay_iters": 150000, "weight_decay": 0.01, "checkpoint_factor": 500,
    "tokenizer_type": "HFTokenizer", "vocab_size": 50277, "make_vocab_size_divisible_by": 256,
}  # fmt: skip
PRESETS: dict[str, tuple[dict[str, Any], int, int, int, float, dict[str, Any], int]] = {
    # name: (common, L, h, A, lr, more, MLP width)
    "125M": (GPT, 12, 768, 12, 6e-4, {}, 3072),
    "1-3B": (GPT, 24, 2048, 16, 2e-4, {"keep_last_n_checkpoints": 4, "log_interval": 100, "eval_iters": 10}, 8192),
    "2-7B": (GPT, 32, 2560, 32, 1.6e-4, {}, 10240),
    "6-7B": (GPT, 32, 4096, 32, 1.2e-4, {}, 16384),
    "13B": (GPT, 40, 5120, 40, 1e-4, {}, 20480),
    "20B": ({**GPT, **TWENTY}, 44, 6144, 64, 0.97e-4, {}, 24576),
    "pythia/70M": (PYTHIA, 6, 512, 8, 1e-3, {"train_micro_batch_size_per_gpu": 32}, 2048),
    "pythia/160M": (PYTHIA, 12, 768, 12, 6e-4, {"train_micro_batch_size_per_gpu": 32}, 3072),
    "pythia/410M": (PYTHIA, 24, 1024, 16, 3e-4, {"train_micro_batch_size_per_gpu": 32}, 4096),
    "pythia/1B": (PYTHIA, 16, 2048, 8, 2.5e-4, {"attention_config": [[["global"], 16]]}, 8192),
    "pythia/1.4B": (PYTHIA, 24, 2048, 16, 2e-4, {"attention_config": [[["flash"], 24]]}, 8192),
    "pythia/2.8B": (PYTHIA, 32, 2560, 32, 1.6e-4, {"attention_config": [[["flash"], 32]]}, 10240),
    "pythia/6.9B": (PYTHIA, 32, 4096, 32, 1.2e-4, {"attention_config": [[["flash"], 32]]}, 16384),
    "pythia/12B": (PYTHIA, 36, 5120, 40, 1.2e-4, {"attention_config": [[["flash"], 36]]}, 20480),
    "llama/7B": (LLAMA, 32, 4096, 32, 2e-4, {"intermediate_size": 32768}, 11008),
    "llama/13B": (LLAMA, 40, 5120, 40, 2e-4, {"intermediate_size": 40960}, 13824),
    "llama2/7B": (LLAMA2, 32, 4096, 32, 2e-4, {"intermediate_size": 32768}, 11008),
    "llama2/13B": (LLAMA2, 40, 5120, 40, 2e-4, {"intermediate_size": 40960}, 13824),
    "llama2/70B": (
        {**LLAMA2, "use_bias_in_mlp": None},
        80, 8192, 64, 2e-4,
        {"intermediate_size": 86016, "num_kv_heads": 8, "rotary_emb_base": 1000000,
         "attention_config": [[["flash"], 80]]},
        28672,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_gpt_neox(name: str, write: Write) -> None:
    common, layers, hidden, heads, lr, more, width = PRESETS[name]
    optimizer = {"type": "Adam", "params": {"lr": lr, "betas": [0.9, 0.95], "eps": 1.0e-8}}
    shape = {"num_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    given = {**common, **shape, "optimizer": optimizer, "min_lr": lr / 10, **more}
    config = load(write(base={}, **given))
    for key, value in given.items():
        wanted = {**config[key], **value} if isinstance(value, dict) else value
        if value is not None:
            assert config[key] == wanted, key
    assert config["ffn_hidden_size"] == width and config["optimizer"]["params"]["lr"] == lr
    assert config["padded_vocab_size"] == {50257: 50304, 32000: 32000}.get(
        given["vocab_size"], 50304 if name != "20B" else 50432
    )
    assert config["precision"] == "fp16"
    assert config["train_batch_size"] == config["train_micro_batch_size_per_gpu"] * (32 if name == "20B" else 1)
    assert config["use_bias_in_mlp"] is ("llama" not in name or name == "llama2/70B")
    assert load(config) == config
