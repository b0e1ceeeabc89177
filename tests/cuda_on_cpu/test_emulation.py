"""The emulation itself: it runs right kernels rightly and refuses wrong ones, whatever the schedule."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from parity import randn

from cuda_on_cpu import build
from cuda_on_cpu.checks import SEEDS
from cuda_on_cpu.emulator import In, InOut, KernelError, Kernels, Out, poison

ints = torch.int32


@pytest.fixture(scope="module")
def probes() -> Kernels:
    return Kernels(build.library({"probes": (build.HERE / "probes.cu").read_text()}, name="probes"))


def refused(probes: Kernels, match: str, kernel: str, grid: Any, block: Any, *arguments: Any) -> None:
    for seed in SEEDS:
        with pytest.raises(KernelError, match=match):
            probes.launch(kernel, grid, block, *arguments, seed=seed)
    # An error leaves nothing behind: the next launch is right.
    out = poison(1, dtype=ints)
    out[0] = 0
    probes.launch("probe_blocks_count", 3, 64, InOut(out))
    assert out.item() == 192


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers(probes: Kernels, seed: int) -> None:
    x, y = torch.arange(96, dtype=ints), poison(96, dtype=ints)
    probes.launch("probe_neighbour", 1, 96, Out(y), In(x), 1, seed=seed)
    assert y.tolist() == x.roll(1).tolist()
    y = poison(96, dtype=ints)
    probes.launch("probe_warp_neighbour", 1, 96, Out(y), In(x), 1, seed=seed)
    assert y.tolist() == x.view(3, 32).roll(1, 1).flatten().tolist()


def test_races(probes: Kernels) -> None:
    x, y = torch.arange(96, dtype=ints), poison(288, dtype=ints)
    message = r"(race|uninitialised): block \(0, 0, 0\) thread \(\d+, 0, 0\) (reads|writes) shared memory at byte \d+, .* at .*:\d+"
    refused(probes, message, "probe_neighbour", 1, 96, Out(y), In(x), 0)
    refused(probes, message, "probe_warp_neighbour", 1, 96, Out(y), In(x), 0)
    refused(probes, message, "probe_syncwarp_is_no_barrier", 1, 96, Out(y), In(x))
    refused(
        probes,
        "race: .* shared memory at byte 0, which .* with nothing between",
        "probe_write_after_read",
        1,
        64,
        Out(y),
        In(x),
    )
    refused(probes, r"race: block \(., 0, 0\) .* writes buffer 0 at byte 0", "probe_blocks_race", 2, 32, InOut(y))
    refused(probes, "race: .* buffer 0 at byte 0", "probe_atomic_and_plain", 2, 32, InOut(y))


def test_shared_memory_is_poisoned_and_bounded(probes: Kernels) -> None:
    refused(probes, "uninitialised: .* reads shared memory", "probe_shared_is_poisoned", 1, 32, Out(poison(32)))
    refused(probes, "out of bounds: .* reads shared memory", "probe_beyond_shared", 1, 32, Out(poison(32)))


def test_divergence(probes: Kernels) -> None:
    y = poison(64, dtype=ints)
    returned = r"divergence: block \(1, 0, 0\): thread \(37, 0, 0\) has returned; thread .* waits in __syncthreads at probes.*:\d+"
    with pytest.raises(KernelError, match=returned):
        probes.launch("probe_divergence", 2, 64, InOut(y), 37, 99, seed=1)
    refused(probes, "has returned; thread", "probe_divergence", 2, 64, InOut(y), 37, 99)
    refused(
        probes,
        r"thread \(5, 0, 0\) waits in __syncthreads.*; thread \(0, 0, 0\)",
        "probe_divergence",
        1,
        64,
        InOut(y),
        99,
        5,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffles(probes: Kernels, seed: int) -> None:
    out = poison(64, 5, dtype=ints)
    probes.launch("probe_shuffles", 1, 64, Out(out), seed=seed)
    lanes = range(32)
    ballot = sum(1 << lane for lane in lanes if lane % 3 == 0)  # lane 31 is not in it: positive as int
    want = [
        [(lane ^ 5) * 10, 70, (lane + 3 if lane + 3 < 32 else lane) * 10, ballot, lane ^ (1 if lane < 8 else 2)]
        for lane in lanes
    ]
    assert out.view(2, 32, 5).tolist() == [want] * 2


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (0, r"illegal mask: block \(0, 0, 0\): thread \(0, 0, 0\) waits in shuffle .* is not in its mask"),
        (1, r"illegal shuffle: .* for lane 20, which is not in the mask"),
        (2, r"divergence: .* waits in shuffle"),
        (3, r"divergence: .*__syncthreads"),
        (4, r"divergence: .*thread \(3, 0, 0\) has returned"),
        (5, r"divergence: .* waits in shuffle .* where thread .* waits in shuffle"),
    ],
)
def test_illegal_shuffles(probes: Kernels, kind: int, match: str) -> None:
    refused(probes, match, "probe_illegal_shuffle", 1, 32, InOut(poison(32, dtype=ints)), kind)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (0, r"read-only: block \(0, 0, 0\) thread .* writes buffer 1 at byte \d+, which is an input at probes.*:\d+"),
        (1, "uninitialised: .* reads buffer 0"),
        (2, "out of bounds: .* writes memory outside of every buffer"),
        (3, "out of bounds: .* reads memory outside of every buffer"),
        (4, "misaligned: .* a vector of 16 bytes"),
    ],
)
def test_memory(probes: Kernels, kind: int, match: str) -> None:
    space = torch.zeros(96)  # so that there is memory on both sides
    refused(probes, match, "probe_memory", 1, 32, Out(poison(96)[32:64]), In(space[32:64]), kind)


def test_schedules_differ(probes: Kernels) -> None:
    def order(seed: int) -> list[int]:
        out, following = poison(128, dtype=ints), torch.zeros(1, dtype=ints)
        probes.launch("probe_order", 2, 64, InOut(out), InOut(following), seed=seed)
        assert sorted(out.tolist()) == list(range(128))
        return out.tolist()

    orders = [order(seed) for seed in range(6)]
    assert orders[0] == list(range(128)) and orders[1] == list(range(127, -1, -1))
    assert len({tuple(o) for o in orders}) == 6
    assert order(5) == orders[5]


def test_half_types_round_as_torch_does(probes: Kernels) -> None:
    """Every 65 537th f32, ties and the special values among them."""
    patterns = torch.arange(0, 2**32, 65_537 * 17, dtype=torch.int64)
    x = (patterns - (patterns >> 31 << 32)).to(torch.int32).view(torch.float32)
    ties = torch.tensor([1.00390625, 1.01171875, 1.00048828125, 65519.99, 65520.0, float("inf"), 3e-8, float("nan")])
    x = torch.cat([x, ties, -ties])
    h, b = poison(len(x), dtype=torch.float16), poison(len(x), dtype=torch.bfloat16)
    back = poison(len(x), 2)
    probes.launch("probe_round", 1, 32, InOut(h), InOut(b), Out(back), In(x), len(x))
    for ours, theirs in [
        (h, x.half()),
        (b, x.bfloat16()),
        (back[:, 0], x.half().float()),
        (back[:, 1], x.bfloat16().float()),
    ]:
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.nan_to_num(0.5), theirs.nan_to_num(0.5))


def test_coordinates_and_arguments(probes: Kernels) -> None:
    out = poison(2 * 3 * 2, 64, 6, dtype=ints)
    probes.launch("probe_coordinates", (2, 3, 2), (8, 4, 2), Out(out))
    blocks = [list(reversed(p)) for p in itertools.product(range(2), range(3), range(2))]
    threads = [list(reversed(p)) for p in itertools.product(range(2), range(4), range(8))]
    assert out.tolist() == [[block + thread for thread in threads] for block in blocks]
    numbers = poison(5, dtype=torch.float64)
    probes.launch("probe_arguments", 1, 32, InOut(numbers), 0.5, 0.1, -7, 2**32 - 1, 2**40 + 1)
    assert numbers.tolist() == [0.5, 0.1, -7, 2**32 - 1, 2**40 + 1]


def test_what_a_launch_refuses(probes: Kernels) -> None:
    out = InOut(poison(64, dtype=ints))
    with pytest.raises(KernelError, match="no kernel probe_none"):
        probes.launch("probe_none", 1, 32)
    for block in [16, 33, 1056]:
        with pytest.raises(KernelError, match="32 to 1024 threads"):
            probes.launch("probe_blocks_count", 1, block, out)
    with pytest.raises(KernelError, match="more shared memory"):
        probes.launch("probe_blocks_count", 1, 32, out, shared=228 << 10)
    with pytest.raises(TypeError, match="takes 1 arguments, got 2"):
        probes.launch("probe_blocks_count", 1, 32, out, 1)
    with pytest.raises(TypeError, match="does not fit"):
        probes.launch("probe_blocks_count", 1, 32, 1)


def test_a_name_that_cuda_does_not_have_does_not_compile() -> None:
    text = 'extern "C" __global__ void k(float* x) { x[0] = __expf_typo(x[0]); }'
    with pytest.raises(build.BuildError, match="__expf_typo"):
        build.library({"wrong": '#include "common.cuh"\n' + text}, name="wrong")


def test_large_sums_are_randomly_scheduled_alike(probes: Kernels) -> None:
    """Ten thousand switches of fibers: no state is lost."""
    x = randn(96).view(torch.int32)
    for seed in range(20):
        y = poison(96, dtype=ints)
        probes.launch("probe_neighbour", 1, 96, Out(y), In(x), 1, seed=seed)
        assert torch.equal(y, x.roll(1))
