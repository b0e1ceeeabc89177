"""`.bin/.idx`: against a reader and writer in plain numpy, written from the format's table alone."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import reference_dataset as reference
from reference_dataset import CODES, both_files, names, run_python

import llmjp_core as lc
from llmjp_core import errors

GOLDEN = bytes.fromhex(
    "4d4d494449445800000100000000000000080300000000000000040000000000000005000000030000000200000000000000000000000a"
    "0000000000000010000000000000000000000000000000010000000000000002000000000000000300000000000000"
)


def random_documents(rng: np.random.Generator, dtype: str, count: int) -> list[list[np.ndarray]]:
    info = np.iinfo(dtype)

    def sequence() -> np.ndarray:
        return rng.integers(info.min, info.max, rng.integers(0, 40), dtype=dtype, endpoint=True)

    return [[sequence() for _ in range(rng.integers(1, 4))] for _ in range(count)]


def test_golden_bytes(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "g", [range(5), range(3), range(2)], "uint16")
    assert both_files(tmp_path / "g")[1] == GOLDEN
    assert names(tmp_path) == {"g.bin", "g.idx"}


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("count", [0, 1, 57])
def test_written_bytes_equal_the_reference(tmp_path: Path, dtype: str, count: int) -> None:
    documents = random_documents(np.random.default_rng(count), dtype, count)
    reference.write(tmp_path / "theirs", documents, dtype)
    written = lc.data.write(tmp_path / "ours", documents, dtype)
    assert both_files(tmp_path / "ours") == both_files(tmp_path / "theirs")
    assert (written.documents, written.sequences) == (count, sum(map(len, documents)))
    report = lc.data.verify(tmp_path / "ours") if dtype.startswith("u") else None
    if report:
        assert (report.bin_sha256, report.idx_sha256) == (written.bin_sha256, written.idx_sha256)
        assert report.tokens == written.tokens == sum(len(s) for d in documents for s in d)


@pytest.mark.parametrize("dtype", CODES)
def test_read_equals_the_reference(tmp_path: Path, dtype: str) -> None:
    documents = random_documents(np.random.default_rng(7), dtype, 23)
    reference.write(tmp_path / "d", documents, dtype)
    dataset = lc.data.IndexedDataset(tmp_path / "d")
    theirs, bounds = reference.read(tmp_path / "d")
    assert len(dataset) == len(theirs) and dataset.dtype == np.dtype(dtype)
    for i, sequence in enumerate(theirs):
        assert dataset[i].dtype == sequence.dtype
        np.testing.assert_array_equal(dataset[i], sequence)
    np.testing.assert_array_equal(dataset.sizes, [len(s) for s in theirs])
    np.testing.assert_array_equal(dataset.documents, bounds)
    assert dataset.num_tokens == sum(map(len, theirs)) and dataset.num_documents == 23


def test_indexing_is_pythons(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "d", [[10 * k + i for i in range(k + 1)] for k in range(6)])
    dataset = lc.data.IndexedDataset(tmp_path / "d")
    items = [item.tolist() for item in dataset]
    assert items[-1] == dataset[-1].tolist() == [50, 51, 52, 53, 54, 55]
    for part in (slice(1, 4), slice(None, None, -2), slice(-2, None), slice(9, 12), slice(4, 1, -1)):
        assert [item.tolist() for item in dataset[part]] == items[part]
    assert dataset.get(5, 2).tolist() == [52, 53, 54, 55] and dataset.get(5, 2, 3).tolist() == [52, 53, 54]
    for bad in (6, -7, 10**12):
        with pytest.raises(IndexError):
            dataset[bad]
    for offset, length in ((0, 7), (7, 0), (3, 2**63)):
        with pytest.raises((errors.UnsupportedInputError, OverflowError)):
            dataset.get(5, offset, length)


def test_either_file_names_the_set(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "a.b", [[1]])
    for name in ("a.b", "a.b.bin", "a.b.idx"):
        assert len(lc.data.IndexedDataset(tmp_path / name)) == 1


def test_ids_that_do_not_fit(tmp_path: Path) -> None:
    for dtype, bad in (("uint16", 65536), ("uint16", -1), ("int8", 128), ("int32", 2**31)):
        with pytest.raises(errors.UnsupportedInputError, match=rf"id {bad} at token 1"):
            lc.data.write(tmp_path / "d", [[1, bad]], dtype)
    for bad in ([[1.5]], [["a"]], [np.zeros((2, 2), int)]):
        with pytest.raises(errors.UnsupportedInputError):
            lc.data.write(tmp_path / "d", bad)
    with pytest.raises(errors.UnsupportedInputError, match="float32"):
        lc.data.write(tmp_path / "d", [[1]], "float32")
    with pytest.raises(errors.UnsupportedInputError, match="end the document"), lc.data.Builder(tmp_path / "d") as b:
        b.add([1])
    assert names(tmp_path) == set()


def test_an_older_set_survives_a_failed_rewrite(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "d", [[1, 2]])
    before = both_files(tmp_path / "d")
    with pytest.raises(ZeroDivisionError), lc.data.Builder(tmp_path / "d") as builder:
        builder.add([3])
        _ = 1 // 0
    assert both_files(tmp_path / "d") == before and names(tmp_path) == {"d.bin", "d.idx"}
    mapped = lc.data.IndexedDataset(tmp_path / "d")
    lc.data.write(tmp_path / "d", [[7, 8, 9]])
    assert mapped[0].tolist() == [1, 2]  # an open set is not changed under its reader
    assert lc.data.IndexedDataset(tmp_path / "d")[0].tolist() == [7, 8, 9]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    documents = random_documents(np.random.default_rng(3), "uint16", 9)
    reference.write(tmp_path / "d", documents, "uint16")
    return tmp_path / "d"


def assert_corrupt(prefix: Path, file: str, what: str = ".") -> None:
    """`file` (bin or idx, or a pattern for either) is named, and what is wrong with it."""
    for open_it in (lc.data.IndexedDataset, lc.data.verify):
        with pytest.raises(errors.CorruptDatasetError, match=rf"{prefix}\.{file}: .*{what}"):
            open_it(prefix)


@pytest.mark.parametrize("file", ["bin", "idx"])
def test_truncated_at_every_length(sound: Path, file: str) -> None:
    path = Path(f"{sound}.{file}")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert_corrupt(sound, file)
    path.write_bytes(whole + b"\0")
    assert_corrupt(sound, file)
    path.write_bytes(whole)
    lc.data.verify(sound)


def test_every_changed_bit_of_the_index_is_noticed(sound: Path) -> None:
    """But for the token type (another of the same size is as good) and inner document bounds."""
    path = Path(f"{sound}.idx")
    whole = path.read_bytes()
    n, d = struct.unpack_from("<QQ", whole, 18)
    inner = range(34 + 12 * n + 8, 34 + 12 * n + 8 * (d - 1))
    for at in set(range(len(whole))) - {17, *inner}:
        for bit in (0, 3, 7):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            assert_corrupt(sound, "(idx|bin)")


def test_document_bounds_must_rise(sound: Path) -> None:
    path = Path(f"{sound}.idx")
    whole = bytearray(path.read_bytes())
    n, d = struct.unpack_from("<QQ", whole, 18)
    for place, value in ((0, 1), (3, -1), (3, 10**6), (d - 1, n - 1)):
        damaged = bytearray(whole)
        struct.pack_into("<q", damaged, 34 + 12 * n + 8 * place, value)
        path.write_bytes(damaged)
        assert_corrupt(sound, "idx", "document")


@pytest.mark.parametrize(
    ("at", "content", "what"),
    [
        (0, b"TNTIDX\0\0", "legacy"),
        (0, b"PK\x03\x04", "not a Megatron index"),
        (9, struct.pack("<Q", 2), "version 2"),
        (17, b"\x06", "float"),
        (17, b"\x07", "float"),
        (17, b"\x09", "unknown token type 9"),
        (18, struct.pack("<Q", 2**63), "need"),
        (26, struct.pack("<Q", 0), "document index"),
        (26, struct.pack("<Q", 2**61), "need"),
        (34, struct.pack("<i", -5), "length -5"),
    ],
)
def test_bad_headers_say_what_is_wrong(sound: Path, at: int, content: bytes, what: str) -> None:
    path = Path(f"{sound}.idx")
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    assert_corrupt(sound, "idx", what)


def test_a_multimodal_index_is_refused_by_name(sound: Path) -> None:
    path = Path(f"{sound}.idx")
    path.write_bytes(path.read_bytes() + bytes(len(lc.data.IndexedDataset(sound))))
    assert_corrupt(sound, "idx", "multimodal")


def test_missing_files(sound: Path) -> None:
    os.remove(f"{sound}.bin")
    with pytest.raises(errors.FileError, match=r"d\.bin") as raised:
        lc.data.IndexedDataset(sound)
    assert raised.value.errno == 2
    with pytest.raises(errors.FileError, match=r"absent\.idx"):
        lc.data.verify(sound.parent / "absent")


def test_verify_names_the_first_bad_id(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "d", [[5, 6], [], [7, 100, 101]], "uint16")
    report = lc.data.verify(tmp_path / "d", vocab_size=102)
    assert (report.min_id, report.max_id, report.empty, report.longest) == (5, 101, 1, 3)
    with pytest.raises(errors.CorruptDatasetError, match=r"d\.bin: document 2, token 1: id 100 .*0 to 99"):
        lc.data.verify(tmp_path / "d", vocab_size=100)
    lc.data.write(tmp_path / "n", [[1], [2**40, 1]], "int64")
    with pytest.raises(errors.CorruptDatasetError, match=rf"document 1, token 0: id {2**40}"):
        lc.data.verify(tmp_path / "n")
    lc.data.write(tmp_path / "m", [[3, -2]], "int32")
    with pytest.raises(errors.CorruptDatasetError, match="document 0, token 1: id -2"):
        lc.data.verify(tmp_path / "m")


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    lc.data.write(tmp_path / "a", [[1, 2], [3]])
    lc.data.write(tmp_path / "b", [[1, 2], [3]])
    lc.data.write(tmp_path / "c", [[1, 2], [4]])
    lc.data.write(tmp_path / "d", [[1], [2, 3]])
    a, b, c, d = (lc.data.IndexedDataset(tmp_path / name).fingerprint() for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the disk: the write fails with EFBIG instead of ENOSPC."""
    script = """
import resource, sys
import llmjp_core as lc
lc.data.write(sys.argv[1], [[1, 2, 3]])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))
try:
    lc.data.write(sys.argv[1], (range(1000) for _ in range(2000)))
except lc.errors.FileError as error:
    print("refused", error.errno)
"""
    done = run_python(script, tmp_path / "d")
    assert done.stdout.split() == ["refused", "27"], done.stderr
    assert names(tmp_path) == {"d.bin", "d.idx"} and lc.data.IndexedDataset(tmp_path / "d")[0].tolist() == [1, 2, 3]


def test_files_without_permission(tmp_path: Path) -> None:
    """In a process that gives up root's rights, where it has them."""
    script = """
import os, sys
import numpy
import llmjp_core as lc
if os.geteuid() == 0:
    os.setuid(65534)
for use in (lambda p: lc.data.write(p + "new", [[1]]), lc.data.IndexedDataset):
    try:
        use(sys.argv[1])
    except lc.errors.FileError as error:
        print(error.errno)
"""
    lc.data.write(tmp_path / "d", [[1]])
    for file in tmp_path.iterdir():
        file.chmod(0)
    tmp_path.chmod(0o555)
    done = run_python(script, tmp_path / "d")
    assert done.stdout.split() == ["13", "13"], done.stderr
    tmp_path.chmod(0o755)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.FileError) as raised:
        lc.data.write(tmp_path / "no/d", [[1]])
    assert raised.value.errno == 2 and str(tmp_path / "no") in str(raised.value.filename)
