"""Damaged and unsupported model files: a typed error each, never a panic or a wrong model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizer_models import NEKO, model_bytes

import llmjp_core as lc
from llmjp_core import errors


def proto(kind: str | None = None) -> Any:
    model = pb.ModelProto()
    model.ParseFromString(NEKO.read_bytes() if kind is None else model_bytes(kind))
    return model


def refused(model: Any) -> str:
    with pytest.raises(errors.TokenizerError) as caught:
        lc.Tokenizer.from_bytes(model.SerializeToString() if hasattr(model, "pieces") else model)
    return str(caught.value)


def test_truncated_anywhere() -> None:
    data = model_bytes("unigram_nfkc")
    rng = np.random.default_rng(0)
    for at in [0, 1, 2, 3, *rng.integers(0, len(data), 150), len(data) - 1]:
        try:
            tok = lc.Tokenizer.from_bytes(data[:at])
        except errors.TokenizerError:
            continue
        # A cut between two fields leaves a whole, shorter message; the reference takes it too.
        spm.SentencePieceProcessor(model_proto=data[:at])
        assert tok.vocab_size > 0


def test_flipped_bytes() -> None:
    """Either a typed error or a model that works; what the reference refuses is refused."""
    data = bytearray(NEKO.read_bytes())
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(400):
        broken = (
            bytes(data[: (at := int(rng.integers(0, len(data))))])
            + bytes([rng.integers(0, 256)])
            + bytes(data[at + 1 :])
        )
        try:
            lc.Tokenizer.from_bytes(broken).encode("吾輩は猫である。" * 3)
        except errors.TokenizerError:
            refusals += 1
    assert refusals > 50


def test_flipped_character_map() -> None:
    model = proto("unigram_nfkc")
    blob = model.normalizer_spec.precompiled_charsmap
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(150):
        at = int(rng.integers(0, len(blob)))
        model.normalizer_spec.precompiled_charsmap = blob[:at] + bytes([rng.integers(0, 256)]) + blob[at + 1 :]
        try:
            lc.Tokenizer.from_bytes(model.SerializeToString()).encode("ｶﾞかﾞＡ㌀e\u0301\x00 ﷺ" * 3)
        except errors.TokenizerError as error:
            refusals += "character map" in str(error)
    assert refusals > 5
    for size in (0, 3, 4, 1027, 5000, len(blob) - 1):
        model.normalizer_spec.precompiled_charsmap = blob[:size]
        if size:
            assert "character map" in refused(model)


def test_random_bytes_and_other_files() -> None:
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 10, 1000):
        for _ in range(30):
            refused(rng.bytes(length))
    assert "no pieces" in refused(b"")
    assert '"model" is missing' in refused(b'{"version": "1.0"}')
    # A length of 2^62 must not be believed.
    assert "promised" in refused(b"\x0a" + b"\xff" * 8 + b"\x3f")


def test_promises_of_a_model() -> None:
    model = proto()
    model.pieces[700].piece = ""
    assert "piece 700 is empty" in refused(model)
    model = proto()
    model.pieces[700].piece = model.pieces[701].piece
    assert "piece 701" in refused(model) and "twice" in refused(model)
    model = proto()
    model.pieces[700].score = float("nan")
    assert "score of piece 700" in refused(model)
    model = proto()
    model.pieces[700].piece = "a\0b"
    assert "NUL" in refused(model)
    model = proto()
    model.pieces[700].type = 2
    assert "UNKNOWN" in refused(model)
    model = proto()
    del model.pieces[10]  # one of the byte pieces
    assert "missing" in refused(model) and "<0x" in refused(model)
    model = proto()
    model.trainer_spec.byte_fallback = False
    assert "byte_fallback" in refused(model)
    model = proto("unigram_unk")
    model.pieces[0].type = 1
    assert "UNKNOWN" in refused(model)
    model = proto()
    for score in (float("inf"), -3e38, 1e21):
        model.pieces[700].score = score
        assert "within 1e20" in refused(model)


def test_limits_of_unigram_models() -> None:
    """Wider than any model in use, narrower than sentencepiece's; BPE has none of them."""
    model = proto()
    model.pieces[700].piece = "あ" * 255
    assert lc.Tokenizer.from_bytes(model.SerializeToString()).encode("あ" * 255) != []
    model.pieces[700].piece = "あ" * 256
    with pytest.raises(errors.UnsupportedModelError, match=r"256 characters.*up to 255"):
        lc.Tokenizer.from_bytes(model.SerializeToString())
    characters = [chr(code) for code in range(0x4E00, 0x2A000) if not 0xD800 <= code < 0xE000]
    for kind, count, fits in (("unigram_unk", 65_534, True), ("unigram_unk", 65_535, False), ("bpe_unk", 70_000, True)):
        model = proto(kind)
        known = {piece.piece for piece in model.pieces}
        alphabet = set("".join(piece.piece for piece in model.pieces if piece.type == 1))
        new = [c for c in characters if c not in alphabet and c not in known][: count - len(alphabet)]
        for c in new:
            model.pieces.add(piece=c, score=-20.0)
        data = model.SerializeToString()
        if not fits:
            with pytest.raises(errors.UnsupportedModelError, match="65535 different characters"):
                lc.Tokenizer.from_bytes(data)
            continue
        text = "".join(new[::97] + new[-5:]) + "吾輩は猫である。\U0010fffd"
        assert lc.Tokenizer.from_bytes(data).encode(text) == spm.SentencePieceProcessor(model_proto=data).encode(text)


@pytest.mark.parametrize("kind", ["unigram_unk", "unigram_plain", "bpe_unk"])
@pytest.mark.parametrize("type", [3, 4, 5])
def test_models_without_normal_pieces(kind: str, type: int) -> None:
    model = proto(kind)
    for piece in model.pieces:
        piece.type = type if piece.type == 1 else piece.type
    data = model.SerializeToString()
    ours = lc.Tokenizer.from_bytes(data)
    # sentencepiece refuses unigram models in which nothing can match.
    ref = ours if type == 3 and kind != "bpe_unk" else spm.SentencePieceProcessor(model_proto=data)
    for text in ("", "吾輩は猫である。" * 3, "a cat  鬱", "。" * 300):
        assert ours.encode(text) == ref.encode(text)
        classic = lc.Tokenizer.from_bytes(data, compat="sentencepiece<=0.2.1")
        assert classic.decode(classic.encode(text)) is not None


@pytest.mark.parametrize(("number", "name"), [(3, "WORD"), (4, "CHAR")])
def test_unsupported_types_are_named(number: int, name: str) -> None:
    model = proto()
    model.trainer_spec.model_type = number
    assert name in refused(model)


def test_unused_pieces_and_old_fields() -> None:
    """UNUSED pieces never come out; `self_test_data` of old files is skipped."""
    for kind in ("unigram_plain", "unigram_unk", "bpe_plain", "bpe_nfkc"):
        model = proto(kind)
        for id in range(400, 1400, 3):
            model.pieces[id].type = 5
        data = model.SerializeToString() + b"\x22\x06\x0a\x04\x0a\x02hi"
        ours, ref = lc.Tokenizer.from_bytes(data), spm.SentencePieceProcessor(model_proto=model.SerializeToString())
        text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。The quick fox" * 3
        assert ours.encode(text) == ref.encode(text)
        assert not {400, 403, 406} & set(ours.encode(text))


def test_a_name_as_text_and_as_control_piece() -> None:
    """Unigram models keep two tables, so `<s>` may stand in both; the reserved one is found."""
    model = proto("unigram_unk")
    model.pieces[1400].piece = "<s>"
    data = model.SerializeToString()
    ours, ref = lc.Tokenizer.from_bytes(data), spm.SentencePieceProcessor(model_proto=data)
    assert ours.encode("猫<s>猫") == ref.encode("猫<s>猫") and 1400 in ours.encode("猫<s>猫")
    assert ours.piece_to_id("<s>") == ref.piece_to_id("<s>") == 1


def test_large_scores_reset_often() -> None:
    """Scores so large that sums are reset every few characters, also within one piece's length."""
    rng = np.random.default_rng(0)
    model = proto("unigram_plain")
    for piece in model.pieces:
        if piece.type == 1:
            piece.score = float(rng.normal() * 60_000)
    data = model.SerializeToString()
    ours, ref = lc.Tokenizer.from_bytes(data), spm.SentencePieceProcessor(model_proto=data)
    with open(os.path.join(os.path.dirname(__file__), "data", "neko.txt"), encoding="utf-8") as file:
        text = file.read()
    for line in [*text.split("\n"), text]:
        assert ours.encode(line) == ref.encode(line)
