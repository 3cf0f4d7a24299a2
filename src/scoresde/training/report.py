"""Where in noise a model loses: its loss by log-SNR, beside the least there is, and whether it looks at the time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.process.base import NEGLIGIBLE, randn
from scoresde.targets.base import Target
from scoresde.training.loss import check_coefficients, coefficients, spread_all
from scoresde.training.weighting import Weighting

BLIND = 3.0
"""How many standard errors above a half is the share of draws whose loss rises with wrong times, if times are read."""

CHUNK = 4096
"""Rows of a call of the network."""


@dataclass(frozen=True)
class Report:
    """The answer of `loss_by_logsnr`: tensors (bins,), float64, from the noise to the data.

    Args:
        edges: (bins + 1,), of the bins in λ = log(α²/σ²). loss, standard_error: the mean loss of a bin.
        optimum: that of the exact model on the same draws. gap, gap_error: E‖y − y*‖² in the loss's units, which is
            what the loss exceeds the optimum by; None without a target.
        told_wrong: the loss when the network is told the times of other samples.
        time_blind: whether a loss then rises no more often than it falls. weighting: the loss's, by name.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, training
        >>> model = Model(lambda x, t: torch.zeros_like(x), VP(), "noise")
        >>> report = training.loss_by_logsnr(model, torch.randn(100, 2), bins=2, samples=50)
        >>> report.time_blind, str(report).splitlines()[-1]
        (True, 'The network does not look at the time.')
    """

    edges: Tensor
    loss: Tensor
    standard_error: Tensor
    optimum: Tensor | None
    gap: Tensor | None
    gap_error: Tensor | None
    told_wrong: Tensor
    time_blind: bool
    weighting: str

    @property
    def logsnr(self) -> Tensor:
        """The middles of the bins."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def __str__(self) -> str:
        columns = {
            "log-SNR": self.logsnr,
            "σ/α": torch.exp(-self.logsnr / 2),
            "loss": self.loss,
            "±": self.standard_error,
        }
        if self.optimum is not None and self.gap is not None and self.gap_error is not None:
            columns |= {"optimum": self.optimum, "gap": self.gap, "± ": self.gap_error}
        columns["told wrong times"] = self.told_wrong
        texts = [[name, *(f"{value:.4g}" for value in values.tolist())] for name, values in columns.items()]
        widths = [max(map(len, column)) for column in texts]
        rows = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in zip(*texts)]
        verdict = "The network does not look at the time." if self.time_blind else "The network looks at the time."
        return "\n".join([f"Loss by log-SNR, weighting {self.weighting}", *rows, verdict])


@torch.no_grad()
def loss_by_logsnr(
    model: Model,
    data: Tensor,
    bins: int = 20,
    samples: int = 1000,
    *,
    target: Target | None = None,
    weighting: Weighting | None = "v",
    generator: torch.Generator | None = None,
    **cond: Any,
) -> Report:
    """The loss in equal bins of λ = log(α²/σ²) between the process's ends (at most to σ/α = 1000).

    Times are even within a bin. With an exact target the least possible loss, by the exact model on the same draws,
    and the gap to it: E‖y − ŷ‖² − E‖y − y*‖² = E‖ŷ − y*‖² for y* the conditional expectation, taken as the latter,
    which has no noise of its own. The time-blind check hands the network each sample's x_t with another sample's t.

    Args:
        model: with its network as it is to be judged (dropout off: net.eval()).
        data: (N, *), of which rows are drawn at random. bins: how many. samples: draws in each.
        target: whose exact model is the optimum; the data must be its samples. weighting: as `loss`.
        generator: the source of rows, times and noise. cond: handed to the network; tensors (N, …) by row of data.
    Returns:
        Report; print it.
    Raises:
        ValueError, TypeError: data that are empty or not finite, bins below 1, samples below 2, a target that is none,
            a weighting under which errors of the prediction count infinitely.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> target = targets.Gaussian([0.0, 1.0], 0.25)
        >>> data = target.sample(1000, torch.Generator().manual_seed(0))
        >>> report = loss_by_logsnr(target.model(VP()), data, bins=3, samples=200, target=target)
        >>> float(report.gap.max()), report.time_blind
        (0.0, False)

    Reference: docs/theory, eq. 53.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("data", data)
    if not data.numel():
        raise ValueError(f"data must have shape (N, *) with at least one number, got {tuple(data.shape)}")
    bins, samples = _checks.count("bins", bins), _checks.count("samples", samples, 2)
    exact = None
    if target is not None:
        exact = _checks.kind("target", target, Target, "targets.Gaussian([0.0], 1.0)").model(
            model.process, model.prediction
        )
    edges = _edges(model, bins)
    source = _checks.device_of(generator, "cpu")
    inside = (torch.arange(samples) + torch.rand(bins, samples, generator=generator, device=source).cpu()) / samples
    logsnr = edges[:-1, None] + inside.double() * (edges[1:] - edges[:-1])[:, None]
    t = model.process.time(logsnr.flatten()).clamp(model.process.t_min, model.process.t_max)
    rows = torch.randint(len(data), (len(t),), generator=generator, device=source).to(data.device)
    told = t[torch.randperm(len(t), generator=generator, device=source).cpu()]
    pieces = []
    for part in torch.arange(len(t)).split(CHUNK):
        here = {k: v[rows[part]] if _belongs(v, data) else v for k, v in cond.items()}
        pieces.append(_losses(model, exact, data[rows[part]], t[part], told[part], weighting, generator, here))
    losses = torch.cat(pieces, 1).reshape(-1, bins, samples)
    means, errors = losses.mean(2), losses.std(2) / math.sqrt(samples)
    rise = (losses[1] - losses[0]).flatten()
    blind = float(rise.sign().sum()) <= BLIND * math.sqrt(len(rise))
    best = (means[2], means[3], errors[3]) if exact else (None, None, None)
    return Report(edges, means[0], errors[0], *best, means[1], blind, _named(weighting, model))


def _edges(model: Model, bins: int) -> Tensor:
    low = max(model.process.at("logsnr", model.process.t_max), 2 * math.log(NEGLIGIBLE))
    return torch.linspace(low, model.process.at("logsnr", model.process.t_min), bins + 1, dtype=torch.float64)


def _losses(
    model: Model, exact: Model | None, x0: Tensor, t: Tensor, told: Tensor, weighting: Weighting | None,
    generator: torch.Generator | None, cond: dict[str, Any],
) -> Tensor:  # fmt: skip
    """The loss, that with the times told, and the exact model's and the square of the difference: (2 or 4, B)."""
    table = coefficients(model, t, weighting)
    check_coefficients(table, model.prediction, weighting)
    alpha, sigma, c, a, b = spread_all(table, x0)
    noise = randn(x0.shape, generator, x0.device, x0.dtype)
    x, goal = alpha * x0 + sigma * noise, a * x0 + b * noise
    guess = model(x, t, **cond)
    errors = [c * guess - goal, c * model(x, told, **cond) - goal]
    if exact is not None:
        best = exact(x, t)
        errors += [c * best - goal, c * (guess - best)]
    losses = torch.stack([error.flatten(1).double().square().mean(1) for error in errors])
    return _checks.finite_result("the loss", losses.mT).mT.cpu()


def _belongs(value: Any, data: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(data)


def _named(weighting: Weighting | None, model: Model) -> str:
    if weighting is None:
        return f"of the prediction {model.prediction!r} itself"
    return weighting if isinstance(weighting, str) else getattr(weighting, "__name__", repr(weighting))
