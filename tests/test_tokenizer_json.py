"""`tokenizer.json` in `lc.Tokenizer`: ids, places and text of Hugging Face `tokenizers`."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import lzma
import pickle
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
from tokenizer_jsons import NEKO_TEXT, TEXTS, Json, different, made, ours, trained
from tokenizer_models import NEKO, model_bytes
from tokenizers import pre_tokenizers

import llmjp_core as lc
from llmjp_core import errors


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def added(id: int, content: str, **options: bool) -> Json:
    return {
        "id": id,
        "content": content,
        **dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], False),
        **options,
    }


def with_added(config: Json, *tokens: tuple[str, dict[str, bool]]) -> Json:
    config = copy.deepcopy(config)
    first = len(config["model"]["vocab"])
    config["added_tokens"] += [added(first + i, content, **options) for i, (content, options) in enumerate(tokens)]
    return config


def read_xz(path: Path) -> str:
    return lzma.open(path, "rt", encoding="utf-8").read()


@functools.cache
def converted(model: bytes) -> str:
    """What transformers makes of a SentencePiece BPE model."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.model").write_bytes(model)
        Path(folder, "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
        return str(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> str:
    return read_xz(shared / "data" / "tokenizers" / "gpt2" / "gpt2.tokenizer.json.xz")


@pytest.fixture(scope="module")
def documents(shared: Path) -> list[str]:
    with open(shared / "data" / "corpus" / "sample_small.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in itertools.islice(lines, 60)]


@pytest.mark.parametrize("kind", ["bytes", "bytes_prefix", "characters", "unigram"])
def test_trained_by_tokenizers(kind: str) -> None:
    assert different(trained(kind), TEXTS) == []


def test_scores_are_read_as_tokenizers_reads_them() -> None:
    """Orders of the same pieces have the same score but for rounding, and that depends on the last digit read."""
    rng = random.Random(0)
    texts = [before + "…" * length for before in ("", "松", "松松") for length in range(2, 12)]
    for _ in range(200):
        vocab: list[Any] = [["<unk>", 0.0]]
        vocab += [[piece, -rng.uniform(2.0, 12.0)] for piece in ("松", "松…", "…", "……", "………")]
        model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
        config: Json = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
        config |= {"pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}
        assert different(config, texts) == []


def test_can_fail() -> None:
    """Another model, another step or another flag is told apart by the same comparison."""
    tok = ours(trained("bytes"))
    assert len(different(trained("characters"), TEXTS, tok)) > 100
    assert len(different(trained("bytes_prefix"), TEXTS, tok)) > 100
    fewer = made("bytes")
    del fewer["model"]["merges"][300]
    assert different(fewer, TEXTS, tok)
    assert {kind for kind, _ in different(made("bytes", post_processor=None), TEXTS, tok)} == {"places"}


def test_gpt2(gpt2: str, documents: list[str], shared: Path) -> None:
    botchan = (shared / "data" / "tokenizers" / "sentencepiece" / "botchan_en.txt").read_text(encoding="utf-8")
    assert different(gpt2, TEXTS + documents + botchan.split("\n")[:500] + [botchan]) == []
    tok = ours(gpt2)
    assert (tok.eod_id(), tok.bos_id, tok.eos_id, tok.pad_id) == (50256, 50256, 50256, None)
    assert tok.decode([tok.eod_id(), *tok.encode("猫")]) == "猫"


def test_llm_jp(documents: list[str], shared: Path) -> None:
    folder = shared / "data" / "tokenizers" / "llm-jp"
    config = read_xz(folder / "code10k_en20k_ja30k.ver2.1.tokenizer.json.xz")
    specials = ["<EOD|LLM-jp>a <s|LLM-jp>  b", "<s|LLM-jp>\n<unk|LLM-jp>猫", "<0x41>", "<EOD"]
    assert different(config, TEXTS + documents + specials) == []
    tok = ours(config)
    assert (tok.bos_id, tok.eos_id, tok.pad_id, tok.unk_id, tok.eod_id()) == (1, 2, 4, 0, 7)


@pytest.mark.parametrize("name", ["mistral/mistral_instruct_tokenizer_240323.v3.model", "made/own_bpe50k.model"])
def test_sentencepiece_bpe_as_transformers_converts_it(name: str, documents: list[str], shared: Path) -> None:
    config = converted((shared / "data" / "tokenizers" / name).read_bytes())
    assert different(config, TEXTS + documents[:30] + ["[INST] 猫[/INST]  x", "<s> a"]) == []


@pytest.mark.parametrize("kind", ["bpe_plain", "bpe_unk", "bpe_digits"])
def test_small_sentencepiece_bpe(kind: str) -> None:
    """With the Llama normalizer too: the whole text is one word."""
    config = json.loads(converted(model_bytes(kind)))
    assert different(config, TEXTS) == []
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    config |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    assert different(config, TEXTS) == []
    config["model"] |= {"unk_token": "<unk>", "byte_fallback": False}
    for fuse in (False, True):
        config["model"]["fuse_unk"] = fuse
        assert different(config, TEXTS) == []


def test_merges_that_byte_tokens_take_part_in() -> None:
    config = json.loads(converted(model_bytes("bpe_plain")))
    vocab = config["model"]["vocab"]
    for left, right in [("<0xF0>", "<0xA0>"), ("<0x87>", "猫"), ("<0xF0><0xA0>", "<0xAE>")]:
        vocab[left + right] = len(vocab)
        config["model"]["merges"].insert(0, [left, right])
    assert different(config, [*TEXTS, "𠀇猫", "猫𠮷猫"]) == []
    assert ours(config).encode("𠀇猫") != ours(json.loads(converted(model_bytes("bpe_plain")))).encode("𠀇猫")


def test_merges_as_strings_and_as_pairs(gpt2: str) -> None:
    config = json.loads(gpt2)
    assert isinstance(config["model"]["merges"][0], str)
    pairs = copy.deepcopy(config)
    pairs["model"]["merges"] = [line.split(" ") for line in config["model"]["merges"]]
    assert ours(pairs).encode_batch(TEXTS) == ours(config).encode_batch(TEXTS)


def test_merges_out_of_order(gpt2: str) -> None:
    """Ranks that do not rise with the tokens, several rules for one token, rules that come twice."""
    config = json.loads(trained("bytes"))
    merges = config["model"]["merges"]
    merges[:] = merges[::2][::-1] + merges[1::3] + merges[1::2] + merges[:40]
    assert different(config, TEXTS) == []
    config = json.loads(converted(model_bytes("bpe_plain")))
    config["model"]["merges"] = config["model"]["merges"][::-1]
    assert different(config, TEXTS) == []


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: Json, behavior: str = "Isolated", invert: bool = False) -> Json:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@pytest.mark.parametrize(
    "steps",
    [
        sequence(split({"Regex": LLAMA3}), BYTES),
        sequence(split({"Regex": LLAMA3.replace("{1,3}", "")}, "Removed", True), BYTES),
        sequence({"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}),
        sequence({"type": "Digits", "individual_digits": False}, BYTES | {"add_prefix_space": True}),
        sequence(split({"String": " "}, "MergedWithNext"), BYTES),
        sequence(split({"Regex": r"\s|\p{N}"}, "MergedWithPrevious"), BYTES),
        sequence(split({"Regex": "[の。]"}, "Removed"), BYTES),
        sequence(split({"Regex": "[一-龥぀-ゟ゠-ヿ]+"}), BYTES | {"use_regex": True}),
        BYTES,
    ],
    ids=str,
)
def test_pre_tokenizers(steps: Json) -> None:
    assert different(made("bytes", pre_tokenizer=steps), TEXTS) == []


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("cut", [True, False])
def test_metaspace(scheme: str, cut: bool) -> None:
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
    config = with_added(made("characters", pre_tokenizer=step, decoder=step), ("<a>", {"special": True}))
    assert different(config, TEXTS) == []


@pytest.mark.parametrize("kind", ["NFC", "NFKC"])
def test_normal_forms(kind: str) -> None:
    config = made("bytes", normalizer={"type": kind})
    found = different(config, TEXTS)
    # Reordered marks: the places are ours, the ids are not.
    assert {(what, text) for what, text in found} <= {("places", "a\u0316\u0301\u0323b"), ("places", "㌀㍿ﬁ")}


def test_added_tokens() -> None:
    tokens = [
        ("<a>", {}),
        ("<a>b", {"special": True}),
        ("<l>", {"lstrip": True}),
        ("<r>", {"rstrip": True, "special": True}),
        ("<w>", {"single_word": True}),
        ("Ｎ", {"normalized": True}),
        ("  ", {"normalized": True}),
        ("[A]", {"lstrip": True, "rstrip": True}),
    ]
    for kind in ("bytes", "bytes_prefix", "characters", "unigram"):
        assert different(with_added(made(kind), *tokens), TEXTS) == [], kind
    nfkc = with_added(made("bytes", normalizer={"type": "NFKC"}), *tokens)
    assert [text for what, text in different(nfkc, TEXTS) if what == "ids"] == []


def test_ignore_merges_and_missing_letters() -> None:
    config = made("bytes")
    config["model"]["ignore_merges"] = True
    vocab = config["model"]["vocab"]
    vocab["å®ĥä½ĵ"] = len(vocab)
    assert different(config, [*TEXTS, "実体", "実体の", "宓佃体"]) == []
    few = made("bytes", added_tokens=[])
    gone = {"ã", "Ģ"}
    kept = [token for token in sorted(few["model"]["vocab"], key=few["model"]["vocab"].get) if not gone & set(token)]
    few["model"]["vocab"] = {token: id for id, token in enumerate(kept)}
    few["model"]["merges"] = [pair for pair in few["model"]["merges"] if not gone & set("".join(pair))]
    assert [text for kind, text in different(few, TEXTS) if kind != "places"] == []
    few["model"] |= {"unk_token": "!", "fuse_unk": True}
    assert [text for kind, text in different(few, TEXTS) if kind != "places"] == []


def test_every_character_is_of_the_class_that_tokenizers_has() -> None:
    """Both know Unicode's letters, numbers and spaces; a character is cut from a letter, a digit or not at all."""
    reference = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = made("bytes")
    vocab = config["model"]["vocab"]
    config["model"] = config["model"] | {"merges": [], "vocab": vocab}
    characters = [chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    text = "".join(f"a{c}1{c}" for c in characters)
    want = [word for word, _ in reference.pre_tokenize_str(text)]
    # Words show in the tokens where every word is one: `ignore_merges` over the words themselves.
    for word in want:
        vocab.setdefault(word, len(vocab))
    config["model"]["ignore_merges"] = True
    tok = ours(config)
    got = tok.encode_as_pieces(text)
    # Characters that one of the two does not know yet.
    assert len(set(got) - set(want)) < 100
    assert len(want) > 300_000


def test_files_and_folders(gpt2: str, tmp_path: Path) -> None:
    """By content, not by name; a folder's other files name tokens."""
    (tmp_path / "gpt2.model").write_text(" \n" + gpt2, encoding="utf-8")
    tok = lc.Tokenizer.from_file(tmp_path / "gpt2.model")
    assert tok.encode("猫 cat") == ours(gpt2).encode("猫 cat")
    assert (tok.compat, tok.vocab_size, len(tok)) == ("hf", 50257, 50257)
    (tmp_path / "tokenizer.json").write_text(json.dumps(made("characters")))
    assert lc.Tokenizer.from_file(tmp_path).eos_id is None
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "。"}, "bos_token": "、"}')
    named = lc.Tokenizer.from_file(tmp_path)
    assert (named.eos_id, named.bos_id) == (named.piece_to_id("。"), named.piece_to_id("、"))
    again = pickle.loads(pickle.dumps(named))
    assert (again.eos_id, again.bos_id, again.encode("猫の")) == (named.eos_id, named.bos_id, named.encode("猫の"))
    asked = lc.Tokenizer.from_file(tmp_path / "tokenizer.json", special_tokens={"pad_token": "猫"})
    assert asked.pad_id == asked.piece_to_id("猫")
    with pytest.raises(errors.UnsupportedInputError, match="cls_token"):
        lc.Tokenizer.from_file(tmp_path / "tokenizer.json", special_tokens={"cls_token": "猫"})
    with pytest.raises(errors.UnsupportedInputError, match="SentencePiece model"):
        lc.Tokenizer.from_file(NEKO, special_tokens={"pad_token": "猫"})
    with pytest.raises(errors.UnsupportedModelError, match=r"0\.2\.1"):
        lc.Tokenizer.from_file(tmp_path / "tokenizer.json", compat="sentencepiece<=0.2.1")
    with pytest.raises(errors.FileError):
        lc.Tokenizer.from_file(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["bytes", "characters", "unigram"])
def test_save_and_export(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = with_added(made(kind), ("<|endoftext|>", {"special": True})) if kind != "bytes" else made(kind)
    tok = ours(config)
    tok.save(tmp_path / "saved")
    assert lc.Tokenizer.from_file(tmp_path / "saved").fingerprint == tok.fingerprint
    tok.export(tmp_path / "folder")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "folder")
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tok.encode(text), text
        assert theirs.decode(tok.encode(text), skip_special_tokens=True) == tok.decode(tok.encode(text)), text
    assert (len(theirs), theirs.eos_token_id) == (len(tok), tok.eos_id)
    assert lc.Tokenizer.from_file(tmp_path / "folder").eod_id() == tok.eod_id()


def test_batches(gpt2: str, documents: list[str]) -> None:
    """The same for any number of threads, and as one by one."""
    tok = ours(gpt2)
    want = [tok.encode(text) for text in documents]
    for threads in (1, 2, 3):
        assert tok.encode_batch(documents, threads) == want
        ids, offsets = tok.encode_flat(documents, threads)
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == want
    assert tok.encode(b"a\xff\xe3\x81b") == tok.encode("a\ufffd\ufffd\ufffdb")
    assert [(begin, end) for _, _, begin, end in tok.encode_with_offsets(b"a\xff!")][-1] == (2, 3)
    assert tok.encode("猫", add_eos=True) == [*tok.encode("猫"), 50256]


def test_data_and_generation(tmp_path: Path) -> None:
    tok = ours(trained("bytes"))
    lines = NEKO_TEXT.split("\n")[:40]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    lc.data.tokenize(str(tmp_path / "a.jsonl"), tok, tmp_path / "out", append_eod=True)
    written = lc.data.IndexedDataset(tmp_path / "out")
    got = [written[i].tolist() for i in range(len(written))]
    assert got == [[*tok.encode(line), tok.eod_id()] for line in lines if line]


REFUSED = {
    "normalizer": ["Lowercase", "BertNormalizer", "StripAccents", "Nmt"],
    "pre_tokenizer": ["BertPreTokenizer", "Whitespace", "UnicodeScripts", "Punctuation"],
    "post_processor": ["RobertaProcessing", "BertProcessing"],
    "decoder": ["WordPiece", "CTC", "BPEDecoder"],
    "model": ["WordPiece", "WordLevel"],
}


@pytest.mark.parametrize("place, name", [(place, name) for place, names in REFUSED.items() for name in names])
def test_what_is_not_supported_is_refused_by_name(place: str, name: str) -> None:
    with pytest.raises(errors.UnsupportedModelError, match=f"{place}.*{name}"):
        ours(made("bytes", **{place: {"type": name}}))


def change(path: str, value: Any) -> Json:
    config = made("bytes")
    at: Any = config
    *folders, last = path.split(".")
    for key in folders:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[int(last) if isinstance(at, list) else last] = value
    return config


DAMAGED: list[tuple[str, Any, str]] = [
    ("model.merges.5", "a", "merge 5"),
    ("model.merges.5", "a b c", "merge 5"),
    ("model.merges.5", ["a", "nobody"], "merge 5 names"),
    ("model.merges.5", 7, "merge 5"),
    ("model.merges", {}, "a list"),
    ("model.vocab", [], "token: id"),
    ("model.vocab.a", 1 << 40, "without holes"),
    ("model.vocab.a", -1, "no whole number"),
    ("model.vocab.a", 5, "that of"),
    ("model.vocab", {"a": 0}, "not in the vocabulary|next free"),
    ("model.unk_token", "nobody", "nobody"),
    ("model", None, '"model" is missing'),
    ("added_tokens.0", {"content": "x"}, '"id" is missing'),
    ("added_tokens.0.id", 1 << 40, "too large"),
    ("added_tokens.0.id", 77, "has id 77"),
    ("added_tokens.0.content", 3, "a string"),
    ("added_tokens", {}, "a list"),
    ("normalizer", {"type": "Replace", "content": ""}, '"pattern" is missing'),
    ("normalizer", {"type": "Replace", "pattern": {}, "content": ""}, "String"),
    ("normalizer", {"type": "Sequence", "normalizers": 1}, "a list"),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "ab"}, "one character"),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "x"}, "prepend_scheme"),
]


@pytest.mark.parametrize("path, value, message", DAMAGED)
def test_damaged_files(path: str, value: Any, message: str) -> None:
    with pytest.raises(errors.TokenizerError, match=message):
        ours(change(path, value))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("pre_tokenizer", split({"Regex": r"(?<=a)b"}), "group"),
        ("pre_tokenizer", split({"Regex": r"\w+"}), r"\\w"),
        ("pre_tokenizer", split({"Regex": "("}), "regular expression"),
        ("pre_tokenizer", split({"Regex": "a{1000}{1000}{1000}"}), "regular expression"),
        ("pre_tokenizer", split({"Regex": "a" * 20_000}), "16384"),
        ("pre_tokenizer", split({"String": "a"}, "Contiguous"), "Contiguous"),
        ("pre_tokenizer", sequence(BYTES, BYTES), "behind ByteLevel"),
        ("model.dropout", 0.1, "dropout"),
        ("model.continuing_subword_prefix", "##", "continuing_subword_prefix"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix"),
    ],
)
def test_options_that_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(errors.UnsupportedModelError, match=message):
        ours(change(path, value))


def test_text_that_is_no_tokenizer() -> None:
    whole = trained("bytes").encode()
    deep = b'{"a":' + b"[" * 100_000
    for damaged in (b'{"', b"{}", whole[:-5], whole[:2000], b'{"model": "\xff"}', deep, b'{"a": 1e999}'):
        with pytest.raises(errors.TokenizerError):
            lc.Tokenizer.from_bytes(damaged)
    long = change("added_tokens.0", added(0, "x" * 9000))
    with pytest.raises(errors.TokenizerError, match="8000"):
        ours(with_added(long, ("y" * 9000, {})) | {"added_tokens": [added(len(long["model"]["vocab"]), "y" * 9000)]})
    unigram = made("unigram")
    for value in ([["a", 1]], [["a", 0.5, 1]], [["a"]], [["a", "b"]], {"a": 0}, [["a", 0.5], ["a", 0.7]]):
        unigram["model"] |= {"vocab": value, "unk_id": 5}
        with pytest.raises(errors.TokenizerError):
            ours(unigram)


def test_long_words() -> None:
    """In time that grows with the text, whatever it repeats."""
    for kind in ("bytes", "characters", "unigram"):
        config = made(kind)
        reference = hf.Tokenizer.from_str(json.dumps(config))
        for unit in ("a", "の", "吾輩は", " ", "ab"):
            text = unit * 20_000
            assert ours(config).encode(text) == reference.encode(text, add_special_tokens=False).ids
