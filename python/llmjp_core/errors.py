"""The exceptions of llmjp_core. All of them are `LlmjpError`, which is a `RuntimeError`.

A message names what is wrong, where (file, line, document, tensor) and what to do.
"""


class LlmjpError(RuntimeError):
    """Any error that this library reports on purpose."""


class ConfigError(LlmjpError):
    """A configuration that cannot be used: unknown key, wrong type, contradiction."""


class UnsupportedInputError(LlmjpError):
    """A value, text, shape or option that the called function does not handle."""


class UnsupportedModelError(LlmjpError):
    """A model whose architecture or files this library does not handle."""


class CorruptDatasetError(LlmjpError):
    """A `.bin`/`.idx` pair, or the text it is made from, is damaged or contradicts itself."""


class CheckpointError(LlmjpError):
    """A checkpoint is damaged, incomplete, or does not belong to this run."""


class TokenizerError(LlmjpError):
    """A tokenizer model that cannot be read, or text it cannot take."""


class NonFiniteError(LlmjpError):
    """A loss, gradient or weight became NaN or infinite; the message names the tensor."""


class DeviceError(LlmjpError):
    """A device is missing or failed."""


class FileError(OSError, LlmjpError):  # OSError first: its constructor sets `errno` and `filename`
    """The operating system refused to read or write a file; `errno` and `filename` are set."""


class InternalError(LlmjpError):
    """A broken promise inside this library (a caught panic); please report it."""
