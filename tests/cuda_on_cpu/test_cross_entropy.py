from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_options import OPTIONS, losses_of, targets_of
from parity import assert_as_good, plain_and_exact, randn

from cuda_on_cpu.checks import DTYPES, Mutant, each_schedule, must_be_caught, mutants, name_of
from cuda_on_cpu.emulator import In, InOut, Kernels, Out, poison

SCALE = 0.125  # a power of two: no rounding of its own
# rows, vocabulary, threads, grid
CASES = [(1, 1, 32, 1), (5, 129, 64, 2), (4, 1000, 128, 3), (3, 33, 32, 1)]


def ours(
    kernels: Kernels, logits: torch.Tensor, targets: torch.Tensor, threads: int, grid: int, seed: int,
    *, parts: str = "both", ignore_index: int = -100, label_smoothing: float = 0.0, z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(losses, dlogits); parts: "both" in place, or "loss" or "gradient" alone, the other poisoned."""
    losses, d = poison(len(logits)), logits.clone() if parts == "both" else poison(*logits.shape, dtype=logits.dtype)
    kernels.launch(
        f"cross_entropy_{name_of(logits)}", grid, threads, None if parts == "gradient" else Out(losses),
        None if parts == "loss" else InOut(d), InOut(d) if parts == "both" else In(logits), In(targets), SCALE,
        ignore_index, label_smoothing, z_loss, *logits.shape, seed=seed,
    )  # fmt: skip
    return losses, d


def check(kernels: Kernels, logits: torch.Tensor, t: torch.Tensor, threads: int, grid: int, **options: Any) -> None:
    losses, d = each_schedule(lambda seed: ours(kernels, logits, t, threads, grid, seed, **options))
    dy = torch.full((len(t),), SCALE)
    plain, exact = plain_and_exact(lambda x: losses_of(x, t.numpy(), **options), [logits], dy)
    assert_as_good(losses, plain[0], exact[0])
    assert_as_good(d, plain[1], exact[1], factor=3)
    only_losses, nothing = ours(kernels, logits, t, threads, grid, 2, parts="loss", **options)
    assert torch.equal(only_losses, losses) and nothing.isnan().all()
    nothing, only_d = ours(kernels, logits, t, threads, grid, 3, parts="gradient", **options)
    assert torch.equal(only_d, d) and nothing.isnan().all()


def check_case(kernels: Kernels, case: tuple[int, int, int, int], dtype: str, options: dict[str, Any]) -> None:
    rows, v, threads, grid = case
    targets = torch.from_numpy(targets_of(rows, v, options.get("ignore_index", -100)))
    check(kernels, randn(rows, v, dtype=dtype, scale=2), targets, threads, grid, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_forward_and_backward(kernels: Kernels, dtype: str, options: str) -> None:
    for case in CASES:
        check_case(kernels, case, dtype, OPTIONS[options])


@pytest.mark.parametrize("options", OPTIONS)
def test_large_logits(kernels: Kernels, options: str) -> None:
    targets = torch.from_numpy(targets_of(6, 129, OPTIONS[options].get("ignore_index", -100)))
    for scale in [30.0, 1e4]:
        check(kernels, randn(6, 129, scale=scale), targets, 64, 2, **OPTIONS[options])


def test_small_losses_with_large_logits(kernels: Kernels) -> None:
    """Right answers at logits around 10 000: the loss is small, and keeps its digits."""
    for shift in [0.0, 1e4, -1e4]:
        check(kernels, shift + 10 * torch.eye(5), torch.arange(5, dtype=torch.int32), 32, 2)


def test_masked_classes_and_nan(kernels: Kernels) -> None:
    logits, targets = randn(4, 129), torch.tensor([3, 100, -100, 7], dtype=torch.int32)
    logits[0, 64:] = logits[1, :64] = -float("inf")  # whole threads see nothing else
    check(kernels, logits[:2], targets[:2], 32, 1)
    logits[2, 5] = logits[3, 128] = float("nan")
    losses, d = ours(kernels, logits, targets, 64, 2, 0)
    assert losses.isnan().tolist() == [False, False, False, True]
    assert d.isnan().all(-1).tolist() == [False, False, False, True] and not d[2].any()


def battery(kernels: Kernels) -> None:
    for case in [(5, 129, 64, 2), (4, 1000, 128, 3)]:
        check_case(kernels, case, "float32", OPTIONS["plain"])
        check_case(kernels, case, "float32", OPTIONS["all"])
    check(kernels, randn(6, 129, scale=30.0), torch.arange(6, dtype=torch.int32), 64, 2, label_smoothing=0.1)
    test_small_losses_with_large_logits(kernels)
    test_masked_classes_and_nan(kernels)


@mutants(
    Mutant("cross_entropy", "no rescaling when the maximum rises", "    s.exps *= shrink(s.top, top);\n", ""),
    Mutant("cross_entropy", "gaps are not moved", "    s.gaps = gaps_to(s, top);\n", ""),
    Mutant("cross_entropy", "masked classes make NaN", "bool masked = l[j] == -infinity();", "bool masked = false;"),
    Mutant("cross_entropy", "nothing yet makes NaN", "return a == -infinity() ? 0.0f : expf(a - b);", "return expf(a - b);"),
    Mutant("cross_entropy", "a lane left out", "bits = 1; bits < 32; bits *= 2", "bits = 2; bits < 32; bits *= 2"),
    Mutant("cross_entropy", "digits of small losses lost", "rest + (1.0f - o.smoothing) * (s.top - right)", "(rest + s.top) - right"),
    Mutant("cross_entropy", "the target is read too late", "    s = over_block(s);\n", "    s = over_block(s), right = to_f32(l[target]);\n"),
    Mutant("cross_entropy", "no barrier before the sums", "__syncthreads();  // the sums of", "// the sums of"),
    Mutant("cross_entropy", "no barrier after the sums", "= s;\n    __syncthreads();", "= s;"),
    Mutant("cross_entropy", "the gradient at the target", "i + j == size_t(target) ? at_target :", "false ? at_target :"),
    Mutant("cross_entropy", "z-loss left out of the gradient", "(1.0f + 2.0f * o.z * lse) / s.exps", "1.0f / s.exps"),
    Mutant("cross_entropy", "ignored rows keep their logits", "        if (d) fill_zero<V>(d, v);\n", ""),
    Mutant("cross_entropy", "ignored rows have a loss", "if (target == o.ignore_index) {", "if (target == -100) {"),
)  # fmt: skip
def test_a_mistake_is_seen(mutant: Mutant) -> None:
    must_be_caught(mutant, battery)
