"""Generation and likelihoods: `transformers`' greedy search token for token, sampling by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from decoder_twin import LLAMA, NEOX, random_tensors
from test_hf import randomized

import llmjp_core as lc
from llmjp_core import errors

transformers.logging.set_verbosity_error()

PROMPTS = [[7], [1, 2, 3], [50, 4, 4, 19, 33, 8, 0], list(range(20))]
FAMILIES = ["neox", "neox-sequential", "neox-d80", "llama", "llama-gqa", "llama-d128-biases-tied", "mistral-window"]


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, lc.Model]:
    theirs = randomized(request.param)
    theirs.generation_config = transformers.GenerationConfig(pad_token_id=0)
    theirs.config.eos_token_id = None
    theirs.save_pretrained(tmp_path)
    return theirs, lc.Model.load(tmp_path)


def greedy(model: Any, prompt: list[int], count: int, **options: Any) -> list[int]:
    with torch.no_grad():
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, **options)
    return [int(token) for token in out[0]]


def test_greedy_is_that_of_transformers(pair: tuple[Any, lc.Model]) -> None:
    theirs, ours = pair
    want = [greedy(theirs, prompt, 40) for prompt in PROMPTS]
    assert ours.generate(None, PROMPTS, max_new_tokens=40) == want
    new = {token for prompt, tokens in zip(PROMPTS, want, strict=True) for token in tokens[len(prompt) :]}
    assert len(new) > 4


def test_a_stop_token_ends_the_sequence(pair: tuple[Any, lc.Model]) -> None:
    theirs, ours = pair
    whole = greedy(theirs, PROMPTS[1], 30)
    stop = whole[12]
    want = greedy(theirs, PROMPTS[1], 30, eos_token_id=stop)
    assert want[-1] == stop and len(want) < len(whole)
    assert ours.generate(None, PROMPTS[1], max_new_tokens=30, stop=stop) == want
    assert ours.generate(None, PROMPTS[1], max_new_tokens=30, stop=[99, stop]) == want


def test_the_model_knows_its_own_stop_tokens(tmp_path: Path) -> None:
    theirs = randomized("llama-gqa")
    theirs.config.eos_token_id = theirs.generation_config.eos_token_id = None
    stop = greedy(theirs, PROMPTS[1], 30)[12]
    theirs.config.eos_token_id = theirs.generation_config.eos_token_id = [51, stop]
    theirs.save_pretrained(tmp_path)
    ours = lc.Model.load(tmp_path)
    assert ours.generate(None, PROMPTS[1], max_new_tokens=30) == greedy(theirs, PROMPTS[1], 30)
    assert len(ours.generate(None, PROMPTS[1], max_new_tokens=30, stop=[])) == 33


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("change", [{}, {"position": "learned"}, {"position": "none"}, {"num_kv_heads": 1}])
def test_the_cache_follows_the_whole_forward_pass(change: dict[str, Any], dtype: str) -> None:
    for spec in (NEOX | change, LLAMA | change):
        model = lc.Model.from_spec(spec, tensors=random_tensors(spec), dtype=dtype)
        tokens = model.generate(None, [3, 1], max_new_tokens=30)
        assert len(tokens) == 32
        logits = model.logits([tokens[:-1]])[0, 1:]
        chosen = np.array(tokens[2:])
        # A rounding of the storage type may tip a near tie, but never choose a token that is far off.
        slack = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.02}[dtype]
        assert (logits[np.arange(30), chosen] >= logits.max(-1) - slack).all()


# -- sampling -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> lc.Model:
    return lc.Model.from_spec(LLAMA, tensors=random_tensors(LLAMA))


def test_sampling_is_repeated_by_its_seed(model: lc.Model) -> None:
    def run(seed: int, **options: Any) -> list[int]:
        return model.generate(None, [1, 2], max_new_tokens=25, temperature=1.5, seed=seed, **options)

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1, top_k=1) == run(2, top_k=1) == run(3, top_p=1e-9) == model.generate(None, [1, 2], max_new_tokens=25)
    twins = model.generate(None, [[1, 2], [1, 2]], max_new_tokens=25, temperature=1.5, seed=1)
    assert twins[0] == run(1) and twins[0] != twins[1]


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.7}])
def test_samples_follow_the_filtered_softmax(model: lc.Model, options: dict[str, Any]) -> None:
    count, temperature = 1500, 0.4
    prompts = [[4, 9]] * count
    drawn = model.generate(None, prompts, max_new_tokens=1, temperature=temperature, seed=11, **options)
    scores = torch.tensor(model.logits([[4, 9]])[:, -1]) / temperature
    warpers = transformers.generation.logits_process
    if "top_k" in options:
        scores = warpers.TopKLogitsWarper(options["top_k"])(None, scores)
    if "top_p" in options:
        scores = warpers.TopPLogitsWarper(options["top_p"])(None, scores)
    want = scores.softmax(-1)[0].double().numpy()
    got = np.bincount([tokens[-1] for tokens in drawn], minlength=37) / count
    assert (got[want == 0] == 0).all()
    assert np.abs(got - want).max() < 4.5 * np.sqrt(want * (1 - want) / count).max()
    uniform = (want > 0) / (want > 0).sum()
    assert np.abs(got - uniform).max() > 4.5 * np.sqrt(want * (1 - want) / count).max()


# -- likelihoods ----------------------------------------------------------------------------------


def test_likelihoods_are_those_of_transformers(pair: tuple[Any, lc.Model]) -> None:
    theirs, ours = pair
    context = [5, 1, 9, 30]
    best = greedy(theirs, context, 4)[len(context) :]
    continuations = [[3], [8, 8, 2], best, [*best[:-1], (best[-1] + 1) % 53]]
    got = ours.loglikelihood(None, context, continuations)
    for (value, is_greedy), continuation in zip(got, continuations, strict=True):
        ids = torch.tensor([context + continuation])
        with torch.no_grad():
            rows = theirs(ids).logits[0, len(context) - 1 : -1].double().log_softmax(-1)
        want = rows[torch.arange(len(continuation)), torch.tensor(continuation)].sum().item()
        assert value == pytest.approx(want, abs=2e-5 * max(1.0, abs(want)))
        assert is_greedy == (rows.argmax(-1).tolist() == continuation)
    assert [is_greedy for _, is_greedy in got][2:] == [True, False]


# -- text -----------------------------------------------------------------------------------------


class Letters:
    """a..z are 0..25, space is 26; bytes are not needed here."""

    eod = 36

    def eod_id(self) -> int:
        return self.eod

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        return [35] * add_bos + [26 if letter == " " else ord(letter) - ord("a") for letter in text.lower()]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + i) if i < 26 else " " if i == 26 else f"<{i}>" for i in ids)


def test_text_in_text_out(model: lc.Model) -> None:
    letters = Letters()
    ids = model.generate(None, letters.encode("abc"), max_new_tokens=9, stop=[])
    assert model.generate(letters, "abc", max_new_tokens=9, stop=[]) == letters.decode(ids)
    assert model.generate(letters, "ABC", max_new_tokens=9, stop=[]) == "ABC" + letters.decode(ids[3:])
    assert model.generate(letters, ["abc", "b"], max_new_tokens=9, stop=[])[0] == letters.decode(ids)
    assert model.generate(letters, [0, 1, 2], max_new_tokens=9, stop=[]) == ids
    stop = ids[6]
    cut = ids[: ids.index(stop, 3)]
    assert model.generate(letters, "abc", max_new_tokens=9, stop=stop) == letters.decode(cut)


def test_text_may_begin_with_bos(model: lc.Model) -> None:
    letters = Letters()
    ids = model.generate(None, [35, 0, 1], max_new_tokens=9, stop=[])
    assert model.generate(letters, "ab", max_new_tokens=9, stop=[], add_bos=True) == "ab" + letters.decode(ids[3:])


def test_the_tokenizers_end_of_document_stops(model: lc.Model) -> None:
    letters = Letters()
    ids = model.generate(None, letters.encode("abc"), max_new_tokens=9)
    letters.eod = ids[6]
    assert model.generate(letters, "abc", max_new_tokens=9) == letters.decode(ids[: ids.index(ids[6], 3)])


def test_likelihood_of_text_moves_spaces_to_the_continuation(model: lc.Model) -> None:
    letters = Letters()
    want = model.loglikelihood(None, letters.encode("ab"), [letters.encode(" cd")])
    assert model.loglikelihood(letters, "ab", [" cd"]) == want
    assert model.loglikelihood(letters, "ab ", ["cd"]) == want


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ([], {}, "no tokens"),
        ([[]], {}, "no tokens"),
        ([1, 37], {}, "37"),
        ([1, -1], {}, "-1"),
        ([1, 2**40], {}, "prompt"),
        ([1], {"max_new_tokens": 32}, "at most 31"),
        (list(range(33)), {"max_new_tokens": 1}, "max_position_embeddings"),
        ([1], {"temperature": -1.0}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"top_p": 1.5}, "top_p"),
        ("abc", {}, "tokenizer"),
    ],
)
def test_bad_requests_are_refused(model: lc.Model, prompt: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.UnsupportedInputError) as error:
        model.generate(None, prompt or [[]], **({"max_new_tokens": 3} | options))
    assert words in str(error.value)


def test_no_new_tokens(model: lc.Model) -> None:
    assert model.generate(None, [1, 2], max_new_tokens=0) == [1, 2]
    assert model.generate(None, [1], max_new_tokens=31, stop=[])[:1] == [1]


def test_bad_likelihoods_are_refused(model: lc.Model) -> None:
    for context, continuation, words in (([], [1], "context"), ([1], [], "continuation"), ([1], [37], "37")):
        with pytest.raises(errors.UnsupportedInputError, match=words):
            model.loglikelihood(None, context, [continuation])
    with pytest.raises(errors.UnsupportedInputError, match="max_position_embeddings"):
        model.loglikelihood(None, list(range(30)), [[1, 2, 3, 4]])


def test_a_nan_in_the_weights_is_named() -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.norm.weight"][0] = np.nan
    with pytest.raises(errors.NonFiniteError, match="logit"):
        lc.Model.from_spec(LLAMA, tensors=tensors).generate(None, [1], max_new_tokens=2)
