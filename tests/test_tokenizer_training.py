"""Training against the `sentencepiece` package: the same BPE vocabulary, models that load there with the same ids."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

import llmjp_core as lc
from llmjp_core import _core, errors
from llmjp_core._tokenizer_training import TrainingProgress, TrainingReport

DATA = Path(__file__).parent / "data"
NEKO = [line for line in (DATA / "neko.txt").read_text(encoding="utf-8").splitlines() if line]
MIXED = [
    "A cat and 2 dogs (１２３) ＡＢＣ ｶﾞｷﾞ <a> x y",
    "The  quick\tbrown fox; jumps over 1905 lazy dogs in 2026.",
    "aaaaaaa aaaa aaa ababababab abcabcabc xyxyxyxyx",
    "東京2020年とABC社のＸ線、か\u3099き\u3099く\u3099 <b> ﾃｽﾄ ㍿ ㌔",
]
LONG = {"max_sentence_length": 1 << 20}


def theirs(lines: Iterable[str], **options: Any) -> pb.ModelProto:
    """The model that sentencepiece trains."""
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, minloglevel=2, num_threads=2, **{**LONG, **options}
    )
    return parsed(out.getvalue())


def parsed(model: bytes) -> pb.ModelProto:
    proto = pb.ModelProto()
    proto.ParseFromString(model)
    return proto


def ours(lines: Iterable[str], **options: Any) -> lc.Tokenizer:
    return lc.Tokenizer.train(iter(lines), progress=False, **{**LONG, **options})


def model_of(tokenizer: lc.Tokenizer, folder: Path) -> bytes:
    tokenizer.save(folder / "m.model")
    return (folder / "m.model").read_bytes()


def pieces(proto: pb.ModelProto) -> list[tuple[str, float, int]]:
    return [(piece.piece, piece.score, piece.type) for piece in proto.pieces]


BPE: dict[str, dict[str, Any]] = {
    "plain": {"vocab_size": 2000},
    "bytes": {"vocab_size": 3000, "byte_fallback": True, "character_coverage": 0.99},
    "identity": {"vocab_size": 3000, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "one script is not enough": {"vocab_size": 3000, "split_by_unicode_script": False},
    "numbers": {"vocab_size": 3000, "split_by_number": False},
    "digits": {"vocab_size": 3000, "split_digits": True, "max_sentencepiece_length": 4},
    "across spaces": {"vocab_size": 3000, "split_by_whitespace": False},
    "suffix": {"vocab_size": 3000, "treat_whitespace_as_suffix": True},
    "only spaces": {
        "vocab_size": 3000,
        "allow_whitespace_only_pieces": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
    },
    "no prefix": {"vocab_size": 3000, "add_dummy_prefix": False},
    "symbols": {
        "vocab_size": 3000,
        "user_defined_symbols": ["<a>", "<a>b", "吾輩", "猫で", "ＡＢ", " x "],
        "control_symbols": ["<b>", "<mask>"],
        "pad_id": 3,
        "required_chars": "鬱☃z",
    },
    "other specials": {"vocab_size": 3000, "bos_id": -1, "eos_id": 5, "unk_piece": "[UNK]", "unk_surface": "?"},
    "cased": {"vocab_size": 2000, "normalization_rule_name": "nmt_nfkc_cf", "max_sentencepiece_length": 40},
}


@pytest.mark.parametrize("name", BPE)
def test_bpe_pieces_are_those_of_sentencepiece(name: str, tmp_path: Path) -> None:
    lines = NEKO[:120] + MIXED * 7
    options = {"model_type": "bpe", "character_coverage": 1.0, **BPE[name]}
    tokenizer = ours(lines, **options)
    want, got = theirs(lines, **options), parsed(model_of(tokenizer, tmp_path))
    assert pieces(got) == pieces(want)
    assert [str(p.score) for p in got.pieces] == [str(p.score) for p in want.pieces]  # -0.0 is not 0.0
    reference = spm.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    texts = NEKO[120:] + MIXED
    assert tokenizer.encode_batch(texts) == reference.encode(texts)
    assert tokenizer.encode_batch(texts) == spm.SentencePieceProcessor(model_proto=want.SerializeToString()).encode(
        texts
    )


def test_sentences_with_counts(tmp_path: Path) -> None:
    """`input_format="tsv"`, from files and from memory, with a delimiter that no piece crosses."""
    lines = [f"{line.replace(chr(9), ' ')}\t{1 + 7 * at % 11}" for at, line in enumerate(NEKO[:120] + MIXED * 7)]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options: dict[str, Any] = {"model_type": "bpe", "vocab_size": 2500, "input_format": "tsv", **LONG}
    for extra in ({}, {"split_by_whitespace": False}, {"pretokenization_delimiter": "の", "character_coverage": 0.99}):
        want = pieces(theirs(lines, **options, **extra))
        from_file = lc.Tokenizer.train(tmp_path / "a.tsv", progress=False, **options, **extra)
        assert pieces(parsed(model_of(from_file, tmp_path))) == want
        assert ours(lines, **options, **extra).fingerprint == from_file.fingerprint
        assert (
            pieces(theirs([line.split("\t")[0] for line in lines], **(options | extra | {"input_format": "text"})))
            != want
        )
    once = [line.split("\t")[0] for line in lines]
    repeated = [text for line in lines for text in [line.split("\t")[0]] * int(line.split("\t")[1])]
    unigram = {"vocab_size": 2500, "character_coverage": 1.0}
    model = ours(lines, input_format="tsv", **unigram)
    spelt_out = ours(repeated, **unigram)
    assert [model.id_to_piece(i) for i in range(2500)] == [spelt_out.id_to_piece(i) for i in range(2500)]
    assert model.id_to_piece(900) != ours(once, **unigram).id_to_piece(900)


@pytest.mark.parametrize("line", ["abc", "abc\t", "abc\tx", "abc\t0", "abc\t-1", "a\tb\t3", "abc\t99999999999"])
def test_lines_without_a_count_are_refused(line: str) -> None:
    with pytest.raises(errors.TokenizerError, match=r'line 2 .*is not: "a'):
        ours(["abc\t3", line], model_type="bpe", vocab_size=10, input_format="tsv", hard_vocab_limit=False)


@pytest.mark.parametrize("delimiter", ["の", "|", "▁", "ba", "猫で"])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_no_piece_crosses_a_delimiter(delimiter: str, model_type: str, tmp_path: Path) -> None:
    lines = [line.replace("は", "は|") for line in NEKO[:120]] + MIXED * 7
    options: dict[str, Any] = {
        "vocab_size": 2500, "pretokenization_delimiter": delimiter, "split_by_unicode_script": False,
        "user_defined_symbols": ["ba<", "猫"], "character_coverage": 1.0, "model_type": model_type,
    }  # fmt: skip
    got = pieces(parsed(model_of(ours(lines, **options), tmp_path)))
    if model_type == "bpe":
        assert got == pieces(theirs(lines, **options))
    assert not [piece for piece, _, kind in got if kind == 1 and len(piece) > 1 and delimiter in piece]


@pytest.mark.parametrize("size", [280, 400, 700, 1500, 4000])
def test_an_alphabet_that_is_chosen(size: int, tmp_path: Path) -> None:
    """`auto_character_coverage`: which characters and how many merges, as sentencepiece 0.2.3 chooses."""
    options: dict[str, Any] = {
        "model_type": "bpe", "byte_fallback": True, "auto_character_coverage": True, "vocab_size": size,
        "hard_vocab_limit": False,
    }  # fmt: skip
    lines = NEKO[:150] + MIXED * 3
    got, want = parsed(model_of(ours(lines, **options), tmp_path)), theirs(lines, **options)
    assert pieces(got) == pieces(want)
    assert got.trainer_spec.auto_character_coverage
    if size < 4000:
        assert pieces(got) != pieces(
            theirs(lines, **(options | {"auto_character_coverage": False, "vocab_size": 4000}))
        )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"model_type": "unigram", "byte_fallback": True}, "model_type bpe"),
        ({"model_type": "bpe"}, "byte_fallback"),
        ({"model_type": "bpe", "byte_fallback": True, "required_chars": "a"}, "required_chars"),
    ],
)
def test_what_a_chosen_alphabet_needs(options: dict[str, Any], what: str) -> None:
    with pytest.raises(errors.TokenizerError, match=f"auto_character_coverage needs {what}"):
        ours(NEKO[:10], auto_character_coverage=True, **options)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """One merge less or one line less is another vocabulary."""
    lines = NEKO[:100]
    want = pieces(theirs(lines, model_type="bpe", vocab_size=1800))
    assert pieces(parsed(model_of(ours(lines, model_type="bpe", vocab_size=1799), tmp_path))) != want
    assert pieces(parsed(model_of(ours(lines[:-20], model_type="bpe", vocab_size=1800), tmp_path))) != want


def test_bpe_when_the_text_runs_out(tmp_path: Path) -> None:
    """Pairs that have vanished become pieces when nothing else is left, as there; then both give up."""
    lines = ["aabb abab bbaa aab", "abba baab"]
    for size in range(10, 40):
        options = {"model_type": "bpe", "vocab_size": size, "hard_vocab_limit": False}
        got = {piece for piece, _, _ in pieces(parsed(model_of(ours(lines, **options), tmp_path)))}
        want = {piece for piece, _, _ in pieces(theirs(lines, **options))}
        assert len(got) == len(want)
        if size in (12, 39):
            assert got == want
    with pytest.raises(errors.TokenizerError, match="vocab_size 100 is too high"):
        ours(lines, model_type="bpe", vocab_size=100)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["botchan_en.txt", "wagahaiwa_nekodearu.txt"])
@pytest.mark.parametrize("extra", [{}, {"byte_fallback": True, "character_coverage": 0.995}, {"split_digits": True}])
def test_bpe_on_whole_books(file: str, extra: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    lines = (shared / "data/tokenizers/sentencepiece" / file).read_text(encoding="utf-8").splitlines()
    options = {"model_type": "bpe", "vocab_size": 8000, **extra}
    assert pieces(parsed(model_of(ours(lines, **options), tmp_path))) == pieces(theirs(lines, **options))


def test_threads_change_nothing() -> None:
    models = [ours(NEKO, model_type="bpe", vocab_size=3000, num_threads=n) for n in (1, 2, 3)]
    listed = [[tok.id_to_piece(i) for i in range(len(tok))] for tok in models]
    assert listed[0] == listed[1] == listed[2]


@pytest.mark.parametrize("name", ["nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"])
def test_named_normalisers_are_those_of_sentencepiece(name: str, tmp_path: Path) -> None:
    """Every character by itself, and those that combine, in a text of each."""
    options = {"model_type": "bpe", "vocab_size": 20, "hard_vocab_limit": False, "normalization_rule_name": name}
    lines = ["abc def abc ab"] * 3
    model = model_of(ours(lines, **options), tmp_path)
    want = spm.SentencePieceNormalizer(model_proto=theirs(lines, **options).SerializeToString())
    got = spm.SentencePieceNormalizer(model_proto=model)
    characters = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    marks = ["\u3099", "\u309a", "\u0301", "\u0308", "\u0323", "\u11a8", "\uffa1", "\u1161"]
    texts = [f"x{c}y" for c in characters]
    texts += [f"x{c}{mark}" for mark in marks for c in characters[:0x3400] + characters[0xABFF:0xADFF]]
    wrong = [
        hex(ord(t[1])) for t, a, b in zip(texts, got.normalize(texts), want.normalize(texts), strict=True) if a != b
    ]
    assert not wrong


def test_files_and_the_vocab_list(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\r\n".join(NEKO[:60]) + "\r\n", encoding="utf-8")
    records = "".join(
        json.dumps({"id": i, "text": line}, ensure_ascii=False) + "\n" for i, line in enumerate(NEKO[60:90])
    )
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(records.encode()))
    options: dict[str, Any] = {"model_type": "bpe", "vocab_size": 2000, "progress": False}
    from_files = lc.Tokenizer.train([text, tmp_path / "b.jsonl.gz"], vocab=tmp_path / "m.vocab", **options)
    from_memory = lc.Tokenizer.train((line for line in NEKO[:90]), **options)
    assert from_files.fingerprint == from_memory.fingerprint
    listed = (tmp_path / "m.vocab").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in listed] == [from_files.id_to_piece(i) for i in range(2000)]
    assert lc.Tokenizer.train(str(text), **options).vocab_size == 2000


def test_the_command_writes_what_spm_train_writes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(NEKO[:60]) + "\n", encoding="utf-8")
    flags = ["--vocab_size=1500", "--model_type=bpe", "--byte_fallback", "--character_coverage=0.99", "--pad_id=3"]
    flags += ["--max_sentence_length=65536"]
    command = [sys.executable, "-m", "llmjp_core", "tokenizer", "train", f"--input={tmp_path / 'a.txt'}"]
    done = subprocess.run(
        [*command, f"--model_prefix={tmp_path / 'm'}", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1,500 pieces" in done.stderr
    spm.SentencePieceTrainer.train(
        f"--input={tmp_path / 'a.txt'} --model_prefix={tmp_path / 't'} --minloglevel=2 "
        + " ".join(flag + ("=true" if "=" not in flag else "") for flag in flags)
    )
    assert (tmp_path / "m.vocab").read_bytes() == (tmp_path / "t.vocab").read_bytes()
    want, got = (parsed((tmp_path / f"{name}.model").read_bytes()) for name in "tm")
    assert pieces(got) == pieces(want)
    for field in ("model_type", "vocab_size", "byte_fallback", "pad_id", "character_coverage"):
        assert getattr(got.trainer_spec, field) == getattr(want.trainer_spec, field)


def test_every_option_has_a_flag() -> None:
    from llmjp_core.commands import tokenizer

    assert sorted([*tokenizer.VALUES, *tokenizer.FLAGS]) == sorted(_core.tokenizer_train_options())


def test_options_are_written_into_the_model(tmp_path: Path) -> None:
    options = {"model_type": "bpe", "vocab_size": 1500, **BPE["symbols"], "hard_vocab_limit": False, "eos_id": -1}
    spec = parsed(model_of(ours(NEKO[:60], **{**options, "vocab_size": 1500}), tmp_path)).trainer_spec
    assert list(spec.user_defined_symbols) == options["user_defined_symbols"]
    assert list(spec.control_symbols) == options["control_symbols"]
    assert (spec.eos_id, spec.pad_id, spec.required_chars) == (-1, 3, "鬱☃z")
    assert (spec.max_sentence_length, spec.hard_vocab_limit) == (1 << 20, False)


def test_a_normaliser_can_be_taken_from_a_model(tmp_path: Path) -> None:
    out = io.BytesIO()
    rules = tmp_path / "rules.tsv"
    rules.write_text("61\t62\n", encoding="utf-8")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc abd"] * 9), model_writer=out, vocab_size=9, model_type="bpe", minloglevel=2,
        hard_vocab_limit=False, normalization_rule_tsv=str(rules),
    )  # fmt: skip
    (tmp_path / "from.model").write_bytes(out.getvalue())
    tokenizer = ours(["abc"] * 9, vocab_size=8, model_type="bpe", normalizer_from=tmp_path / "from.model")
    assert "".join(tokenizer.encode_as_pieces("aac")) == "▁bbc"


def test_long_sentences_are_cut_and_told() -> None:
    reports: list[TrainingReport] = []
    lines = ["吾輩は猫である。" * 100, "名前はまだ無い。" * 3, "記号▅です。"]
    lc.Tokenizer.train(
        iter(lines), model_type="bpe", vocab_size=60, hard_vocab_limit=False, max_sentence_length=240,
        report=reports.append, progress=False,
    )  # fmt: skip
    (report,) = reports
    assert (report.sentences, report.long_sentences, report.long_parts, report.used_sentences) == (3, 1, 10, 12)
    assert report.reserved_sentences == 1
    assert len(report.notes()) == 2
    assert report.characters == 100 * 8 + 3 * 8 + 5 + 12  # and a space symbol before each of the 12; ▅ is not counted


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocab_sise": 5}, errors.ConfigError, "vocab_size"),
        ({"vocab_size": "many"}, errors.ConfigError, "vocab_size must be"),
        ({"model_type": "word"}, errors.ConfigError, "unigram or bpe"),
        ({"byte_fallback": []}, errors.ConfigError, "byte_fallback must be true or false"),
        ({"normalization_rule_name": "nfd"}, errors.ConfigError, "nmt_nfkc"),
        ({"vocab_size": 10}, errors.TokenizerError, "too small"),
        ({"vocab_size": 100_000}, errors.TokenizerError, "too high"),
        ({"character_coverage": 0.5}, errors.TokenizerError, "character_coverage"),
        ({"control_symbols": ["<x>", "<x>"]}, errors.TokenizerError, "<x>"),
        ({"unk_id": -1}, errors.TokenizerError, "byte_fallback"),
        ({"user_defined_symbols": object()}, errors.ConfigError, "list of str"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ours(NEKO[:50], **{"model_type": "bpe", **options})


def test_bad_input_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes("よい行\n".encode() + b"\xff\xfe\n")
    with pytest.raises(errors.CorruptDatasetError, match=r"bad\.txt: line 2: .*UTF-8"):
        lc.Tokenizer.train(bad, model_type="bpe")
    with pytest.raises(OSError, match="no_such"):
        lc.Tokenizer.train(tmp_path / "no_such.txt", model_type="bpe")
    with pytest.raises(errors.UnsupportedInputError, match="sentence 1 must be str, not int"):
        lc.Tokenizer.train(iter(["a", 1]), model_type="bpe")  # type: ignore[list-item]
    with pytest.raises(errors.UnsupportedInputError, match=r"iter\(sentences\)"):
        lc.Tokenizer.train(["これは\n文です。"], model_type="bpe")
    with pytest.raises(errors.TokenizerError, match="no text"):
        lc.Tokenizer.train(iter([]), model_type="bpe")
    with pytest.raises(ZeroDivisionError):
        lc.Tokenizer.train((str(1 // 0) for _ in range(3)), model_type="bpe")


def test_progress_is_told_and_can_stop() -> None:
    stages = []

    def tell(progress: TrainingProgress) -> None:
        stages.append(progress.stage)
        assert str(progress)

    lc.Tokenizer.train(iter(NEKO), model_type="bpe", vocab_size=3000, progress=tell)
    assert [*dict.fromkeys(stages)] == ["read", "words", "merge", "finish"]

    def stop(progress: TrainingProgress) -> None:
        raise RuntimeError(progress.stage)

    with pytest.raises(RuntimeError, match="read"):
        lc.Tokenizer.train(iter(NEKO), model_type="bpe", vocab_size=3000, progress=stop)


def test_ctrl_c_stops_training() -> None:
    begun = threading.Event()

    def tell(progress: TrainingProgress) -> None:
        if progress.stage == "merge" and not begun.is_set():
            begun.set()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        lc.Tokenizer.train(iter(NEKO * 20), model_type="bpe", vocab_size=20_000, hard_vocab_limit=False, progress=tell)
    assert begun.is_set()


def test_other_python_threads_go_on() -> None:
    counts, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counts[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    with contextlib.ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(stop.set)
        before = counts[0]
        lc.Tokenizer.train(iter(NEKO), model_type="bpe", vocab_size=3000, progress=False)
        assert counts[0] - before > 1000
