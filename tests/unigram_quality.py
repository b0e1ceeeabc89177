"""How good a unigram model is on a text: tokens, and likelihood over all ways to cut it."""

from __future__ import annotations

import math
import re

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

NORMAL = pb.ModelProto.SentencePiece.NORMAL


def processor(proto: pb.ModelProto) -> spm.SentencePieceProcessor:
    return spm.SentencePieceProcessor(model_proto=proto.SerializeToString())


def characters_a_token(proto: pb.ModelProto, lines: list[str]) -> float:
    return sum(map(len, lines)) / sum(map(len, processor(proto).encode(lines)))


def log_likelihood(proto: pb.ModelProto, lines: list[str]) -> float:
    """Of a character of `lines`, over all ways to cut them; characters that are no piece are left out."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    longest = max(map(len, scores))
    total = characters = 0.0
    for line in processor(proto).normalize(lines):
        for part in re.split("|".join(map(re.escape, {*line} - {*scores})) or "(?!)", line.replace(" ", "▁")):
            sums = [0.0]
            for end in range(1, len(part) + 1):
                starts = range(max(0, end - longest), end)
                paths = [sums[i] + scores[part[i:end]] for i in starts if part[i:end] in scores]
                high = max(paths)
                sums.append(high + math.log(sum(math.exp(path - high) for path in paths)))
            total, characters = total + sums[-1], characters + len(part)
    return total / characters
