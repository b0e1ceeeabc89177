"""SentencePiece's character map inside a `tokenizer.json`: ids, places and text of Hugging Face `tokenizers`."""

from __future__ import annotations

import base64
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import tokenizers as hf
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizer_jsons import TEXTS, Json, different, made, ours
from tokenizer_models import model_bytes

import llmjp_core as lc
from llmjp_core import errors

# Clusters: of one rule and more, at the limit of six bytes, rules inside of clusters, emoji, flags, conjuncts.
CLUSTERS = [
    *("１\u20e3", "1\u20e3", "¹\ufe0f", "か\u3099", "か\u3099\u309a", "ｶﾞ", "ﾊﾟ\u0301", "ｱ\u3099", "が\u0301", "e\u0301"),
    *("a\u0301\u0323", "\u212b\u0301", "ﬁ\u0301", "ﷺ", "㌀\ufe0f", "\u1100\u1161", "\u1100\u1161\u11a8", "가\u11a8"),
    *("\u3131\u314f", "\uffa1\uffc2", "\u0958", "क\u094dष\u093f", "\u0958\u094d\u0937", "\u0e33", "ก\u0e33", "\u0344"),
    *("😀", "👩\u200d🔬", "㊗\ufe0f", "👨\u200d㊗", "©\u200d™", "🇯🇵", "🇯🇵🇯", "™\u200d™\ufe0f", "❤\ufe0f\u200d🔥"),
    *(
        "\u200b",
        "\u200d",
        "\u200c",
        "\ufeff",
        "\u2028",
        "\r\n",
        "\r",
        "\n\u0301",
        "\u3000",
        "\u3000\u0301",
        "\x00",
        "\x01",
    ),
    *(
        "\u0f77",
        "\u0600１",
        "\u0600\u0601¹",
        "\U0001d15e",
        "\U0001d15f\u0301",
        "\U0002f800",
        "\u0345",
        "\ufb2c",
        "…",
        "～",
    ),
]
STRINGS = st.lists(
    st.one_of(
        st.sampled_from(CLUSTERS),
        st.sampled_from(["猫", "a", " ", "  ", "▁", "の", "\u0301", "\u3099"]),
        st.text(max_size=4),
    ),
    max_size=25,
).map("".join)
LATIN = ["the cat ", " ", "\t", "ＡＢ", "ｅ\u0301", "x  y", "①"]


def replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "normalizers": list(steps)}


@functools.cache
def proto(kind: str) -> Any:
    model = pb.ModelProto()
    model.ParseFromString(model_bytes(kind))
    return model


def precompiled(kind: str = "unigram_nfkc") -> Json:
    blob = proto(kind).normalizer_spec.precompiled_charsmap
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}


def metaspace(scheme: str = "always", split: bool = True) -> Json:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def of_model(kind: str, normalizer: Json, pre_tokenizer: Json | None, **changes: Any) -> Json:
    """The pieces of a SentencePiece unigram model with the steps that transformers gives to a family of models."""
    pieces = [[piece.piece, piece.score] for piece in proto(kind).pieces]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False} | changes
    steps = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": metaspace()}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "model": model, **steps}


XLM_ROBERTA = (sequence(precompiled(), replace({"Regex": " {2,}"}, " ")), metaspace())
T5 = (precompiled(), {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace()]})
MT5 = (
    sequence(
        precompiled(),
        {"type": "Strip", "strip_left": False, "strip_right": True},
        replace({"Regex": " {2,}"}, "▁"),
    ),
    metaspace("first"),
)
ALONE = (precompiled(), None)
LOWER = (
    sequence(precompiled("unigram_casefold"), {"type": "Strip", "strip_left": True, "strip_right": True}),
    metaspace("never", False),
)
PIPELINES = {"xlm-roberta": XLM_ROBERTA, "t5": T5, "mt5": MT5, "alone": ALONE, "lower": LOWER}


@functools.cache
def exported(kind: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        lc.Tokenizer.from_bytes(model_bytes(kind)).export(folder)
        return Path(folder, "tokenizer.json").read_text(encoding="utf-8")


def assert_same(config: Json | str, examples: int) -> None:
    tok = ours(config)
    reference = hf.Tokenizer.from_str(config if isinstance(config, str) else json.dumps(config))

    @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @hypothesis.given(STRINGS)
    def check(text: str) -> None:
        want = reference.encode(text, add_special_tokens=False)
        assert tok.encode(text) == want.ids
        assert [(begin, end) for _, _, begin, end in tok.encode_with_offsets(text)] == want.offsets
        assert tok.decode(want.ids) == reference.decode(want.ids)

    check()


@pytest.mark.parametrize("kind", ["unigram_nfkc", "unigram_casefold", "bpe_nfkc", "bpe_unk"])
def test_our_export_reads_back(kind: str) -> None:
    assert different(exported(kind), TEXTS + CLUSTERS + LATIN) == []
    assert_same(exported(kind), 500)


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_of_transformers(name: str) -> None:
    normalizer, pre_tokenizer = PIPELINES[name]
    config = of_model("unigram_unk", normalizer, pre_tokenizer)
    assert different(config, TEXTS + CLUSTERS + LATIN) == []
    assert_same(config, 700)
    config = of_model("unigram_nfkc", normalizer, pre_tokenizer, byte_fallback=True)
    assert different(config, TEXTS + CLUSTERS) == []


def test_every_rule() -> None:
    """Each character that the map changes, alone and in the middle of others, and each pair of a rule."""
    config = of_model("unigram_unk", *XLM_ROBERTA)
    reference, tok = hf.Tokenizer.from_str(json.dumps(config)), ours(config)
    characters = [chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for middle in ("", "\u0301", "\u200d"):
        for at in range(0, len(characters), 2000):
            text = "".join(f"{c}{middle}猫" for c in characters[at : at + 2000])
            want = reference.encode(text, add_special_tokens=False)
            assert tok.encode(text) == want.ids
            got = tok.encode_with_offsets(text)
            assert [(begin, end) for _, _, begin, end in got] == want.offsets


def test_can_fail() -> None:
    """SentencePiece's own reading of the map, and a pipeline without it, are told apart by the same comparison."""
    config = of_model("unigram_unk", *XLM_ROBERTA)
    assert any(
        kind == "ids" for kind, _ in different(config, CLUSTERS, lc.Tokenizer.from_bytes(model_bytes("unigram_unk")))
    )
    without = of_model("unigram_unk", replace({"Regex": " {2,}"}, " "), metaspace())
    assert len(different(config, CLUSTERS, ours(without))) > 20


def test_damaged_maps() -> None:
    good = precompiled()["precompiled_charsmap"]
    for text, what in [
        (good[:-1], "base64"),
        (good[:-4] + "!!!!", "base64"),
        ("", "no header"),
        (base64.b64encode(base64.b64decode(good)[:1000]).decode(), "an array of"),
        (base64.b64encode(base64.b64decode(good)[:-1]).decode(), "no end"),
        (7, "a string"),
    ]:
        config = made("bytes", normalizer={"type": "Precompiled", "precompiled_charsmap": text})
        with pytest.raises(errors.TokenizerError, match=f"normalizer.precompiled_charsmap: .*{what}"):
            ours(config)
    with pytest.raises(errors.TokenizerError, match='"precompiled_charsmap" is missing'):
        ours(made("bytes", normalizer={"type": "Precompiled"}))
    with pytest.raises(errors.TokenizerError, match="strip_left"):
        ours(made("bytes", normalizer={"type": "Strip", "strip_left": 1, "strip_right": True}))


def test_long_texts() -> None:
    """In time that grows with the text: long clusters, runs of flags."""
    config = of_model("unigram_unk", *XLM_ROBERTA)
    reference, tok = hf.Tokenizer.from_str(json.dumps(config)), ours(config)
    for unit in ("🇯🇵", "１\u0301", "\u0301", "㊗\u200d", "か\u3099", "ＡＢ猫"):
        text = unit * 20_000
        assert tok.encode(text) == reference.encode(text, add_special_tokens=False).ids
