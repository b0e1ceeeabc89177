"""The time below which a kernel cannot come: its traffic over the bandwidth of two GPUs, or its products over the rate
of their tensor cores. Nothing here is measured.

    python scripts/kernel_roofline.py   # the table of docs/cuda.md

A step's micro-batch in bf16 with f32 masters; each tensor is read or written as often as its kernel says at the top.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bytes a second of device memory, and FLOPs a second in f32 outside of the tensor cores (NVIDIA's data sheets).
GPUS = {"A100-40": (1.555e12, 19.5e12), "H100": (3.35e12, 66.9e12)}
# FLOPs a second in bf16 on tensor cores, dense (the same).
TENSOR = {"A100-40": 312e12, "H100": 989e12}


@dataclass(frozen=True)
class Shape:
    name: str
    sequences: int
    tokens: int
    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    parameters: float
    gated: bool


# configs/ridge-i-1.3b.yml (GPT-NeoX, GELU) and configs/llm-jp-13b-v2.yml (Llama, SwiGLU), four and one sequences.
SHAPES = [
    Shape("1.3B", 4, 4 * 2048, 2048, 8192, 16, 50_688, 1.4e9, gated=False),
    Shape("13B", 1, 4096, 5120, 13_824, 40, 97_024, 13.7e9, gated=True),
]


def kernels(s: Shape) -> dict[str, tuple[float, float]]:
    """{kernel: (bytes, FLOPs)} of one launch."""
    rows, wide, logits = 2.0 * s.tokens * s.hidden, 2.0 * s.tokens * s.ffn, 2.0 * s.tokens * s.vocabulary
    norm = "rms_norm" if s.gated else "layer_norm"
    numbers = s.tokens * s.hidden
    pairs = s.tokens * (s.tokens / s.sequences + 1) / 2  # of a query and a key that it sees
    product = 2.0 * pairs * s.hidden  # q·kᵀ, or p·v, of all heads
    table = {
        f"{norm} + residual": (4 * rows, 6.0 * numbers),  # x, residual; sum, y
        f"{norm} backward": (4 * rows, 14.0 * numbers),  # dy, x, dresidual; dx
        "rotary, q and k": (4 * rows, 6.0 * numbers),
        "attention": (4 * rows, 2 * product),  # q, k, v; out
        # delta: out, dout; kv: q, k, v, dout, dk, dv and four products; q: q, k, v, dout, dq and three
        "attention backward": (13 * rows, 7 * product),
        "attention, one token": (2 * rows / s.sequences, 4.0 * numbers / s.sequences),  # k and v of a whole sequence
        "cross_entropy, in place": (3 * logits, 12.0 * s.tokens * s.vocabulary),
        "embedding backward": (rows + 8.0 * numbers, 1.0 * numbers),  # at most: all tokens differ
        "grad_norm": (4 * s.parameters, 2 * s.parameters),
        "adamw": (30 * s.parameters, 15 * s.parameters),  # p, m, v in and out, the gradient, the rounded copy
    }
    if s.gated:
        table["gated_mlp"] = (3 * wide, 12.0 * s.tokens * s.ffn)
        table["gated_mlp backward"] = (5 * wide, 18.0 * s.tokens * s.ffn)
    else:
        table["activation"] = (2 * wide, 25.0 * s.tokens * s.ffn)
        table["activation backward"] = (3 * wide, 30.0 * s.tokens * s.ffn)
    return table


# What tensor cores do.
PRODUCTS = {"attention", "attention backward"}


def rate(kernel: str, gpu: str) -> float:
    """FLOPs a second."""
    return TENSOR[gpu] if kernel in PRODUCTS else GPUS[gpu][1]


def milliseconds(kernel: str, bytes_: float, flops: float, gpu: str) -> float:
    return 1e3 * max(bytes_ / GPUS[gpu][0], flops / rate(kernel, gpu))


def markdown() -> str:
    lines = [f"| model | kernel | MB | MFLOP | {' | '.join(f'{gpu}, ms' for gpu in GPUS)} |", "|---|---|" + "---:|" * 4]
    for shape in SHAPES:
        for kernel, (bytes_, flops) in kernels(shape).items():
            times = " | ".join(f"{milliseconds(kernel, bytes_, flops, gpu):.3g}" for gpu in GPUS)
            lines.append(f"| {shape.name} | {kernel} | {bytes_ / 1e6:,.0f} | {flops / 1e6:,.0f} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
