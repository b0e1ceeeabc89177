"""Forward and backward of the decoder: golden values, `transformers`, and a float64 twin."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from decoder_twin import LLAMA, NEOX, Twin, as_good, cross_entropy, random_tensors, shapes

import llmjp_core as lc
from llmjp_core import errors

# -- golden values --------------------------------------------------------------------------------

GOLDEN_IDS = np.array([[1, 5, 9, 2, 7, 3, 0, 8, 4, 6, 11, 10]])
SMALL = {"num_layers": 2, "hidden_size": 16, "vocab_size": 16, "num_attention_heads": 2, "num_kv_heads": 2}
SMALL |= {"head_dim": 8, "max_position_embeddings": 32, "norm_eps": 1e-5}


def rotary(ndims: int, base: float = 10000.0) -> dict[str, Any]:
    return {"position": {"rotary": {"ndims": ndims, "base": base}}}


NEOX_GOLDEN = NEOX | SMALL | {"ffn_hidden_size": 64}
LLAMA_GOLDEN = LLAMA | SMALL | {"ffn_hidden_size": 40}
GOLDEN = {
    "A": (
        NEOX_GOLDEN | rotary(2),
        2.835927,
        [-0.70244, 0.41582, 0.87127, -0.06208],
        [0.43652, -0.78356, -0.75465, 0.47716],
        -11.4812,
    ),
    "B": (
        NEOX_GOLDEN | rotary(8) | {"parallel_residual": False},
        2.833553,
        [-0.55866, -0.24033, 0.46109, 0.42753],
        [0.59717, -0.00482, -0.59913, -0.23843],
        -13.2761,
    ),
    "C": (
        NEOX_GOLDEN | rotary(4) | {"activation": "gelu_new"},
        2.834376,
        [-0.70258, 0.41555, 0.87129, -0.06180],
        [0.39674, -0.85776, -0.74500, 0.55528],
        -11.4969,
    ),
    "D": (
        LLAMA_GOLDEN | rotary(8),
        2.876677,
        [0.43849, 0.11369, -0.39233, -0.27298],
        [-0.76197, 0.34930, 0.90379, 0.01765],
        0.4423,
    ),
    "E": (
        LLAMA_GOLDEN | rotary(4, 5e5) | {"num_attention_heads": 4, "head_dim": 4},
        2.893965,
        [0.54641, 0.39960, -0.38417, -0.55558],
        [-0.78813, 0.47006, 0.97898, -0.07259],
        3.3844,
    ),
}


def golden_tensors(spec: dict[str, Any]) -> dict[str, np.ndarray]:
    def fill(k: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = 0.1 * np.sin(0.7 * np.arange(np.prod(shape)) + k)
        one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        return (values + one).reshape(shape).astype(np.float32)

    ordered = sorted(shapes(spec).items())
    return {name: fill(k, name, shape) for k, (name, shape) in enumerate(ordered)}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_forward(case: str) -> None:
    spec, loss, first, last, total = GOLDEN[case]
    model = lc.Model.from_spec(spec, tensors=golden_tensors(spec))
    logits = model.logits(GOLDEN_IDS)
    assert model.loss(GOLDEN_IDS[:, :-1], GOLDEN_IDS[:, 1:]) == pytest.approx(loss, abs=1e-6)
    np.testing.assert_allclose(logits[0, 0, :4], first, atol=1e-5)
    np.testing.assert_allclose(logits[0, 11, 12:], last, atol=1e-5)
    assert logits.sum(dtype=np.float64) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("A", {"parallel_residual": False}),
        ("A", rotary(4)),
        ("A", {"activation": "gelu_new"}),
        ("B", rotary(8, 5000.0)),
        ("D", {"norm_eps": 1e-4}),
        ("E", rotary(4)),
    ],
)
def test_golden_forward_can_fail(case: str, change: dict[str, Any]) -> None:
    spec, loss, *_ = GOLDEN[case]
    model = lc.Model.from_spec(spec | change, tensors=golden_tensors(spec))
    assert model.loss(GOLDEN_IDS[:, :-1], GOLDEN_IDS[:, 1:]) != pytest.approx(loss, abs=1e-6)


# -- every switch, against the twin ---------------------------------------------------------------

NONE = {"norm": False, "attention": False, "mlp": False}
ALL = {"norm": True, "attention": True, "mlp": True}
CASES: dict[str, dict[str, Any]] = {
    "neox": NEOX,
    "neox-sequential-tanh": NEOX | rotary(8) | {"parallel_residual": False, "activation": "gelu_new"},
    "neox-no-bias-tied": NEOX | {"bias": NONE, "tie_word_embeddings": True},
    "neox-20b-head": NEOX
    | rotary(24)
    | {"head_dim": 96, "hidden_size": 96, "num_attention_heads": 1, "num_kv_heads": 1},
    "neox-2.7b-head": NEOX
    | rotary(80)
    | {"head_dim": 80, "hidden_size": 160, "num_attention_heads": 2, "num_kv_heads": 2},
    "neox-learned-silu": NEOX | {"position": "learned", "activation": "silu"},
    "neox-no-positions-relu": NEOX | {"position": "none", "activation": "relu", "parallel_residual": False},
    "llama": LLAMA,
    "llama-gqa": LLAMA | rotary(4, 5e5) | {"num_attention_heads": 6, "num_kv_heads": 2, "head_dim": 4},
    "llama-mqa-128": LLAMA | rotary(128) | {"num_attention_heads": 2, "num_kv_heads": 1, "head_dim": 128},
    "llama-biases-tied": LLAMA | {"bias": ALL, "tie_word_embeddings": True},
    "geglu": LLAMA | {"activation": "gelu"},
    "geglu-tanh-learned": LLAMA | {"activation": "gelu_new", "position": "learned", "tie_word_embeddings": True},
    "reglu-partial-rotary": LLAMA | rotary(2) | {"activation": "relu"},
    "rmsnorm-parallel": LLAMA | {"parallel_residual": True},
    "rmsnorm-ungated": LLAMA | {"gated": False, "bias": ALL},
    "layernorm-gqa": NEOX | {"num_kv_heads": 1},
    "layernorm-swiglu": NEOX | {"gated": True, "activation": "silu", "bias": ALL | {"norm": False}},
}


def sample(spec: dict[str, Any], batch: int = 2, time: int = 13, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets; some targets do not count."""
    rng = np.random.default_rng(seed)
    ids, targets = rng.integers(0, spec["vocab_size"], (2, batch, time))
    targets[0, 2] = targets[-1, -1] = -100
    return ids, targets


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes(name: str) -> None:
    model = lc.Model.from_spec(CASES[name])
    assert {key: value.shape for key, value in model.tensors().items()} == shapes(CASES[name])
    assert model.num_parameters == sum(int(np.prod(shape)) for shape in shapes(CASES[name]).values())
    assert model.config == CASES[name]


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_in_float32(name: str) -> None:
    spec = CASES[name]
    tensors, (ids, targets) = random_tensors(spec), sample(spec)
    model = lc.Model.from_spec(spec, tensors=tensors)
    exact, plain = Twin(spec, tensors, torch.float64), Twin(spec, tensors, torch.float32)

    logits = model.logits(ids)
    want = exact.logits(ids).detach().numpy()
    assert np.abs(want).max() > 1.0
    assert np.abs(logits - want).max() <= 1e-4
    assert as_good(logits, plain.logits(ids).detach().numpy(), want, 2)
    assert model.loss(ids, targets) == pytest.approx(exact.loss(ids, targets).item(), rel=2e-6)

    ours, theirs, truth = model.gradients(ids, targets), plain.gradients(ids, targets), exact.gradients(ids, targets)
    assert ours.keys() == truth.keys()
    for key, want in truth.items():
        assert np.abs(want).max() > 0, key
        assert as_good(ours[key], theirs[key], want, 3), key


def test_the_rule_can_fail() -> None:
    spec = CASES["llama-gqa"]
    tensors, (ids, targets) = random_tensors(spec), sample(spec)
    exact, plain = Twin(spec, tensors, torch.float64), Twin(spec, tensors, torch.float32)
    theirs, truth = plain.gradients(ids, targets), exact.gradients(ids, targets)
    touched = {name: value.copy() for name, value in tensors.items()}
    touched["model.layers.0.self_attn.k_proj.weight"][0, 0] += 1e-3
    ours = lc.Model.from_spec(spec, tensors=touched).gradients(ids, targets)
    assert not all(as_good(ours[key], theirs[key], truth[key], 3) for key in truth)


@pytest.mark.parametrize(
    "name", ["neox", "neox-sequential-tanh", "llama-gqa", "geglu", "rmsnorm-parallel", "layernorm-gqa"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_forward_and_gradients_in_half_precision(name: str, dtype: str) -> None:
    spec, kind = CASES[name], getattr(torch, dtype)
    (ids, targets), stored = sample(spec, time=17), torch.float32
    tensors = {key: torch.tensor(value).to(kind).to(stored).numpy() for key, value in random_tensors(spec).items()}
    model = lc.Model.from_spec(spec, tensors=tensors, dtype=dtype)
    exact, plain = Twin(spec, tensors, torch.float64), Twin(spec, tensors, kind)
    want = exact.logits(ids).detach().numpy()
    assert as_good(model.logits(ids), plain.logits(ids).detach().float().numpy(), want, 2)
    assert model.loss(ids, targets) == pytest.approx(exact.loss(ids, targets).item(), rel=2e-2)

    ours, theirs, truth = model.gradients(ids, targets), plain.gradients(ids, targets), exact.gradients(ids, targets)
    for key, want in truth.items():
        assert as_good(ours[key], theirs[key], want, 3), key


def test_half_precision_is_stored() -> None:
    tensors = random_tensors(NEOX)
    for dtype in ("bfloat16", "float16"):
        model = lc.Model.from_spec(NEOX, tensors=tensors, dtype=dtype)
        assert model.dtype == dtype
        for key, value in model.tensors().items():
            rounded = torch.tensor(tensors[key]).to(getattr(torch, dtype)).float().numpy()
            np.testing.assert_array_equal(value, rounded)


# -- recomputation, threads, options --------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["neox", "neox-sequential-tanh", "llama-gqa", "geglu-tanh-learned"])
def test_recomputation_changes_no_bit(name: str, dtype: str) -> None:
    spec = CASES[name] | {"num_layers": 5}
    model = lc.Model.from_spec(spec, tensors=random_tensors(spec), dtype=dtype)
    ids, targets = sample(spec)
    whole = model.gradients(ids, targets)
    for layers in (1, 2, 3, 5, 9):
        again = model.gradients(ids, targets, recompute_layers=layers)
        assert all(np.array_equal(whole[key], again[key]) for key in whole), layers


THREADS = """
import hashlib, numpy as np, sys
sys.path.insert(0, {tests!r})
from decoder_twin import LLAMA, NEOX, random_tensors
import llmjp_core as lc
digest = hashlib.sha256()
for spec in (NEOX, LLAMA):
    spec = spec | {{"hidden_size": 192, "head_dim": 64, "ffn_hidden_size": 320}}
    spec = spec | {{"vocab_size": 517, "max_position_embeddings": 64}}
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 517, (2, 3, 61))
    for dtype in ("float32", "bfloat16"):
        model = lc.Model.from_spec(spec, tensors=random_tensors(spec), dtype=dtype)
        digest.update(model.logits(ids).tobytes())
        for value in model.gradients(ids, targets).values():
            digest.update(value.tobytes())
    drawn = lc.Model.from_spec(spec, seed=7)
    for value in drawn.tensors().values():
        digest.update(value.tobytes())
print(digest.hexdigest())
"""


def test_threads_change_no_bit() -> None:
    def digest(threads: int) -> str:
        code = THREADS.format(tests=os.path.dirname(__file__))
        env = os.environ | {"LLMJP_NUM_THREADS": str(threads)}
        return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout

    assert len({digest(threads) for threads in (1, 2, 3)}) == 1


def test_loss_options_follow_torch() -> None:
    tensors, (ids, targets) = random_tensors(NEOX), sample(NEOX)
    model, exact = lc.Model.from_spec(NEOX, tensors=tensors), Twin(NEOX, tensors, torch.float64)
    logits, wanted = exact.logits(ids).flatten(0, 1), torch.tensor(targets).flatten()
    smooth = torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=0.1).item()
    assert model.loss(ids, targets, label_smoothing=0.1) == pytest.approx(smooth, rel=1e-6)
    square = logits.logsumexp(-1).square()[wanted != -100].mean()
    both = cross_entropy(exact.logits(ids), targets) + 1e-2 * square
    assert model.loss(ids, targets, z_loss=1e-2) == pytest.approx(both.item(), rel=1e-6)
    moved = np.where(targets == -100, 5, targets)
    moved[0, 0] = 3
    ignored = torch.nn.functional.cross_entropy(logits, torch.tensor(moved).flatten(), ignore_index=3).item()
    assert model.loss(ids, moved, ignore_index=3) == pytest.approx(ignored, rel=1e-6)


def test_loss_without_targets_is_nan() -> None:
    ids = np.zeros((1, 3), dtype=np.int64)
    model = lc.Model.from_spec(NEOX)
    assert np.isnan(model.loss(ids, np.full_like(ids, -100)))
    assert all(not value.any() for value in model.gradients(ids, np.full_like(ids, -100)).values())


# -- initialisation -------------------------------------------------------------------------------


def test_initialisation_by_seed() -> None:
    init = {"method": {"normal": {"std": 0.05}}, "output_method": {"normal": {"std": 0.01}}}
    spec = NEOX | {"hidden_size": 240, "head_dim": 80}
    first, same, other = (lc.Model.from_spec(spec, init=init, seed=seed).tensors() for seed in (1, 1, 2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
        if name.endswith("norm.weight"):
            assert (value == 1).all()
        elif name.endswith(".bias"):
            assert (value == 0).all()
        else:
            std = 0.01 if name.endswith(("dense.weight", "dense_4h_to_h.weight")) else 0.05
            assert value.std() == pytest.approx(std, rel=0.05), name
            assert abs(value.mean()) < 5 * std / value.size**0.5, name
            assert not np.array_equal(value, other[name])
    matrices = [value.ravel()[:64] for name, value in first.items() if value.ndim == 2]
    assert len({value.tobytes() for value in matrices}) == len(matrices)


def yaml(**changes: Any) -> dict[str, Any]:
    """A run of the GPT-NeoX family; only what a model needs."""
    keys = {
        "num_layers": 2,
        "hidden_size": 60,
        "num_attention_heads": 3,
        "seq_length": 32,
        "max_position_embeddings": 32,
        "pos_emb": "rotary",
        "rotary_pct": 0.4,
        "no_weight_tying": True,
        "norm": "layernorm",
        "gpt_j_residual": True,
        "bias_gelu_fusion": True,
        "init_method": "small_init",
        "output_layer_init_method": "wang_init",
        "vocab_size": 60,
        "make_vocab_size_divisible_by": 64,
        "train_micro_batch_size_per_gpu": 1,
        "train_iters": 1,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3}},
    }
    return keys | changes


def test_from_config_is_the_run_s_model() -> None:
    model = lc.Model.from_config(yaml(), seed=5)
    want = {"hidden_size": 60, "ffn_hidden_size": 240, "activation": "gelu_new", "parallel_residual": True}
    assert want.items() <= model.config.items()
    assert model.config["position"] == {"rotary": {"ndims": 8, "base": 10000.0}}
    tensors = model.tensors()
    small, wang = (2 / (5 * 60)) ** 0.5, 2 / (2 * 60**0.5)
    assert tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"].std() == pytest.approx(small, rel=0.03)
    assert tensors["gpt_neox.layers.0.mlp.dense_4h_to_h.weight"].std() == pytest.approx(wang, rel=0.03)
    same = lc.Model.from_config(yaml(), overrides={"seed": 5})
    assert all(np.array_equal(value, same.tensors()[name]) for name, value in tensors.items())
    other = lc.Model.from_config(yaml())
    assert not np.array_equal(tensors["embed_out.weight"], other.tensors()["embed_out.weight"])
    with pytest.raises(errors.ConfigError, match="hiden_size"):
        lc.Model.from_config(yaml(hiden_size=3))


def test_xavier_uses_the_fused_matrix() -> None:
    init = {"method": "xavier_uniform", "output_method": "xavier_normal"}
    spec = LLAMA | {"hidden_size": 120, "head_dim": 40, "num_kv_heads": 1, "ffn_hidden_size": 200}
    tensors = lc.Model.from_spec(spec, init=init).tensors()
    bound = (6 / (120 + 5 * 40)) ** 0.5
    for name in ("q", "k", "v"):
        value = tensors[f"model.layers.0.self_attn.{name}_proj.weight"]
        assert np.abs(value).max() <= bound and np.abs(value).max() > 0.99 * bound
    assert tensors["model.layers.0.mlp.down_proj.weight"].std() == pytest.approx((2 / 320) ** 0.5, rel=0.05)


# -- Ctrl-C ---------------------------------------------------------------------------------------

INTERRUPT = """
import os, signal, threading, time
import numpy as np
import llmjp_core as lc
spec = {spec!r}
model = lc.Model.from_spec(spec)
ids = np.zeros((8, 512), dtype=np.int32)
whole = time.monotonic()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        model.gradients(ids, ids)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - whole - 0.5)
print(model.logits([[1, 2]]).shape)
"""


def test_ctrl_c_ends_long_work() -> None:
    spec = LLAMA | {"num_layers": 8, "hidden_size": 256, "head_dim": 64, "num_attention_heads": 4, "num_kv_heads": 4}
    spec |= {"ffn_hidden_size": 1024, "vocab_size": 8192, "max_position_embeddings": 512} | rotary(64)
    code = INTERRUPT.format(spec=spec)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    words = done.stdout.split()
    assert words[0] == "interrupted", done.stderr
    # One call takes seconds; on a busy machine the answer is still far quicker than that.
    assert float(words[1]) < 1.0
    assert words[2:] == ["(1,", "2,", "8192)"]


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.zeros(3, dtype=np.int32), "(batch, time)"),
        (np.zeros((1, 2, 3), dtype=np.int32), "(batch, time)"),
        (np.zeros((2, 3)), "integers"),
        ([[0, 1], [2, 2**40]], "ids[1, 1]"),
        ([[0, 37]], "37"),
        ([[0, -1]], "-1"),
        (np.zeros((0, 3), dtype=np.int32), "empty"),
        (np.zeros((3, 0), dtype=np.int32), "empty"),
        (np.zeros((1, 33), dtype=np.int32), "max_position_embeddings"),
    ],
)
def test_bad_ids_are_refused(ids: Any, words: str) -> None:
    model = lc.Model.from_spec(NEOX)
    with pytest.raises(errors.UnsupportedInputError) as error:
        model.logits(ids)
    assert words in str(error.value)


def test_bad_targets_are_refused() -> None:
    model = lc.Model.from_spec(NEOX)
    ids = np.zeros((2, 3), dtype=np.int32)
    for call in (model.loss, model.gradients):
        with pytest.raises(errors.UnsupportedInputError, match="targets"):
            call(ids, ids[:, :2])
        with pytest.raises(errors.UnsupportedInputError, match="37"):
            call(ids, ids + 37)
        with pytest.raises(errors.UnsupportedInputError, match="-1"):
            call(ids, ids - 1)


def test_bad_specs_are_refused() -> None:
    tensors = random_tensors(NEOX)
    with pytest.raises(errors.ConfigError, match="num_kv_heads"):
        lc.Model.from_spec(NEOX | {"num_kv_heads": 2})
    with pytest.raises(errors.ConfigError, match="hiden_size"):
        lc.Model.from_spec(NEOX | {"hiden_size": 3})
    with pytest.raises(errors.ConfigError, match="gelu_new"):
        lc.Model.from_spec(NEOX | {"activation": "mish"})
    with pytest.raises(errors.ConfigError, match="checkpoint_num_layers"):
        lc.Model.from_spec(NEOX).gradients([[1, 2]], [[2, 3]], recompute_layers=0)
    with pytest.raises(errors.UnsupportedInputError, match="float64"):
        lc.Model.from_spec(NEOX, dtype="float64")
    with pytest.raises(errors.UnsupportedInputError, match="embed_out"):
        lc.Model.from_spec(NEOX, tensors={k: v for k, v in tensors.items() if k != "embed_out.weight"})
    with pytest.raises(errors.UnsupportedInputError, match="stray"):
        lc.Model.from_spec(NEOX, tensors=tensors | {"stray": np.zeros(1)})
    with pytest.raises(errors.UnsupportedInputError, match="embed_out"):
        lc.Model.from_spec(NEOX, tensors=tensors | {"embed_out.weight": np.zeros((3, 3))})


def test_repr_says_what_it_is() -> None:
    text = repr(lc.Model.from_spec(CASES["llama-gqa"], dtype="bfloat16"))
    assert text.startswith("Model(2 layers x 24, 6 heads (2 for keys and values), vocabulary 37, ")
    assert text.endswith("parameters, bfloat16)")
