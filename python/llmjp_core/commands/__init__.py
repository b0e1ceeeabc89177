"""The commands of `llmjp-core`: one module each, with `add_parser` and `run`."""
