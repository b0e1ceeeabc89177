"""Makes the text of the quickstart from a corpus of Aozora Bunko works (JSON lines, .xz, .gz or plain).

    python scripts/make_quickstart_data.py ja_aozora.jsonl.xz

Each line of the corpus has `id`, `title`, `author`, `url`, `credit` and `text`. Kept are works of nine authors who
died in 1945 or earlier (public domain in Japan), in modern spelling, 1,500 to 40,000 characters long. Every author
gives one work in twelve to the held-out part, chosen by a hash of its id: no document is in both parts.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AUTHORS = {
    "芥川龍之介": 1927,
    "宮沢賢治": 1933,
    "新美南吉": 1943,
    "岡本綺堂": 1939,
    "小酒井不木": 1929,
    "大阪圭吉": 1945,
    "甲賀三郎": 1945,
    "渡辺温": 1930,
    "蘭郁二郎": 1944,
}
SHORTEST, LONGEST = 1_500, 40_000
HELD_OUT_EVERY = 12
FIELDS = ("id", "title", "author", "url", "credit", "text")
# Marks of the spelling before 1946; a modern text has a few at most (in quotations).
HISTORICAL = re.compile("[ゐゑヰヱ]|といふ|やう[にな]|でせう|だらう|なかつた|[いしなまあとだたか]つた")
HISTORICAL_LIMIT = 0.3  # per 1,000 characters

Work = dict[str, Any]


def read(path: Path) -> Iterator[Work]:
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def wanted(work: Work) -> bool:
    text = work["text"]
    modern = len(HISTORICAL.findall(text)) / len(text) * 1000 < HISTORICAL_LIMIT
    # 〓 stands for a character that the transcription could not write.
    return work["author"] in AUTHORS and SHORTEST <= len(text) <= LONGEST and "〓" not in text and modern


def split(works: list[Work]) -> tuple[list[Work], list[Work]]:
    """Training and held-out works, both in the order of a hash of the id."""
    train, held_out = [], []
    for author in AUTHORS:
        own = sorted((w for w in works if w["author"] == author), key=order)
        count = max(1, round(len(own) / HELD_OUT_EVERY))
        held_out += own[:count]
        train += own[count:]
    return sorted(train, key=order), sorted(held_out, key=order)


def order(work: Work) -> str:
    return hashlib.sha256(work["id"].encode()).hexdigest()


def write(path: Path, works: list[Work]) -> None:
    lines = "".join(json.dumps({k: w[k] for k in FIELDS}, ensure_ascii=False) + "\n" for w in works)
    # mtime=0 and no file name: the same works give the same bytes.
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))


def attribution(train: list[Work], held_out: list[Work]) -> str:
    rows = []
    for part, works in (("train", train), ("held-out", held_out)):
        rows += [f"| {w['title']} | {w['author']} | {part} | {w['credit']} |" for w in works]
    authors = ", ".join(f"{name} († {year})" for name, year in AUTHORS.items())
    characters = sum(len(w["text"]) for w in train + held_out)
    return (
        f"""# Where the text of the quickstart comes from

{len(train) + len(held_out)} works, {characters:,} characters, from 青空文庫 (Aozora Bunko, https://www.aozora.gr.jp/),
which publishes works whose copyright has ended in Japan. The authors: {authors}.
The works are in the public domain in Japan and wherever the term of protection is the author's life and seventy years.

Aozora Bunko's volunteers typed and proof-read them from the printed editions named below; our thanks. Its files were
decoded from Shift_JIS, and header, notes, colophon, ruby and editors' marks were taken out. The wording is unchanged.
Some words in these works would not be chosen today; they are left as their authors wrote them.

`train.jsonl.gz` and `held_out.jsonl.gz` have one work a line, with `id`, `title`, `author`, `url`, `credit` (printed
edition, typist, proof-reader) and `text`. `scripts/make_quickstart_data.py` chose the works.

| title | author | part | credit |
|---|---|---|---|
"""
        + "\n".join(rows)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    default = Path(__file__).resolve().parent.parent / "python/llmjp_core/quickstart/data"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    train, held_out = split([w for w in read(args.corpus) if wanted(w)])
    write(args.out / "train.jsonl.gz", train)
    write(args.out / "held_out.jsonl.gz", held_out)
    (args.out / "ATTRIBUTION.md").write_text(attribution(train, held_out), encoding="utf-8")
    for name, works in (("train", train), ("held out", held_out)):
        print(f"{name}: {len(works)} works, {sum(len(w['text']) for w in works):,} characters")


if __name__ == "__main__":
    main()
