"""Two processes over gloo, each with half of the batch: DDP and FSDP2 around an accelerated model.

python tests/distributed.py ddp|fsdp RANK PORT OUT.npz
"""

from __future__ import annotations

import os
import sys

import hf_models
import numpy as np
import torch
import torch.distributed as dist

import llmjp_core.torch as lct

STEPS = 4


def model() -> torch.nn.Module:
    built: torch.nn.Module = hf_models.build("llama")
    lct.accelerate(built)
    return built


def batch(step: int) -> torch.Tensor:
    return torch.randint(0, 97, (4, 17), generator=torch.Generator().manual_seed(step))


def train(module: torch.nn.Module, rows: slice, clip: float | None) -> list[float]:
    optimizer = lct.optim.AdamW(module.parameters(), lr=1e-3, max_grad_norm=clip)
    losses = []
    for step in range(STEPS):
        ids = batch(step)[rows]
        loss = module(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def main(kind: str, rank: int, port: str, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    module = model()
    if kind == "ddp":
        module = torch.nn.parallel.DistributedDataParallel(module)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for layer in module.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
    losses = train(module, slice(2 * rank, 2 * rank + 2), 1.0 if kind == "ddp" else None)
    for loss in losses:
        dist.all_reduce(loss)
    weights = {}
    for name, p in module.named_parameters():
        whole = p.full_tensor() if hasattr(p, "full_tensor") else p
        weights[name.removeprefix("module.")] = whole.detach().numpy()
    if rank == 0:
        np.savez(out, losses=np.array([float(loss) / 2 for loss in losses]), **weights)
    dist.destroy_process_group()


if __name__ == "__main__":
    kind, rank, port, out = sys.argv[1:]
    main(kind, int(rank), port, out)
