"""Training as a generator: log, plot or stop as you like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.model import Model
from scoresde.training.ema import EMA
from scoresde.training.loss import loss

Data = Tensor | Callable[[int, torch.Generator | None], Tensor]
"""(N, *), or a function (n, generator) -> (n, *) that draws a batch."""

FULL_COVARIANCE_UP_TO = 1024
"""The dimension up to which `fit` measures the whole covariance, if the data are twice as many."""


@dataclass(frozen=True)
class Record:
    """One step of training: its number from 1, the loss of its batch, (), and the model with averaged weights
    and the data's moments (one model for all records, which goes on being averaged).
    """

    step: int
    loss: Tensor
    model: Model


def fit(
    model: Model,
    data: Data,
    steps: int,
    *,
    batch_size: int = 256,
    lr: float = 1e-3,
    ema: float = 0.999,
    clip: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Record]:
    """Train model.net in place by Adam on `loss`, yielding a record a step.

    The rate rises over the first 5 % of the steps and falls to zero as a cosine. The last record's `model` is
    the one to use: it has the averaged weights, and the data's moments, which samplers and likelihoods want.

    Args:
        model: whose net is a torch.nn.Module. data: (N, *), or a function (n, generator) -> (n, *).
        steps: how many. lr: the highest rate. ema: decay of the average. clip: largest norm of the gradient.
        generator: the source of batches, times and noise.
    Raises:
        ValueError, TypeError: data of integers, empty or not finite; a network without parameters; a loss that
            is not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, fit, networks, targets
        >>> model = Model(networks.MLP(2, width=16), VP(), "v")
        >>> for record in fit(model, targets.moons(100), steps=3, batch_size=10):
        ...     pass
        >>> record.step, record.model.moments[0].shape
        (3, torch.Size([2]))
    """
    steps, batch_size = _checks.count("steps", steps), _checks.count("batch_size", batch_size)
    _checks.positive("lr", lr)
    _checks.positive("clip", clip)
    _checks.number("ema", ema, 0.0, 1.0 - 1e-12)
    _checks.device_of(generator)
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.kind("model.net", model.net, nn.Module, "networks.MLP(2)")
    if not (weights := [p for p in model.net.parameters() if p.requires_grad]):
        raise ValueError("model.net has no parameters to train")
    return _steps(model, _batches(data, model.like(), generator), weights, steps, batch_size, lr, ema, clip, generator)


def _steps(
    model: Model, draw: Callable[[int], Tensor], weights: list[nn.Parameter], steps: int, batch_size: int, lr: float,
    ema: float, clip: float, generator: torch.Generator | None,
) -> Iterator[Record]:  # fmt: skip
    average = EMA(model.net, ema)  # pyright: ignore[reportArgumentType]
    best = replace(model, net=average.net, moments=moments(draw(-1)))
    optimizer = torch.optim.Adam(weights, lr=lr)
    warm = max(1, steps // 20)
    for step in range(1, steps + 1):
        rate = min(step / warm, 0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        value = loss(model, draw(batch_size), generator=generator).mean()
        optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(weights, clip)
        if not bool(torch.isfinite(norm)):
            raise ValueError(f"the gradient at step {step} is not finite; lower lr (now {lr:g}) or look at the data")
        optimizer.step()
        average.update(model.net)  # pyright: ignore[reportArgumentType]
        yield Record(step, value.detach(), best)


def _batches(data: Data, like: Tensor, generator: torch.Generator | None) -> Callable[[int], Tensor]:
    """A function n -> (n, *) on the network's device and in its dtype; n = −1 asks for enough to measure moments."""
    if isinstance(data, Tensor):
        _checks.state("data", data)
        if data.ndim < 2 or not data.numel():
            raise ValueError(f"data must have shape (N, *) with at least one number, got {tuple(data.shape)}")
        pool = data.to(like)
        source = _checks.device_of(generator, like.device)

        def draw(n: int) -> Tensor:
            if n < 0:
                return pool
            return pool[torch.randint(len(pool), (n,), generator=generator, device=source).to(pool.device)]

        return draw
    if not callable(data):
        raise TypeError(f"data must be a tensor (N, *) or a function (n, generator) -> (n, *), got {data!r}")

    def drawn(n: int) -> Tensor:
        n = n if n > 0 else 4096
        batch = _checks.state("data", data(n, generator)).to(like)
        if batch.ndim < 2 or len(batch) != n:
            raise ValueError(f"data must return ({n}, *) when asked for {n} samples, got {tuple(batch.shape)}")
        return batch

    return drawn


def moments(data: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of data (N, *), and its covariance (D, D) where D is small against N, else its standard deviation."""
    _checks.state("data", data)
    if data.ndim < 2 or not data.numel():
        raise ValueError(f"data must have shape (N, *) with at least one number, got {tuple(data.shape)}")
    wide = data.double()
    mean, dim = wide.mean(0), wide[0].numel()
    if 1 < dim <= FULL_COVARIANCE_UP_TO and len(wide) >= 2 * dim:
        return mean, wide.flatten(1).mT.cov(correction=0).reshape(dim, dim)
    return mean, wide.std(0, correction=0)
