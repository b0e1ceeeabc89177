"""Drop-in layers, losses and optimizer for PyTorch on CPU tensors; importing this imports torch."""

from . import functional as functional
from . import nn as nn
from . import optim as optim
from .patch import accelerate as accelerate
from .patch import accelerated as accelerated
from .patch import restore as restore
from .report import Report as Report
from .timing import benchmark as benchmark
