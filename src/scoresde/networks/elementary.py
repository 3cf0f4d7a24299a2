"""Elementary operations in place of torch's fused ones, where derivatives ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def differentiable(*inputs: Tensor) -> AbstractContextManager[Any]:
    """Within it, attention and norms are elementary operations if derivatives may need that; else nothing changes.

    Torch's fused attention has neither forward-mode nor second derivatives; under forward mode, its LayerNorm and
    InstanceNorm have a wrong gradient, and its GroupNorm has no value for some strides (2.13). Such derivatives come
    with torch.func's transforms, with dual numbers, and where a gradient is taken in x or t; training takes its
    gradient in parameters.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    transformed = _functorch.peek_interpreter_stack() is not None
    followed = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if transformed or followed or any(forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        return _elementary()
    return nullcontext()


def standardise(x: Tensor, eps: float) -> Tensor:
    """x with mean 0 and variance 1 along its last axis, in float32 at least."""
    wide = x.float() if x.itemsize < 4 else x
    centred = wide - wide.mean(-1, keepdim=True)
    return (centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    y = standardise(input.flatten(-len(normalized_shape)), eps).reshape(input.shape)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    axes, least = tuple(range(-len(normalized_shape), 0)), torch.finfo(input.dtype).eps if eps is None else eps
    y = input * (input.square().mean(axes, keepdim=True) + least).rsqrt()
    return y if weight is None else y * weight


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    y = standardise(input.unflatten(1, (num_groups, -1)).flatten(2), eps).reshape(input.shape)
    each = (-1, *[1] * (input.ndim - 2))
    y = y if weight is None else y * weight.reshape(each)
    return y if bias is None else y + bias.reshape(each)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if running_mean is not None or not use_input_stats:
        return functional.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return group_norm(input, input.shape[1], weight, bias, eps)


ELEMENTARY: dict[Callable[..., Tensor], Callable[..., Tensor]] = {  # each with the arguments of torch's
    functional.layer_norm: layer_norm,
    functional.group_norm: group_norm,
    functional.instance_norm: instance_norm,
    functional.rms_norm: rms_norm,
}


class _Norms(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return ELEMENTARY.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def _elementary() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH), _Norms():
        yield
