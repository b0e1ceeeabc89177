"""Files of Hugging Face `tokenizers` trained on the spot, and how `lc.Tokenizer` compares with the reference."""

from __future__ import annotations

import functools
import json
from typing import Any

import tokenizers as hf
from tokenizer_models import DATA
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import llmjp_core as lc

NEKO_TEXT = (DATA / "neko.txt").read_text(encoding="utf-8")
TEXTS = [
    *NEKO_TEXT.split("\n")[:150],
    NEKO_TEXT,
    *("", " ", "  a", " a  b ", "猫\n 猫", "\t猫", "鬱𠮷😀", "a" * 300, "。" * 50, "ab" * 70, "の" * 100, " " * 40),
    *("<s>猫</s>", "<0x0A>", "<unk>", "<unk>𠮷", "𠮷<unk>鬱", "<|endoftext|>猫 <|endoftext|>", "▁a ▁ b", "a\u2581"),
    *("e\u0301x", "か\u3099は\u309a", "ｶﾞｷﾞﾊﾟｱ", "ＡＢＣ　１２３", "㌀㍿ﬁ", "\u1100\u1161\u11a8", "a\u0316\u0301\u0323b"),
    *(
        "\u3000\u3000x \u3000y",
        "I'll don't we've 'sup ''s I'LL",
        " \n\n \r\n x",
        "x  \n",
        "\u00a0\u2009 \u0085x",
        "don ' t",
    ),
    *("1 12 123 1234 １２３４ Ⅳ½²", "def f(x):\n\treturn  x**2  # 猫", "क्षि ไทย العربية", "\u200b\ufeff\x00\x01"),
    *("<a>b <a> b", "x<a>b", "x  <l> y", "x <r>  y", "猫 <w> <w>猫 _<w>", "Ｎ<n>N", "[A][B] [A", "<a"),
]

Json = dict[str, Any]


def ours(config: Json | str) -> lc.Tokenizer:
    text = config if isinstance(config, str) else json.dumps(config, ensure_ascii=False)
    return lc.Tokenizer.from_bytes(text.encode())


def different(config: Json | str, texts: list[str], tok: lc.Tokenizer | None = None) -> list[tuple[str, str]]:
    """What differs from `tokenizers`, by kind and text."""
    tok = tok or ours(config)
    reference = hf.Tokenizer.from_str(config if isinstance(config, str) else json.dumps(config))
    vocab, found = reference.get_vocab(with_added_tokens=True), []
    for text in texts:
        want = reference.encode(text, add_special_tokens=False)
        got = tok.encode_with_offsets(text)
        ids, _, places = tok.encode_flat([text], 1, return_offsets="characters")
        if tok.encode(text) != want.ids or ids.tolist() != want.ids:
            found.append(("ids", text))
        elif not ([(begin, end) for _, _, begin, end in got] == list(map(tuple, places.tolist())) == want.offsets):
            found.append(("places", text))
        elif any(vocab[piece] != id for id, piece, _, _ in got):
            found.append(("pieces", text))
        if tok.decode(want.ids) != reference.decode(want.ids):
            found.append(("decode", text))
    return found


@functools.cache
def trained(kind: str) -> str:
    """A tokenizer trained on the bundled text, as `tokenizers` writes it."""
    if kind == "unigram":
        tok = hf.Tokenizer(models.Unigram())
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        special = ["<unk>", "<s>", "</s>"]
        trainer: Any = trainers.UnigramTrainer(vocab_size=4000, unk_token="<unk>", special_tokens=special)
        tok.decoder = decoders.Metaspace()
    elif kind == "characters":
        tok = hf.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        tok.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=["<unk>"], limit_alphabet=900)
        tok.decoder = decoders.Metaspace()
    else:
        tok = hf.Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "bytes_prefix")
        tok.post_processor = processors.ByteLevel(trim_offsets=kind != "bytes_prefix")
        tok.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    english = ["The quick brown fox didn't jump over 1905 lazy dogs; I'll say it again."] * 3
    tok.train_from_iterator([*NEKO_TEXT.split("\n"), *english], trainer)
    return str(tok.to_str())


def made(kind: str, **changes: Any) -> Json:
    config: Json = json.loads(trained(kind))
    return config | changes
