"""`torch.nn.functional`'s functions with the kernels of this package: same names, signatures and results.

What a kernel cannot do is refused by name (`UnsupportedInputError`, `DeviceError`), never computed another way.
Arithmetic is float32 whatever the dtype; each result is rounded once. Under `torch.autocast("cpu")` the products
(`linear`, `scaled_dot_product_attention`, `linear_cross_entropy`) take their inputs in its dtype, as torch's do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import UnsupportedInputError
from . import losses as _losses
from . import ops as _ops
from ._op import on_cpu

Tensor = torch.Tensor
# torch's default for rms_norm is that of its arithmetic, in the half dtypes too.
_EPS = torch.finfo(torch.float32).eps


def _cast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """As autocast wants the inputs of a product, else unchanged."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(t.to(dtype) if t is not None and t.is_floating_point() else t for t in tensors)


def _one_dtype(op: str, **tensors: Tensor | None) -> None:
    """Raises, naming all of them, when they differ."""
    dtypes = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
    if len(set(dtypes.values())) > 1:
        raise UnsupportedInputError(f"{op}: all inputs must have one dtype, got {dtypes}")


def _normalized_rows(op: str, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None) -> int:
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise UnsupportedInputError(
            f"{op}: `normalized_shape` {list(shape)} must be the last dimensions of `input`, {list(input.shape)}"
        )
    if weight is not None and tuple(weight.shape) != shape:
        raise UnsupportedInputError(f"{op}: `weight` must have shape {list(shape)}, got {list(weight.shape)}")
    width = 1
    for extent in shape:
        width *= extent
    return width


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """y = x·w / √(mean(x²) + eps) over the last dimensions. A float32 weight of half inputs is used unrounded."""
    if eps is None:
        eps = _EPS
    if weight is not None and weight.dtype == input.dtype and weight.dim() == 1 == len(normalized_shape):
        return _ops.rms_norm(input, weight, eps)  # type: ignore[no-any-return]
    on_cpu("rms_norm", input=input, weight=weight)
    width = _normalized_rows("rms_norm", input, normalized_shape, weight)
    weight = torch.ones(width, dtype=input.dtype) if weight is None else weight.reshape(width)
    x = input.reshape(-1, width).to(weight.dtype)
    return _ops.rms_norm(x, weight, eps).to(input.dtype).view(input.shape)  # type: ignore[no-any-return]


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x − mean)·w / √(var + eps) + b over the last dimensions. Float32 weights of half inputs stay unrounded."""
    if weight is not None and weight.dtype == input.dtype and weight.dim() == 1 == len(normalized_shape):
        return _ops.layer_norm(input, weight, bias, eps)  # type: ignore[no-any-return]
    on_cpu("layer_norm", input=input, weight=weight, bias=bias)
    _one_dtype("layer_norm", weight=weight, bias=bias)
    width = _normalized_rows("layer_norm", input, normalized_shape, weight)
    kind = input.dtype if weight is None else weight.dtype
    weight = torch.ones(width, dtype=kind) if weight is None else weight.reshape(width)
    bias = None if bias is None else bias.reshape(width)
    x = input.reshape(-1, width).to(kind)
    return _ops.layer_norm(x, weight, bias, eps).to(input.dtype).view(input.shape)  # type: ignore[no-any-return]


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x·Φ(x), or its tanh form."""
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if approximate not in kinds:
        raise UnsupportedInputError(f"gelu: `approximate` must be 'none' or 'tanh', got {approximate!r}")
    return _ops.activation(input, kinds[approximate])  # type: ignore[no-any-return]


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x / (1 + exp(−x))."""
    if inplace:
        raise UnsupportedInputError("silu: `inplace=True` is not supported; the input is needed for the gradient")
    return _ops.activation(input, "silu")  # type: ignore[no-any-return]


def _gated(op: str, kind: str, gate: Tensor, up: Tensor) -> Tensor:
    if gate.dtype != up.dtype:
        _one_dtype(op, gate=gate, up=up)
    if gate.shape != up.shape:
        raise UnsupportedInputError(f"{op}: `gate` {list(gate.shape)} and `up` {list(up.shape)} must have one shape")
    return _ops.gated_mlp(gate, up, kind)  # type: ignore[no-any-return]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up in one pass; the backward pass keeps the two inputs only."""
    return _gated("swiglu", "silu", gate, up)


def geglu(gate: Tensor, up: Tensor, approximate: str = "none") -> Tensor:
    """gelu(gate)·up in one pass."""
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if approximate not in kinds:
        raise UnsupportedInputError(f"geglu: `approximate` must be 'none' or 'tanh', got {approximate!r}")
    return _gated("geglu", kinds[approximate], gate, up)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x·wᵀ + b."""
    x, w, b = _cast(input, weight, bias)
    assert x is not None and w is not None
    if x.dtype is not w.dtype or b is not None:
        _one_dtype("linear", input=x, weight=w, bias=b)
    return _ops.linear(x, w, b)  # type: ignore[no-any-return]


def rotary(input: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotates the first dims of each head: input (batch, tokens, heads, head_dim); cos, sin (1 or batch, tokens, dims)
    as Hugging Face's rotary modules make them: elements j and dims/2 + j turn together, and the second half of a row of
    cos repeats the first. With `interleaved` (GPT-J, Meta's Llama) 2j and 2j + 1 do, and a row has each value twice."""
    if input.dim() != 4 or cos.dim() != 3:
        raise UnsupportedInputError(
            "rotary: `input` must be (batch, tokens, heads, head_dim) and `cos` (1 or batch, tokens, dims), "
            f"got {list(input.shape)} and {list(cos.shape)}"
        )
    return _ops.rotary(input, cos.to(input.dtype), sin.to(input.dtype), interleaved)  # type: ignore[no-any-return]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    document_ids: Tensor | None = None,
) -> Tensor:
    """softmax(q·kᵀ·scale)·v with q (batch, heads, tokens, dim), k and v (batch, kv_heads, tokens, dim).

    `window_size` is (left, right) as in flash-attention and torch's `varlen_attn`: how many keys before and after its
    own a query sees, -1 for all; `is_causal` lets it see none after. `document_ids` (batch, tokens) are integers that
    do not decrease along a sequence: a token sees its own document alone (`varlen_attn` for sequences end to end).
    Refused: masks, dropout, and queries and keys of different length.
    """
    op = "scaled_dot_product_attention"
    if attn_mask is not None or dropout_p != 0.0:
        name = "dropout_p" if attn_mask is None else "attn_mask"
        raise UnsupportedInputError(f"{op}: `{name}` is not supported by the CPU kernels; use torch's function")
    q, k, v = _cast(query, key, value)
    assert q is not None and k is not None and v is not None
    if not (q.dtype is k.dtype is v.dtype):
        _one_dtype(op, query=q, key=k, value=v)
    _check_heads(op, q, k, v, enable_gqa)
    left, right = _window(op, window_size, is_causal)
    if document_ids is not None:
        document_ids = _ids(op, "document_ids", document_ids, (q.shape[0], q.shape[2]))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    return _ops.attention(q, k, v, None, None, document_ids, scale, left, right, True)  # type: ignore[no-any-return]


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None = None,
    max_q: int | None = None,
    max_k: int | None = None,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of sequences that stand end to end: q (tokens, heads, dim), k and v (tokens, kv_heads, dim).

    `cu_seq_q` holds where each sequence begins, and the number of all tokens at its end. The name and the arguments are
    those of `torch.nn.attention.varlen.varlen_attn`, which has them from flash-attention's `flash_attn_varlen_func`;
    there is no `is_causal`: window_size=(-1, 0) is causal, (n, 0) a window. Keys have the lengths of the queries, so
    `cu_seq_k` may be left out, as may the longest lengths, which are not needed here. Refused: other lengths of keys.
    """
    op = "varlen_attn"
    q, k, v = _cast(query, key, value)
    assert q is not None and k is not None and v is not None
    _one_dtype(op, query=q, key=k, value=v)
    if q.dim() != 3 or k.dim() != 3 or k.shape != v.shape or (q.shape[0], q.shape[2]) != (k.shape[0], k.shape[2]):
        shapes = f"query {list(q.shape)}, key {list(k.shape)}, value {list(v.shape)}"
        raise UnsupportedInputError(f"{op}: needs (tokens, heads, dim), keys and values of as many tokens: {shapes}")
    if q.shape[1] != k.shape[1] and not enable_gqa:
        raise UnsupportedInputError(f"{op}: fewer key heads than query heads need enable_gqa=True")
    if cu_seq_k is not None and cu_seq_k is not cu_seq_q and not torch.equal(cu_seq_q, cu_seq_k):
        raise UnsupportedInputError(f"{op}: `cu_seq_k` must be `cu_seq_q`: each query has a key of its own here")
    lengths = _ids(op, "cu_seq_q", cu_seq_q, (cu_seq_q.numel(),))
    left, right = _window(op, window_size, False)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    rows = (x.unsqueeze(0) for x in (q, k, v))
    out = _ops.attention(*rows, None, None, lengths, scale, left, right, False)
    return out.squeeze(0)  # type: ignore[no-any-return]


def _window(op: str, window_size: tuple[int, int], is_causal: bool) -> tuple[int, int]:
    """(left, right), -1 for no limit."""
    if window_size == (-1, -1):
        return -1, 0 if is_causal else -1
    try:
        left, right = window_size
        fits = int(left) == left >= -1 and int(right) == right >= -1
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UnsupportedInputError(
            f"{op}: `window_size` must be (left, right), whole numbers of keys from 0 up or -1 for all, "
            f"got {window_size!r}"
        )
    return left, 0 if is_causal else right


def _ids(op: str, name: str, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    if ids.dtype not in (torch.int64, torch.int32) or tuple(ids.shape) != shape:
        raise UnsupportedInputError(
            f"{op}: `{name}` must be int32 or int64 of shape {list(shape)}, got {ids.dtype} {list(ids.shape)}"
        )
    return ids.long()


def _check_heads(op: str, q: Tensor, k: Tensor, v: Tensor, enable_gqa: bool) -> None:
    of_q, of_k = q.shape, k.shape
    if len(of_q) != 4 or len(of_k) != 4 or of_k != v.shape:
        why = "needs (batch, heads, tokens, dim) and one shape of key and value"
    elif of_q[0] != of_k[0] or of_q[2] != of_k[2] or of_q[3] != of_k[3]:
        why = "query and key must agree in batch, tokens and dim"
    elif of_q[1] != of_k[1] and not enable_gqa:
        why = "fewer key heads than query heads need enable_gqa=True"
    else:
        return
    raise UnsupportedInputError(f"{op}: {why}: query {list(of_q)}, key {list(of_k)}, value {list(v.shape)}")


_DIVISORS = {"mean": None, "sum": 1.0, "none": 0.0}


def _divisor(op: str, reduction: str) -> float | None:
    if reduction not in _DIVISORS:
        raise UnsupportedInputError(f"{op}: `reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
    return _DIVISORS[reduction]


def _check_targets(op: str, input: Tensor, target: Tensor, label_smoothing: float) -> None:
    if target.dtype != torch.int64 or target.shape != input.shape[:-1]:
        raise UnsupportedInputError(
            f"{op}: `target` must be int64 class indices of shape {list(input.shape[:-1])}, "
            f"got {target.dtype} {list(target.shape)}; class probabilities are not supported"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise UnsupportedInputError(f"{op}: `label_smoothing` must be in 0..1, got {label_smoothing}")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    lse_square_scale: float = 0.0,
) -> Tensor:
    """The loss of logits (tokens, classes), or (classes); `lse_square_scale` adds z·(log Σ exp)² of each token.

    Refused: class weights, class probabilities, logits of more than two dimensions.
    """
    if weight is not None or size_average is not None or reduce is not None:
        raise UnsupportedInputError("cross_entropy: `weight`, `size_average` and `reduce` are not supported")
    if input.dim() not in (1, 2):
        raise UnsupportedInputError(f"cross_entropy: `input` must be (tokens, classes), got {list(input.shape)}")
    _check_targets("cross_entropy", input, target, label_smoothing)
    divisor = _divisor("cross_entropy", reduction)
    logits, targets = (input, target) if input.dim() == 2 else (input[None], target[None])
    loss = _losses.cross_entropy(logits, targets, ignore_index, label_smoothing, lse_square_scale, divisor)
    return loss.view(target.shape) if divisor == 0 else loss  # type: ignore[no-any-return]


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    divisor: float | None = None,
) -> Tensor:
    """cross_entropy(linear(input, linear_weight), target) without the logits, which exist chunk by chunk only.

    input (.., width), linear_weight (classes, width), target (..). The loss is float32. With reduction "sum", `divisor`
    divides it, which costs no pass over the gradients. Reduction "none" is for evaluation: it has no gradient.
    Refused: bias, class weights.
    """
    op = "linear_cross_entropy"
    if linear_bias is not None or weight is not None:
        raise UnsupportedInputError(f"{op}: `linear_bias` and `weight` are not supported")
    if divisor is not None and (reduction != "sum" or not divisor > 0):
        raise UnsupportedInputError(f"{op}: `divisor` must be positive and goes with reduction 'sum', got {divisor}")
    x, w = _cast(input, linear_weight)
    assert x is not None and w is not None
    _one_dtype(op, input=x, linear_weight=w)
    _check_targets(op, x, target, label_smoothing)
    divide = _divisor(op, reduction) if divisor is None else divisor
    gradients = torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)
    if gradients and divide == 0:
        raise UnsupportedInputError(
            f"{op}: reduction 'none' has no gradient; use 'sum' or 'mean', or torch.no_grad() to evaluate"
        )
    ignore = -100 if ignore_index is None else ignore_index
    loss = _losses.linear_cross_entropy(
        x.reshape(-1, x.shape[-1]), w, target.reshape(-1), ignore, label_smoothing, lse_square_scale, divide, gradients
    )
    return loss.view(target.shape) if divide == 0 else loss  # type: ignore[no-any-return]
