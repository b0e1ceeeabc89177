"""Train Japanese language models: kernels, tokenizer, data and trainer in one package."""

from . import config as config
from . import cuda as cuda
from . import data as data
from . import errors as errors
from ._core import Tokenizer as Tokenizer
from ._core import __version__ as __version__
from .convert import convert as convert
from .info import info as info
from .model import Model as Model
from .run import Run as Run
from .run import train as train
from .selftest import selftest as selftest
from .tokenizer_report import tokenizer_report as tokenizer_report
