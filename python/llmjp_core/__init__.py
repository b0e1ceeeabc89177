"""Train Japanese language models: kernels, tokenizer, data and trainer in one package."""

from . import config as config
from . import data as data
from . import errors as errors
from ._core import Tokenizer as Tokenizer
from ._core import __version__ as __version__
from .model import Model as Model
