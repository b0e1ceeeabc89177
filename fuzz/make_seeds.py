"""Writes the seeds in `fuzz/seeds`: small models of every kind, and files that are wrong in one place each.

    python fuzz/make_seeds.py            # needs sentencepiece 0.2.3, protobuf and tokenizers, as the tests do

Files of the same name are replaced, so that a seed that a fuzzer found (by another name) stays.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "seeds"
LINES = (ROOT / "tests" / "data" / "neko.txt").read_text(encoding="utf-8").splitlines()[:3]
TEXT = [*LINES, "A cat and 2 dogs. the the cat cat aaaa abab <a> x"] * 3
RULES = [
    ("Ａ", "A"),
    ("１", "1"),
    ("ｶ", "カ"),
    ("ｶﾞ", "ガ"),
    ("か\u3099", "が"),
    ("\u3000", " "),
    ("㌀", "アパート"),
    ("\u200b", ""),
]
Json = dict[str, Any]


def trained(**changes: Any) -> Any:
    """A model of a few hundred pieces."""
    options: Json = {
        "vocab_size": 470, "byte_fallback": True, "character_coverage": 0.98, "hard_vocab_limit": False,
        "normalization_rule_name": "identity", "minloglevel": 2, "num_threads": 1,
    } | changes  # fmt: skip
    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        if options.pop("rules", False):
            path = Path(folder, "rules.tsv")
            points = lambda text: " ".join(f"{ord(c):X}" for c in text)  # noqa: E731
            path.write_text("".join(f"{points(a)}\t{points(b)}\n" for a, b in RULES))
            options |= {"normalization_rule_tsv": str(path)}
            del options["normalization_rule_name"]
        spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=out, **options)
    model = pb.ModelProto()
    model.ParseFromString(out.getvalue())
    spec = pb.TrainerSpec()  # what a reader needs of it
    for name in ("model_type", "vocab_size", "byte_fallback", "treat_whitespace_as_suffix", "unk_surface", "unk_piece"):
        setattr(spec, name, getattr(model.trainer_spec, name))
    model.trainer_spec.CopyFrom(spec)
    return model


PLAIN = {"byte_fallback": False, "vocab_size": 220}


def models() -> dict[str, Any]:
    found = {
        "unigram_bytes": trained(remove_extra_whitespaces=False),
        "unigram_unk": trained(**PLAIN),
        "unigram_rules": trained(rules=True, **PLAIN),
        "unigram_suffix": trained(treat_whitespace_as_suffix=True, **PLAIN),
        "unigram_symbols": trained(user_defined_symbols=["<a>", "<a>b", "猫", " x "], **PLAIN),
        "bpe_bytes": trained(model_type="bpe"),
        "bpe_rules": trained(model_type="bpe", rules=True, **PLAIN),
        "bpe_symbols": trained(model_type="bpe", user_defined_symbols=["<a>", "<a>b", "猫"], **PLAIN),
    }
    for kind in ("unigram", "bpe"):
        unused = pb.ModelProto()
        unused.CopyFrom(found[f"{kind}_symbols"])
        for piece in list(unused.pieces)[8::3]:
            piece.type = 5
        found[f"{kind}_unused"] = unused
    denormalizer = pb.ModelProto()
    denormalizer.CopyFrom(found["unigram_rules"])
    denormalizer.denormalizer_spec.precompiled_charsmap = denormalizer.normalizer_spec.precompiled_charsmap
    found["unigram_denormalizer"] = denormalizer
    return found


def double_array(change: Callable[[list[int]], None], replacements: bytes = b"A\0") -> bytes:
    """A map with the one rule \"a\" -> \"A\" after `change` of its units."""
    units = [0] * 512
    units[0] = 256 << 10  # the root's children are at 256 ^ byte
    child = 256 ^ ord("a")
    leaf = child ^ (1 << 8)
    units[child] = (child ^ leaf) << 10 | 1 << 8 | ord("a")
    units[leaf] = 1 << 31
    change(units)
    array = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(array)) + array + replacements


def set_unit(at: int, value: int) -> Callable[[list[int]], None]:
    return lambda units: units.__setitem__(at, value)


A = 256 ^ ord("a")
MAPS: dict[str, bytes] = {
    "one_rule": double_array(lambda units: None),
    "root_to_itself": double_array(set_unit(0, 0)),
    "root_outside": double_array(set_unit(0, 500 << 10)),
    "child_outside": double_array(set_unit(A, 0x1FFFFF << 10 | ord("a"))),
    "child_far_outside": double_array(set_unit(A, 0x1FFFFF << 10 | 1 << 9 | 1 << 8 | ord("a"))),
    "cycle": double_array(set_unit(A, (A ^ 256) << 10 | ord("a"))),
    "cycle_with_leaf": double_array(set_unit(A, (A ^ 256) << 10 | 1 << 8 | ord("a"))),
    "value_outside": double_array(set_unit(A ^ 256, 1 << 31 | 0x7FFFFFFF)),
    "leaf_without_value": double_array(set_unit(A ^ 256, 5)),
    "replacement_without_end": double_array(lambda units: None, b"A"),
    "replacement_not_utf8": double_array(lambda units: None, b"\xff\0"),
    "no_replacements": double_array(lambda units: None, b""),
    "many_rules": double_array(
        lambda units: [units.__setitem__(256 ^ b, 256 << 10 | 1 << 8 | b) for b in range(256)] and None
    ),
    "size_zero": struct.pack("<I", 0) + bytes(64),
    "size_huge": struct.pack("<I", 0xFFFFFFFF) + bytes(2048),
    "size_odd": struct.pack("<I", 1027) + bytes(2048),
    "header_only": b"\x00\x04\x00\x00",
    "short": b"\x01",
}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def damaged(base: Any) -> dict[str, bytes]:
    """Models that are wrong in one place; several of them end the process in some readers."""
    files: dict[str, bytes] = {}

    def with_pieces(name: str, change: Callable[[Any], Any]) -> None:
        model = pb.ModelProto()
        model.CopyFrom(base)
        change(model)
        files[name] = model.SerializeToString()

    with_pieces("piece_twice", lambda m: m.pieces.add(piece=m.pieces[20].piece, score=-1))
    with_pieces("piece_empty", lambda m: setattr(m.pieces[20], "piece", ""))
    with_pieces("piece_nul", lambda m: setattr(m.pieces[20], "piece", "\0"))
    with_pieces("piece_of_nuls", lambda m: setattr(m.pieces[20], "piece", "a\0b"))
    with_pieces("piece_long", lambda m: setattr(m.pieces[20], "piece", "a" * 300))
    with_pieces("piece_longer", lambda m: setattr(m.pieces[20], "piece", "あ" * 3000))
    with_pieces("score_nan", lambda m: setattr(m.pieces[20], "score", float("nan")))
    with_pieces("score_infinite", lambda m: setattr(m.pieces[20], "score", float("inf")))
    with_pieces("scores_extreme", lambda m: [setattr(p, "score", 3e38 * (-1) ** i) for i, p in enumerate(m.pieces)])
    with_pieces("scores_equal", lambda m: [setattr(p, "score", 0.0) for p in m.pieces])
    with_pieces("unknown_twice", lambda m: setattr(m.pieces[20], "type", 2))
    with_pieces("unknown_missing", lambda m: setattr(m.pieces[0], "type", 3))
    with_pieces("all_unused", lambda m: [setattr(p, "type", 5) for p in list(m.pieces)[3:]])
    with_pieces("all_control", lambda m: [setattr(p, "type", 3) for p in list(m.pieces)[1:]])
    with_pieces("all_of_user", lambda m: [setattr(p, "type", 4) for p in list(m.pieces)[3:]])
    with_pieces("byte_fallback_without_bytes", lambda m: setattr(m.trainer_spec, "byte_fallback", True))
    with_pieces("byte_piece_of_text", lambda m: setattr(m.pieces[20], "type", 6))
    with_pieces("type_word", lambda m: setattr(m.trainer_spec, "model_type", 3))
    with_pieces("only_unknown", lambda m: m.pieces.__delitem__(slice(1, None)))
    with_pieces("no_pieces", lambda m: m.ClearField("pieces"))
    whole = base.SerializeToString()
    files |= {
        "length_huge": b"\x0a" + varint(1 << 62),
        "length_of_32_bits": b"\x0a" + varint((1 << 32) - 1) + b"abc",
        "length_negative": b"\x0a" + varint((1 << 64) - 1),
        "length_inside": b"\x0a\x05\x0a" + varint(1 << 40) + b"a",
        "varint_without_end": b"\x0a" + b"\xff" * 20,
        "field_zero": b"\x02\x00",
        "group": b"\x0b" * 2000,
        "end_of_group": b"\x0c",
        "wire_type_7": b"\x0f\x00",
        "piece_as_number": b"\x08\x01",
        "type_9": b"\x0a\x05\x0a\x01a\x18\x09",
        "type_huge": b"\x0a\x0e\x0a\x01a\x18" + varint((1 << 64) - 1),
        "not_utf8": b"\x0a\x04\x0a\x02\xff\xfe",
        "zeros": bytes(500),
        "half": whole[: len(whole) // 2],
        "without_last_byte": whole[:-1],
        "appended": whole + b"\x0a",
        "pieces_of_nothing": b"\x0a\x00" * 3000,
        "spec_twice": whole + base.trainer_spec.SerializeToString() + whole,
    }
    return files


def with_map(base: Any, blob: bytes) -> bytes:
    model = pb.ModelProto()
    model.CopyFrom(base)
    model.normalizer_spec.precompiled_charsmap = blob
    return bytes(model.SerializeToString())


def pipeline(model: Json, **parts: Any) -> Json:
    empty = dict.fromkeys(["normalizer", "pre_tokenizer", "post_processor", "decoder"])
    return {"version": "1.0", "added_tokens": [], **empty, "model": model, **parts}


def jsons() -> dict[str, Any]:
    letters = [
        "<unk>",
        "▁",
        "a",
        "b",
        "c",
        "猫",
        "の",
        "Ġ",
        "ã",
        "<0x0A>",
        "<0xE3>",
        "<0x81>",
        "ab",
        "abc",
        "▁a",
        "猫の",
    ]
    bpe: Json = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": {letter: id for id, letter in enumerate(letters)},
        "merges": [["a", "b"], ["ab", "c"], ["▁", "a"], ["猫", "の"]],
    }  # fmt: skip
    unigram: Json = {
        "type": "Unigram", "unk_id": 0, "byte_fallback": True,
        "vocab": [[letter, -float(id)] for id, letter in enumerate(letters)],
    }  # fmt: skip
    special: Json = {
        "id": 16, "content": "<s>", "single_word": False, "lstrip": True, "rstrip": True,
        "normalized": False, "special": True,
    }  # fmt: skip
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    split = {"type": "Split", "pattern": {"Regex": r" ?\p{L}+|\s+(?!\S)|\s+"}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}

    def precompiled(blob: bytes) -> Json:
        return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}

    def sequence(key: str, *steps: Json) -> Json:
        return {"type": "Sequence", key: list(steps)}

    def strings(pattern: str) -> Json:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}

    rules = trained(rules=True, **PLAIN).normalizer_spec.precompiled_charsmap
    files: dict[str, Any] = {
        "bpe": pipeline(bpe, pre_tokenizer=metaspace, decoder=metaspace),
        "bpe_bytes": pipeline(
            bpe | {"byte_fallback": False},
            pre_tokenizer=sequence("pretokenizers", split, {"type": "Digits", "individual_digits": True}, bytes_),
            post_processor=bytes_,
            decoder=bytes_,
        ),
        "unigram": pipeline(
            unigram,
            normalizer=sequence(
                "normalizers", precompiled(rules), {"type": "Strip", "strip_left": True, "strip_right": True}
            ),
            pre_tokenizer=sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace),
            decoder=sequence("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}),
            added_tokens=[special],
        ),
        "unigram_nfkc": pipeline(
            unigram,
            normalizer=sequence(
                "normalizers", {"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"}, strings(r"(?<!\n)^")
            ),
            added_tokens=[special | {"normalized": True, "single_word": True, "content": "Ａ"}],
        ),
        "merge_of_nobody": pipeline(bpe | {"merges": [["a", "nobody"]]}),
        "merge_of_three": pipeline(bpe | {"merges": ["a b c"]}),
        "merges_in_a_ring": pipeline(bpe | {"merges": [["ab", "c"], ["a", "b"], ["a", "b"]] * 50}),
        "ids_with_holes": pipeline(bpe | {"vocab": {"a": 0, "b": 7}}),
        "id_huge": pipeline(bpe | {"vocab": {"a": 1 << 63}}),
        "added_id_huge": pipeline(bpe, added_tokens=[special | {"id": 1 << 62}]),
        "unk_id_outside": pipeline(unigram | {"unk_id": 99}),
        "score_huge": pipeline(unigram | {"vocab": [[letter, 1e308 * (-1) ** i] for i, letter in enumerate(letters)]}),
        "token_twice": pipeline(unigram | {"vocab": [["a", 0.0], ["a", -1.0]]}),
        "pattern_explodes": pipeline(bpe, normalizer=strings("((a{1,1000}){1,1000}){1,1000}")),
        "pattern_of_nothing": pipeline(bpe, normalizer=strings("")),
        "pattern_of_classes": pipeline(bpe, normalizer=strings(r"[\p{L}\p{N}]{1,9}|(?i:k)|\u{1F600}")),
        **{
            f"map_{name}": pipeline(unigram, normalizer=precompiled(blob))
            for name, blob in MAPS.items()
            if len(blob) < 3000
        },
    }
    whole = json.dumps(files["bpe"])
    return files | {
        "deep": '{"a":' + "[" * 5000,
        "deep_objects": '{"model":' * 500,
        "half": whole[: len(whole) // 2],
        "sequences_in_sequences": json.dumps(pipeline(bpe, normalizer=deep(100))),
        "surrogate": '{"model": {"type": "\\ud800"}}',
        "numbers": '{"model": {"type": "BPE", "vocab": {"a": 1e400}, "merges": []}}',
        "not_utf8": b'{"model": "\xff"}',
    }


def deep(levels: int) -> Json:
    inner: Json = {"type": "NFC"}
    for _ in range(levels):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return inner


TEXTS: dict[str, bytes] = {
    "japanese": "吾輩は猫である。名前はまだ無い。\n　どこで生れたか　とんと".encode(),
    "spaces": "  a  b \u3000 \t\r\n ▁▁ ".encode(),
    "marks": "か\u3099は\u309aｶﾞﾊﾟe\u0301\u0323１\u20e3\u200d㊗\ufe0f".encode(),
    "emoji": "👩\u200d🔬🇯🇵🇯❤\ufe0f\u200d🔥𠮷".encode(),
    "literals": b"<s><unk></s><0x0A><a>b <a><pad>",
    "runs": b"a" * 300 + b"ab" * 100 + "の".encode() * 200,
    "not_utf8": b"\xff\xe3\x81a\xc0\x80\xf4\x90\x80\x80\xed\xa0\x80",
    "controls": bytes(range(32)) + b"\x7f\xc2\x85\xef\xbb\xbf\xef\xbf\xbd",
}


def write(target: str, name: str, content: bytes) -> None:
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main() -> None:
    good = models()
    for name, model in good.items():
        write("model_file", name, model.SerializeToString())
    for name, content in damaged(good["unigram_unk"]).items():
        write("model_file", f"wrong_{name}", content)
    for name, blob in MAPS.items():
        write("model_file", f"map_{name}", with_map(good["unigram_unk"], blob))
    for name, value in jsons().items():
        content = (
            value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
        )
        write("tokenizer_json", name, content)
    for name, content in TEXTS.items():
        write("encode_decode", name, content)


if __name__ == "__main__":
    main()
