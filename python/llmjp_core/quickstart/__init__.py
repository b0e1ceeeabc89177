"""The whole road on a small scale: text, tokens, training, measurement, and a folder that transformers opens.

from llmjp_core import quickstart
result = quickstart.run("runs/quickstart")
result.perplexity, result.bigram_perplexity
"""

from __future__ import annotations

from .steps import DATA as DATA
from .steps import TOKENIZER as TOKENIZER
from .steps import Result as Result
from .steps import paragraphs as paragraphs
from .steps import run as run

__all__ = ["DATA", "TOKENIZER", "Result", "paragraphs", "run"]
