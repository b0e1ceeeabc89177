"""What the masks of transformers' models say, as the attention kernel wants it.

A model makes one mask for all its layers, by a function that is registered for the attention implementation. Ours
makes none where the kernel can do without: it returns None for causal attention inside the layer's own window, and
int32 document ids (batch, tokens) where, besides, each document of a packed sequence stands alone. Everything else is
the mask that torch's scaled_dot_product_attention takes.

Which of these a model means is told by the functions that it combines: they are compared, with what they enclose, to
those that transformers makes for these cases. One that differs in any way is not known, and gets its mask. Under
torch.compile, where functions cannot be looked into, the families' own code is trusted to combine no others, and asked
which tokens see the one before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor
# int32 tells ids from a padding mask, which is int64 or bool.
IDS = torch.int32


class Sight(NamedTuple):
    """What a query sees, as the op takes it."""

    left: int
    documents: Tensor | None


class _Free:
    """Stands in a pattern for a tensor, whatever it is."""


def _matches(pattern: Any, value: Any, found: dict[_Free, Tensor]) -> bool:
    if isinstance(pattern, _Free):
        return isinstance(value, Tensor) and found.setdefault(pattern, value) is value
    if isinstance(pattern, FunctionType) and isinstance(value, FunctionType):
        if pattern.__code__ is not value.__code__:
            return False
        ours, theirs = pattern.__closure__ or (), value.__closure__ or ()
        return all(_matches(a.cell_contents, b.cell_contents, found) for a, b in zip(ours, theirs, strict=True))
    if isinstance(pattern, tuple) and isinstance(value, tuple):
        return len(pattern) == len(value) and all(_matches(a, b, found) for a, b in zip(pattern, value, strict=True))
    return type(pattern) is type(value) is int and pattern == value


def _patterns(window: int | None) -> Iterator[tuple[Any, _Free | None, _Free | None]]:
    """(function, positions, ids) of causal attention, and of packed sequences."""
    from transformers import masking_utils as m

    plain = m.causal_mask_function if window is None else m.sliding_window_causal_mask_function(window)
    yield plain, None, None
    positions: Any = _Free()
    ids: Any = _Free()
    remap = getattr(m, "remap_positions_for_packed_sequence", None)
    if remap is not None:
        yield m.and_masks(remap(plain, positions), m.packed_sequence_mask_function(ids)), positions, ids
    yield m.and_masks(plain, m.packed_sequence_mask_function(ids)), None, ids


def _documents(positions: Tensor | None, ids: Tensor, shape: tuple[int, int]) -> Tensor | None:
    """The ids, if they are runs, and positions rise by one inside each."""
    if tuple(ids.shape) != shape or bool((ids.diff(dim=-1) < 0).any()):
        return None
    if positions is not None and bool(((positions.diff(dim=-1) != 1) & (ids.diff(dim=-1) == 0)).any()):
        return None
    return ids.to(IDS)


def _traced_documents(mask_function: Any, batch: int, tokens: int, device: Any) -> Tensor:
    """A document begins where a token does not see the one before it."""
    at = torch.arange(1, tokens, device=device)[None]
    sequence = torch.arange(batch, device=device)[:, None]
    first = ~mask_function(sequence, 0, at, at - 1).expand(batch, tokens - 1)
    return torch.nn.functional.pad(first.to(IDS).cumsum(-1, dtype=IDS), (1, 0))


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **more: Any,
) -> Tensor | None:
    """For `transformers.AttentionMaskInterface`."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    mask_function = causal_mask_function if mask_function is None else mask_function
    family = getattr(more.get("config"), "model_type", None)
    whole = q_length == kv_length and type(q_offset) is type(kv_offset) is int and q_offset == kv_offset == 0
    # A layer of another family might not know its window.
    whole = whole and family in FAMILIES
    if whole and torch.compiler.is_compiling():
        # `use_vmap` says that somebody has added a function.
        if attention_mask is None and not more.get("use_vmap", False):
            return _traced_documents(mask_function, batch_size, q_length, more.get("device", "cpu"))
    elif whole:
        padded = attention_mask is not None and (
            attention_mask.shape[-1] != kv_length or not bool(attention_mask.all())
        )
        for pattern, positions, ids in () if padded else _patterns(local_size):
            found: dict[_Free, Tensor] = {}
            if not _matches(pattern, mask_function, found):
                continue
            if ids is None:
                return None
            documents = _documents(found.get(positions) if positions else None, found[ids], (batch_size, q_length))
            if documents is not None:
                return documents
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        **more,
    )


# What a supported model's config calls itself.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")


def window(layer: Any) -> int | None:
    """How many keys a query of an attention layer sees: what its model's mask function was told."""
    kind = getattr(layer, "layer_type", None)
    sliding = kind == "sliding_attention" if kind is not None else type(layer).__name__.startswith("Mistral")
    return getattr(layer.config, "sliding_window", None) if sliding else None


# Arguments with which attention is more than softmax(q·kᵀ·scale)·v under a mask.
_MORE = ("softcap", "position_bias", "s_aux", "past_key_values", "output_attentions")
_LENGTHS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


def _lengths(more: dict[str, Any], batch: int) -> tuple[bool, Tensor | None]:
    """(known, cumulative lengths) that a collator gives for flash attention, which wants all four."""
    queries, keys = more.get("cu_seq_lens_q"), more.get("cu_seq_lens_k")
    if any(more.get(name) is None for name in _LENGTHS):
        return True, None
    same = keys is queries or (not torch.compiler.is_compiling() and torch.equal(queries, keys))  # type: ignore[arg-type]
    return same and batch == 1, queries


def sight(layer: Any, batch: int, tokens: int, mask: Any, more: dict[str, Any]) -> Sight | None:
    """What the queries of a layer see; None where the kernel would not compute what the layer does."""
    documents = None
    if mask is not None:
        if mask.dtype != IDS or tuple(mask.shape) != (batch, tokens):
            return None
        documents = mask
    known, lengths = _lengths(more, batch)
    causal = bool(getattr(layer, "is_causal", True)) and getattr(layer.config, "is_causal", True) is not False
    if (
        not known
        or not causal
        or more.get("is_causal") is False
        or (layer.training and layer.attention_dropout != 0)
        or not all(more.get(name) is None or more[name] is False for name in _MORE)
    ):
        return None
    documents = documents if lengths is None else lengths
    keys = window(layer)
    return Sight(-1 if keys is None else keys - 1, None if documents is None else documents.long())


def explicit(layer: Any, mask: Any, tokens: int, device: torch.device) -> Any:
    """The mask that torch's attention needs where ours has been left out; other masks as they are."""
    keys = window(layer)
    if mask is not None and mask.dtype != IDS:
        return mask
    if mask is None and (keys is None or tokens <= keys):
        return None
    at = torch.arange(tokens, device=device)
    sees = at[:, None] >= at
    if keys is not None:
        sees = sees & (at > at[:, None] - keys)
    if mask is not None:
        sees = sees & (mask[:, :, None] == mask[:, None, :])[:, None]
    return sees if sees.dim() == 4 else sees[None, None]
