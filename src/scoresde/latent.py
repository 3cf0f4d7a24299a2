"""Latents: there and back along the probability flow, and between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.flow import Flow
from scoresde.model import Model
from scoresde.samplers import Adams, Sampler, encode, sample


def decode(model: Model, latent: Tensor, sampler: Sampler = Adams(), steps: int = 20, **options: Any) -> Tensor:  # noqa: B008
    """The data of latents, the inverse of `encode`: `sample` from there by a deterministic sampler.

    Args:
        model: of which the latents are. latent: (B, *), x_T. sampler, steps, options: as in `sample`.
    Raises:
        ValueError: a stochastic sampler; otherwise as `sample`.

    Example:
        >>> import torch
        >>> from scoresde import VP, encode, targets
        >>> model = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1).model(VP())
        >>> x = torch.tensor([[0.8], [-1.1]])
        >>> torch.allclose(decode(model, encode(model, x, steps=200), steps=200), x, atol=1e-3)
        True

    Reference: Song et al. (2021), arXiv 2011.13456, sec. 4.3.
    """
    if _checks.kind("sampler", sampler, Sampler, "Adams()").stochastic:
        raise ValueError(f"sampler must be deterministic to decode, got {sampler!r}; use Adams()")
    return sample(model, x=_checks.state("latent", latent), sampler=sampler, steps=steps, **options)


def round_trip(model: Model, x: Tensor, sampler: Sampler = Adams(), steps: int = 20, **options: Any) -> Tensor:  # noqa: B008
    """‖decode(encode(x)) − x‖/√D of each sample: (B,), in the units of the data.

    Args:
        model: whose flow is tried. x: (B, *), data. sampler, steps, options: as in `encode`.
    Raises:
        ValueError, TypeError: as `encode`.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> model = targets.Gaussian([1.0, -1.0], 0.25).model(VP())
        >>> bool((round_trip(model, torch.zeros(3, 2)) < 1e-5).all())
        True
    """
    there = encode(model, x, sampler, steps, **options)
    apart = (decode(model, there, sampler, steps, **options) - x).reshape(len(x), -1)
    return apart.square().mean(1).sqrt() if apart.numel() else x.new_zeros(len(x))


def interpolate(
    model: Model,
    first: Tensor,
    second: Tensor,
    count: int = 9,
    sampler: Sampler = Adams(),  # noqa: B008  (frozen)
    steps: int = 20,
) -> Tensor:
    """`count` data points from first: (B, *) to second: (B, *), both ends included, along a great circle of latents.

        u(s) = [sin((1 − s) θ) u₀ + sin(s θ) u₁]/sin θ,   θ the angle between directions u of standardised latents

    and lengths in equal steps.

    Args:
        model: whose latents they are. first, second: (B, *), data. count: points, at least 2. sampler, steps: as in
            `encode`.
    Returns:
        (count, B, *).
    Raises:
        ValueError: shapes that differ, count below 2; otherwise as `encode` and `sample`.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> model = targets.Gaussian([1.0, -1.0], 0.25).model(VP())
        >>> between = interpolate(model, torch.zeros(1, 2), torch.ones(1, 2), 3)
        >>> torch.allclose(between[2], torch.ones(1, 2), atol=1e-5)
        True

    Reference: Shoemake (1985); Song et al. (2021), DDIM, arXiv 2010.02502, sec. 5.3 and eq. 67.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    count = _checks.count("count", count, 2)
    _checks.shape_like("second", _checks.state("second", second), _checks.state("first", first), "first")
    flow, t = Flow.of(model, first), model.process.t_max
    ends = [flow.into(encode(model, x, sampler, steps), t) for x in (first, second)]
    lengths = [z.norm(dim=1, keepdim=True).clamp_min(1e-30) for z in ends]
    one, two = (z / length for z, length in zip(ends, lengths))
    angle = (one * two).sum(1, keepdim=True).clamp(-1, 1).acos().clamp(1e-4, torch.pi - 1e-4)
    share = torch.linspace(0, 1, count, dtype=first.dtype, device=first.device)[:, None, None]
    unit = (((1 - share) * angle).sin() * one + (share * angle).sin() * two) / angle.sin()
    points = ((1 - share) * lengths[0] + share * lengths[1]) * unit
    latents = flow.back(points.flatten(0, 1), t)
    return decode(model, latents, sampler, steps).reshape(count, *first.shape)
