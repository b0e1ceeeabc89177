"""Strings that meet the branches of tokenizers, as many as are wanted, the same ones for a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

# Spaces, marks, widths, joiners, literals of pieces, characters at the edges of tables.
LETTERS = [
    *"吾輩は猫である。名前まだ無いの鬱𠮷ｶﾞﾊﾟABe12 \u3000\n\t\r▁▅…—～、「」ー々",
    *("か\u3099", "は\u309a", "e\u0301", "a\u0316\u0301", "１\u20e3", "¹\ufe0f", "㌀", "㍿", "ﬁ", "ﷺ", "Ⅳ", "½"),
    *("\u1100\u1161\u11a8", "가", "क्षि", "ไทย", "العربية", "\u0344", "\u0958", "\ufb2c", "\U0002f800"),
    *("👩\u200d🔬", "🇯🇵", "❤\ufe0f\u200d🔥", "😀", "©\u200d™", "\u200b", "\u200d", "\ufeff", "\u2028", "\x85"),
    *("\x00", "\x01", "\x7f", "\ufffd", "\uffff", "\U0010ffff", "\ue000", "\uf8ff", "\u00a0", "\u2009"),
    *("<s>", "</s>", "<unk>", "<0x0A>", "<0xE3>", "<a>", "<a>b", "<|endoftext|>", "  ", "▁▁", " x "),
    *("the ", "quick", "1905", "def f(x):\n\treturn", "https://a.b/c?d=1", "東京都", "２０２６年", "ＡＢＣ"),
]
PLANES = [(0x20, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x370, 0x1FFF), (0x2000, 0x2BFF), (0x2E80, 0x33FF)]
PLANES += [(0x3400, 0x9FFF), (0xA000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x2FFFF), (0, 0x10FFFF)]


def string(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.5:
        return "".join(draw.choices(LETTERS, k=draw.randrange(1, 30)))
    if kind < 0.75:
        low, high = draw.choice(PLANES)
        points = [draw.randint(low, high) for _ in range(draw.randrange(1, 25))]
        return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    if kind < 0.95:
        return "".join(string(draw) for _ in range(draw.randrange(2)))[:20] + draw.choice(LETTERS) + string(draw)[:30]
    return draw.choice(LETTERS) * draw.randrange(1, 300)


def strings(seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    while True:
        yield string(draw)
