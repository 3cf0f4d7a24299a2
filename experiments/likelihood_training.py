"""Training for likelihoods: noise levels drawn as the variational bound weighs them, uniform in log σ/α."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from scoresde import EMA, Model, loss


def fitting(
    model: Model,
    draw: Callable[[int, torch.Generator], Tensor],
    steps: int,
    least: float,
    most: float,
    *,
    batch: int = 64,
    lr: float = 2e-3,
    ema: float = 0.998,
    generator: torch.Generator,
) -> Iterator[tuple[float, Model]]:
    """Train a model of the noise in place by AdamW, yielding the loss and the model with averaged weights.

    ∫ E‖ε − ε̂‖² dlog ρ, ρ = σ/α from `least` to `most`, is the bound on −log p(x) up to a constant: the loss is that
    integral divided by D.
    """
    net, process = model.net, model.process
    assert isinstance(net, nn.Module) and model.prediction == "noise"
    average = EMA(net, ema)
    best, first, length = replace(model, net=average.net), math.log(least), math.log(most / least)
    optimizer = torch.optim.AdamW(net.parameters(), lr, betas=(0.9, 0.99))
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(step / 100, 0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))
        x = draw(batch, generator).to(model.like())
        u = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
        u = (u + torch.arange(batch, device=u.device) / batch) % 1
        t = process.time(-2 * (first + length * u)).clamp(process.t_min, process.t_max).to(x.device)
        value = loss(model, x, t, generator=generator).mean()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update(net)
        yield float(value.detach()) * length, best
