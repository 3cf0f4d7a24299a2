"""Networks that remember how they were built, so that a checkpoint can build them again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn


class Recorded(nn.Module):
    """A module that keeps its constructor's arguments, defaults included, in the dict `arguments`.

    type(net)(**net.arguments) is a network of the same build, ready for load_state_dict. A subclass is recorded with
    the arguments of its own constructor; one that takes *args leaves that to the class above. Lists are kept as
    tuples. Modules among the arguments are held by reference, outside the parameters and the state_dict; a deepcopy's
    or a pickle's `arguments` hold its own modules.

    Raises:
        TypeError: arguments that the constructor does not take.

    Example:
        >>> from scoresde.networks import MLP, Recorded
        >>> class Deep(MLP):
        ...     def __init__(self, dim, blocks=8):
        ...         super().__init__(dim, width=16, blocks=blocks)
        >>> Deep(2).arguments
        {'dim': 2, 'blocks': 8}
    """

    arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)


def _recording(build: Callable[..., None]) -> Callable[..., None]:
    """A constructor that first notes its arguments, unless a subclass's has."""
    signature = inspect.signature(build)
    kinds = {p.kind for p in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return build
    loose = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]

    @wraps(build)
    def init(self: Recorded, *args: Any, **kwargs: Any) -> None:
        if "arguments" not in vars(self):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            named = dict(list(bound.arguments.items())[1:])
            for name in loose:
                named |= named.pop(name)
            kept = {k: tuple(v) if isinstance(v, (list, torch.Size)) else v for k, v in named.items()}
            vars(self)["arguments"] = kept  # nn.Module is not to see it
        build(self, *args, **kwargs)

    return init


def zeroed(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Any:
    """`layer`, with weights that start at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
