"""Makes the quickstart's `tokenizer.model`: SentencePiece unigram with byte fallback, from the training works only.

pip install sentencepiece
python scripts/make_quickstart_tokenizer.py
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

DATA = Path(__file__).resolve().parent.parent / "python/llmjp_core/quickstart/data"
VOCAB_SIZE = 4096


def paragraphs() -> Iterator[str]:
    with gzip.open(DATA / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield from (p for p in json.loads(line)["text"].split("\n") if p)


def main() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=paragraphs(),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCAB_SIZE,
        character_coverage=0.9995,  # the rarest kanji become bytes
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,  # Japanese has no space before a word
        user_defined_symbols=["\n"],
        control_symbols=["<|endoftext|>"],
        max_sentence_length=1 << 20,
        num_threads=1,  # sums in one order: the same bytes each time
        minloglevel=1,
    )
    (DATA / "tokenizer.model").write_bytes(model.getvalue())
    print(f"{DATA / 'tokenizer.model'}: {VOCAB_SIZE} pieces, {len(model.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
