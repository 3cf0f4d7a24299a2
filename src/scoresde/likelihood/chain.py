"""DDPM's bound on the log-probability of integer data: L_T, the sum of L_{t−1} and L_0 of its discrete chain.

With ρ = σ/α and λ = −2 log ρ, the step from t to s has a Kullback–Leibler divergence of ½ expm1(λ_s − λ_t) ‖ε − ε̂‖²
for the posterior's variance. Whatever of it data with the model's moments would have is known in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks
from scoresde.flow import Frame, ratio
from scoresde.likelihood.continuous import Elbo, draw_cells, in_pairs, noised, proposal, share, squared_errors
from scoresde.likelihood.lattice import Bins
from scoresde.model import Model, is_conditioned
from scoresde.process import Discrete
from scoresde.process.base import randn

NODES = 64
"""Of the Gauss–Hermite rule for what the decoder costs data with the model's moments."""


@dataclass(frozen=True)
class Vlb(Elbo):
    """The answer of `vlb`: an `Elbo` whose value is a lower bound on log P(x), the probability of the levels.

    Args:
        value: −(prior + diffusion + decoder), nats, (B,). standard_error, degrees, nfe: as of `Elbo`.
        prior, diffusion, decoder: (B,) nats: L_T, the sum of all L_{t−1}, and L_0. steps: each L_{t−1}, (B, T − 1) from
            the data's side, where all were computed, else None. bits_per_dim: −value/(D log 2), (B,).
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor
    steps: Tensor | None
    bits_per_dim: Tensor


def vlb(
    model: Model,
    x: Tensor,
    levels: int = 256,
    samples: int | None = None,
    *,
    variance: str = "posterior",
    low: Any = -1.0,
    high: Any = 1.0,
    generator: torch.Generator | None = None,
    chunk: int = 1024,
) -> Vlb:
    """DDPM's lower bound on log P(x) of integer data, P the law of the chain's ancestral sampler, with its decoder.

    Level k is the bin [low + k w, low + (k + 1) w], w = (high − low)/levels, of the model's data space, and enters the
    chain as the bin's centre; the decoder is the normal distribution around x₀ over the bins, the outermost open.
    A model trained on x/127.5 − 1, as DDPM's were, has its centres there: low=-256/255, high=256/255.
    The prior is the normal distribution with the mean and covariance of the model's moments at the last step, N(0, I)
    without them. The bound is loose where bins are much wider than the first step's noise: the chain then tells of a
    centre more than the level asks for.

    Args:
        model: on a `Discrete` process. x: (B, *), whole numbers 0..levels − 1, of an integer dtype.
        levels: how many there are.
        samples: K steps of the chain a sample, drawn in pairs as in `elbo`; None: every step, twice. An eighth as
            many calls, and at least 8, go to the decoder.
        variance: of the steps, "posterior" or "beta", as in `samplers.DDPM`; and of the decoder, the second step's
            posterior variance (the first's is 0) or β of the first, as published.
        low, high: the outer edges of the first and the last bin, numbers or tensors that broadcast to one sample.
        generator: the source of steps and noise. chunk: rows of a call of the network (at least B).
    Returns:
        Vlb, in float64.
    Raises:
        ValueError: a model whose process is not `Discrete`, x outside the levels, or another argument.
        TypeError: x not of an integer dtype.

    Example:
        >>> import torch
        >>> from scoresde import ddpm, targets
        >>> from scoresde.likelihood.chain import vlb
        >>> model = targets.Gaussian([0.0], 0.1).model(ddpm(100))
        >>> result = vlb(model, torch.tensor([[32], [48]]), levels=64, variance="beta")
        >>> [round(bits, 1) for bits in result.bits_per_dim.tolist()]
        [4.8, 6.6]

    Reference: Ho et al. (2020), arXiv 2006.11239, eq. 5 and 13; Sohl-Dickstein et al. (2015), 1503.03585;
    docs/theory, eq. 37-39.
    """
    _checks.kind("model", model, Model, "Model(net, ddpm())")
    chain = model.process
    if not isinstance(chain, Discrete):
        raise ValueError(
            f"model: vlb needs a Discrete process, such as ddpm(), got {chain!r}; "
            "write elbo(model, x) for continuous time, or vlb(model.on(ddpm()), x)"
        )
    if isinstance(x, Tensor) and x.is_floating_point():
        raise TypeError(
            f"x must hold the levels themselves, 0..{levels - 1}, in an integer dtype, got {x.dtype}; "
            "write x.long() if it does, or elbo(model, x) for continuous data"
        )
    bins, chunk = Bins.of(x, levels, low, high), _checks.count("chunk", chunk)
    _checks.choice("variance", variance, ("posterior", "beta"))
    if samples is not None:
        samples = _checks.count("samples", samples)
        samples += samples % 2
    _checks.device_of(generator)
    with torch.no_grad():
        return _bound(model, chain, x, bins, samples, variance, generator, chunk)


def _bound(
    model: Model,
    chain: Discrete,
    x: Tensor,
    bins: Bins,
    samples: int | None,
    variance: str,
    generator: torch.Generator | None,
    chunk: int,
) -> Vlb:
    centre = bins.place(x, torch.tensor(0.5)).to(model.like().dtype)
    frame, batch, dim = Frame.of(model, centre), len(x), math.prod(x.shape[1:])
    scale2 = _variances(frame, centre)
    apart2 = (frame.turn(centre) - frame.mean).double() ** 2
    t = torch.arange(1, chain.steps + 1, dtype=torch.float64) / chain.steps
    rho2 = torch.exp(-chain.logsnr(t)).to(x.device)
    weights, constants = (c.to(x.device) for c in step_weights(chain, t, variance))
    total = scale2 + rho2[:, None]
    prior = 0.5 * (torch.log1p(scale2 / rho2[-1]) + (apart2 - scale2) / total[-1]).sum(1)
    # what data with the model's moments would cost, step by step: (B, T − 1)
    normal = ((scale2 / total) ** 2).sum(1) + apart2 @ (rho2[:, None] / total**2).mT
    steps = weights * normal[:, 1:] + dim * constants
    diffusion, terms, calls = steps.sum(1), x.new_zeros(batch, 0, dtype=torch.float64), 0
    if chain.steps > 1:
        if samples is None:
            index, scales = torch.arange(chain.steps - 1, device=x.device).repeat_interleave(2), 0.5 * weights
            index, scales = index.expand(batch, -1), scales.repeat_interleave(2).expand(batch, -1)
        else:
            masses = weights.cpu() * proposal(frame, rho2[1:].log().cpu() / 2)
            index, _, inverse = draw_cells(masses, batch, samples, generator, x.device)
            scales = weights[index] * inverse / samples
        calls = index.shape[1]
        gain, control, mean = squared_errors(model, frame, centre, t.to(x.device)[index + 1], None, generator, chunk)
        terms = scales * (gain + (1 - share(gain + control, control)) * (control - mean))
        diffusion = diffusion + terms.sum(1)
        steps = None if samples is not None else steps + terms.unflatten(1, (-1, 2)).sum(2)
    draws = calls_of_decoder(calls)
    deviation = decoder_deviation(chain, variance)
    decoder = _decoder(model, frame, centre, x, bins, deviation, draws, generator, chunk)
    value = _checks.finite_result("vlb", -(prior + diffusion + decoder.sum(1)))
    error, degrees = in_pairs(torch.cat([terms, decoder], 1))
    bits = -value / (dim * math.log(2))
    return Vlb(value, error, degrees, calls + draws, prior, diffusion, decoder.sum(1), steps, bits)


def step_weights(chain: Discrete, t: Tensor, variance: str) -> tuple[Tensor, Tensor]:
    """w and c of L_{t−1} = w ‖ε − ε̂‖² + c D for the steps that end at t_1..t_{T−1}: (T − 1,) each."""
    logsnr, alpha, sigma = chain.logsnr(t), chain.alpha(t), chain.sigma(t)
    rise = logsnr[:-1] - logsnr[1:]
    if variance == "posterior":
        return 0.5 * torch.expm1(rise), torch.zeros_like(rise)
    shrink = (sigma[:-1] / sigma[1:]) ** 2  # the posterior's variance in units of β
    return -0.5 * torch.expm1(-rise) * (alpha[:-1] / alpha[1:]) ** 2, 0.5 * (shrink - 1 - shrink.log())


def calls_of_decoder(calls: int) -> int:
    """How many calls go to L_0, an even number."""
    return max(8, calls // 16 * 2)


def decoder_deviation(chain: Discrete, variance: str) -> float:
    """The standard deviation of the last step to the data: √β of the first step, or the second's posterior's."""
    sigma2 = chain.betas[0]
    if variance == "beta" or chain.steps == 1:
        return math.sqrt(sigma2)
    return math.sqrt(sigma2 * -math.expm1(float(chain.logsnr(2 / chain.steps) - chain.logsnr(1 / chain.steps))))


def log_mass(x: Tensor, mean: Tensor, bins: Bins, deviation: float) -> Tensor:
    """log P of levels x: (B, *) under N(mean, deviation²) over the bins, the outermost open; float64."""
    begin, end = ((bins.place(x, torch.tensor(edge)) - mean) / deviation for edge in (0.0, 1.0))
    begin, end = begin.masked_fill(x == 0, -math.inf), end.masked_fill(x == bins.levels - 1, math.inf)
    above = begin + end > 0  # mirrored, so that the tail that is subtracted is a small one
    begin, end = torch.where(above, -end, begin), torch.where(above, -begin, end)
    upper = torch.special.log_ndtr(end)
    return upper + torch.log(-torch.expm1(torch.special.log_ndtr(begin) - upper))


def _decoder(
    model: Model,
    frame: Frame,
    centre: Tensor,
    x: Tensor,
    bins: Bins,
    deviation: float,
    draws: int,
    generator: torch.Generator | None,
    chunk: int,
) -> Tensor:
    """L_0 in `draws` terms that add up to it, (B, draws), each beside what data with the model's moments would cost."""
    t, batch, shape = model.process.t_min, len(x), x.shape[1:]
    rho, scale2 = ratio(model.process, t), _variances(frame, centre)

    def cost(offset: Tensor) -> Tensor:
        """−log P for an estimate of x₀ that is `offset` from the centres, (n B, *): (B, n)."""
        n = len(offset) // batch
        each = log_mass(
            x.repeat(n, *[1] * len(shape)), bins.place(x, half).repeat(n, *[1] * len(shape)) + offset, bins, deviation
        )
        return -each.flatten(1).sum(1).reshape(n, batch).mT

    half, gain = torch.tensor(0.5), scale2 / (scale2 + rho**2)
    wide = Frame(frame.mean, frame.spread, None if frame.axes is None else frame.axes.double(), frame.scale)
    shift = (frame.mean - frame.turn(centre)).double() * rho / (scale2 + rho**2)
    mean = wide.unturn(shift, shape)
    spread = gain if wide.axes is None else (wide.axes**2 @ gain**2).sqrt()
    nodes, shares = np.polynomial.hermite_e.hermegauss(NODES)
    base = torch.zeros(batch, 1, dtype=torch.float64, device=x.device)
    for node, part in zip(nodes.tolist(), (shares / shares.sum()).tolist()):
        base = base + part * cost(rho * (mean + node * spread.reshape(shape)))
    at_once, pieces = 1 if is_conditioned(model) else max(1, chunk // batch), []
    for piece in torch.arange(draws).split(at_once):
        n = len(piece)
        noise = torch.cat([randn(centre.shape, generator, x.device, centre.dtype) for _ in range(n)])
        times = torch.full((n * batch,), t, dtype=torch.float64, device=x.device)
        missed, normal, _ = noised(model, frame, centre.repeat(n, *[1] * len(shape)), times, noise)
        missed, normal = (rho * frame.unturn(e, shape).double() for e in (missed, normal))
        pieces.append(cost(missed) - cost(normal))
    return (torch.cat(pieces, 1) + base) / draws


def _variances(frame: Frame, like: Tensor) -> Tensor:
    """s² along the axes, (D,), float64."""
    spread = torch.as_tensor(frame.spread, dtype=torch.float64, device=like.device)
    return spread.reshape(-1).expand(math.prod(like.shape[1:])) ** 2
