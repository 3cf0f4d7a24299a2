"""One process, or one of several: what `fit` asks of accelerate.Accelerator, and the same for a process alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Alone:
    """The part of accelerate.Accelerator that `fit` uses, for one process on one device."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_sync(self, net: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def clip_grad_norm_(self, weights: Any, norm: float) -> Tensor:
        total = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        if self.device.type != "cpu" or not total <= norm:  # elsewhere a look costs more than a product by one
            nn.utils.clip_grads_with_norm_(weights, norm, total)
        return total

    def gather(self, values: Tensor) -> Tensor:
        return values

    def reduce(self, value: Tensor) -> Tensor:
        return value

    def wait_for_everyone(self) -> None:
        pass


def checked(accelerator: Any) -> Any:
    """An accelerate.Accelerator that `fit` can work with."""
    if not hasattr(accelerator, "prepare") or not hasattr(accelerator, "num_processes"):
        raise TypeError(f"accelerator must be accelerate.Accelerator(), got {accelerator!r}")
    if getattr(accelerator, "gradient_accumulation_steps", 1) != 1:
        raise ValueError("accelerator must not accumulate gradients itself; write fit(..., accumulate=2)")
    if getattr(accelerator, "mixed_precision", "no") not in ("no", "bf16", None):
        raise ValueError(f"accelerator has mixed precision {accelerator.mixed_precision!r}; write 'bf16', or 'no'")
    kind = str(getattr(accelerator, "distributed_type", ""))
    if kind.endswith("FSDP") and not getattr(accelerator, "is_fsdp2", False):
        raise ValueError("accelerator shards by FSDP1; write FullyShardedDataParallelPlugin(fsdp_version=2)")
    return accelerator


class Mixed(nn.Module):
    """A network under autocast to bfloat16, with outputs in the dtype of its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.net(x, t, **cond).to(x.dtype)


def pieces(n: int, team: Any, accumulate: int) -> tuple[slice, list[slice]]:
    """This process's part of a batch of n, and that part in `accumulate` pieces, counted from its beginning."""
    first, last = (n * (team.process_index + i) // team.num_processes for i in (0, 1))
    ends = [(last - first) * i // accumulate for i in range(accumulate + 1)]
    return slice(first, last), [slice(a, b) for a, b in pairwise(ends)]
