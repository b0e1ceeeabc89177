"""What every op has: a definition for the dispatcher (compile, fake tensors, modes) and a short way for eager calls.

An eager call on plain CPU tensors goes straight to the kernel, through an `autograd.Function` when a gradient is
wanted: this saves most of the dispatcher's time on small tensors. Everything else (torch.compile, fake tensors,
tensor subclasses, dispatch modes) takes the op that torch.library knows. Both run the same kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..errors import DeviceError, UnsupportedInputError

NAMESPACE = "llmjp_core"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Names of torch's that every call asks.
_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_modes, _transforms = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active

Kernel = Callable[..., Any]
Gradients = tuple[torch.Tensor | None, ...]


class Rule(Protocol):
    """The gradients of all inputs; `kernel` is the backward op, as it is or as torch.library knows it."""

    def __call__(
        self, kernel: Kernel, saved: Sequence[torch.Tensor], rest: tuple[Any, ...], dy: torch.Tensor
    ) -> Gradients: ...


def on_cpu(op: str, **tensors: torch.Tensor | None) -> None:
    """Raises for the first tensor that is elsewhere."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_cpu:
            raise DeviceError(
                f"{op}: `{name}` is on the device {tensor.device}; llmjp_core.torch runs on CPU tensors only: "
                "move it with .cpu(), or do not replace this layer"
            )


def _second_derivative(name: str) -> UnsupportedInputError:
    return UnsupportedInputError(
        f"{name}: its gradient has no derivative of its own (create_graph=True, double backward); "
        "use torch's layer where second derivatives are wanted"
    )


class _Once(torch.autograd.Function):
    """Passes gradients on; a backward pass through them raises."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: torch.Tensor) -> Any:
        ctx.name = name
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise _second_derivative(ctx.name)


def _once(name: str, gradients: Gradients, inputs: Sequence[torch.Tensor]) -> Gradients:
    """The gradients, tied to what they depend on, for `create_graph=True`."""
    given = [gradient for gradient in gradients if gradient is not None]
    tied = iter(_Once.apply(name, len(given), *given, *inputs))
    return tuple(None if gradient is None else next(tied) for gradient in gradients)


class Op:
    """One op; called with its inputs, the tensors first."""

    def __init__(
        self,
        name: str,
        inputs: str,
        outputs: str,
        kernel: Kernel,
        fake: Kernel,
        *,
        names: Sequence[str],
        backward_inputs: str,
        backward_outputs: str,
        backward_kernel: Kernel,
        backward_fake: Kernel,
        save: Callable[[tuple[Any, ...], Any], tuple[tuple[torch.Tensor, ...], tuple[Any, ...]]],
        rule: Rule,
        eager_kernel: Kernel | None = None,
        eager_backward: Kernel | None = None,
        alone: Kernel | None = None,
        tells_wanted: bool = False,
    ) -> None:
        """`alone` gives the first output only, for calls without gradients. With `tells_wanted` the rule finds which
        tensors want a gradient at the end of `rest`."""
        self.name, self.kernel, self.names, self.count = name, eager_kernel or kernel, tuple(names), len(names)
        self.alone = alone or self.kernel
        self.backward_kernel, self.save, self.rule = eager_backward or backward_kernel, save, rule
        self.tells_wanted = tells_wanted
        _define(name, inputs, outputs, kernel, fake)
        _define(f"{name}_backward", backward_inputs, backward_outputs, backward_kernel, backward_fake)
        self.library = getattr(torch.ops.llmjp_core, name)
        self.backward_library = getattr(torch.ops.llmjp_core, f"{name}_backward")
        self._register_gradients()
        # Function.apply looks for functorch first, which `__call__` has done (2 us); this is what it calls then.
        self.apply: Kernel = super(torch.autograd.Function, self._make_function()).apply  # type: ignore[misc]

    def __call__(self, *inputs: Any) -> Any:
        """The first output; the others are kept for the backward pass."""
        if _is_compiling() or _modes() > 0 or _transforms():
            return self._by_dispatcher(inputs)
        wants_gradient = False
        for tensor in inputs[: self.count]:
            if tensor is not None:
                if type(tensor) not in _PLAIN:
                    return self._by_dispatcher(inputs)
                if not tensor.is_cpu:
                    on_cpu(self.name, **dict(zip(self.names, inputs, strict=False)))
                wants_gradient = wants_gradient or tensor.requires_grad
        if wants_gradient and _is_grad_enabled():
            return self.apply(*inputs)
        return _first(self.alone(*inputs))

    def _by_dispatcher(self, inputs: tuple[Any, ...]) -> Any:
        on_cpu(self.name, **dict(zip(self.names, inputs, strict=False)))
        return _first(self.library(*inputs))

    def _rest(self, ctx: Any) -> tuple[Any, ...]:
        """What `save` kept beside tensors and, for a rule that `tells_wanted`, which tensors want a gradient."""
        if not self.tells_wanted:
            return ctx.rest  # type: ignore[no-any-return]
        return (*ctx.rest, list(ctx.needs_input_grad[: self.count]))

    def _register_gradients(self) -> None:
        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            tensors, ctx.rest = self.save(inputs, output)
            ctx.save_for_backward(*tensors)
            ctx.set_materialize_grads(False)
            if isinstance(output, tuple):
                ctx.mark_non_differentiable(*output[1:])

        def backward(ctx: Any, dy: torch.Tensor | None, *_: Any) -> Gradients:
            if dy is None:
                return (None,) * len(ctx.needs_input_grad)
            return self.rule(self.backward_library, ctx.saved_tensors, self._rest(ctx), dy)

        def nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            pass

        def twice(ctx: Any, *_: Any) -> Any:
            raise _second_derivative(self.name)

        library = torch.library
        library.register_autograd(f"{NAMESPACE}::{self.name}", backward, setup_context=setup, lib=_LIBRARY)
        library.register_autograd(f"{NAMESPACE}::{self.name}_backward", twice, setup_context=nothing, lib=_LIBRARY)

    def _make_function(op) -> type:
        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                outputs = op.kernel(*inputs)
                tensors, ctx.rest = op.save(inputs, outputs)
                ctx.save_for_backward(*tensors)
                return _first(outputs)

            @staticmethod
            def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
                (dy,), saved, rest = gradients, ctx.saved_tensors, op._rest(ctx)
                if not torch.is_grad_enabled():
                    return op.rule(op.backward_kernel, saved, rest, dy)
                with torch.no_grad():
                    result = op.rule(op.backward_kernel, saved, rest, dy)
                return _once(op.name, result, (dy, *saved))

        Function.__name__ = Function.__qualname__ = op.name
        return Function


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _elsewhere(name: str) -> Kernel:
    def refuse(*inputs: Any) -> Any:
        on_cpu(name, **{f"argument {i}": x for i, x in enumerate(inputs) if isinstance(x, torch.Tensor)})
        raise DeviceError(f"{name}: llmjp_core.torch runs on CPU tensors only")

    return refuse


def _define(name: str, inputs: str, outputs: str, kernel: Kernel, fake: Kernel) -> None:
    _LIBRARY.define(f"{name}({inputs}) -> {outputs}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CPU")
    _LIBRARY.impl(name, _elsewhere(name), "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
