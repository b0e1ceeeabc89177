"""Small Hugging Face models of each family that `accelerate` knows, with weights that make every part count."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

COMMON: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "intermediate_size": 80, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GQA: dict[str, Any] = {**COMMON, "num_key_value_heads": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GQA, rms_norm_eps=1e-3, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama3": LlamaConfig(
        **GQA,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        },
    ),
    "mistral": MistralConfig(**GQA, sliding_window=None),
    "qwen2": Qwen2Config(**GQA),
    "qwen3": Qwen3Config(**GQA, head_dim=16),
    "gpt_neox": GPTNeoXConfig(**COMMON, rope_parameters={"rope_type": "default", "rope_theta": 500.0,
                                                         "partial_rotary_factor": 0.5}),
    "gpt_neox_serial": GPTNeoXConfig(**COMMON, use_parallel_residual=False, hidden_act="gelu_new"),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32, attn: str = "sdpa", **changes: Any) -> Any:
    config = type(CONFIGS[name]).from_dict({**CONFIGS[name].to_dict(), **changes})
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn)
    with torch.no_grad():
        for p in model.parameters():  # norms too: a weight of ones would hide a mistake
            p.add_(torch.randn(p.shape) * (0.2 if p.dim() == 1 else 0.05))
    return model.to(dtype).train()


def batch(tokens: int = 23, sequences: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 97, (sequences, tokens), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "labels": labels}
