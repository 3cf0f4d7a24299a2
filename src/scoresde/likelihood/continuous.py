"""The variational bound in continuous time, as what the model knows beyond the Gaussian with the data's moments.

With ρ = σ/α, ε̂ the model's noise and ε̃ the noise that data N(m, s²) would have,

    log p(x) ≥ log N(x; m, s²) − ∫ E[‖ε − ε̂‖² − ‖ε − ε̃‖²] dlog ρ − (the decoder's share)    (docs/theory, eq. 34)

The prior, the Gaussian's own part of the path and of the last step to the data add up to log N exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import pad

from scoresde import _checks
from scoresde.flow import Frame, ratio
from scoresde.model import Model, is_conditioned
from scoresde.process.base import NEGLIGIBLE, randn, spread

CELLS = 1024
"""Of the table of log ρ that times are drawn from; within a cell they are uniform, so that nothing is approximated."""

CLOSE = 0.01
"""Where the density of x_t is asked, the least noise on top of its own, as a share of it."""

DEFENSIVE = 0.2
"""The share of times that are uniform in log ρ: it bounds the weights whatever the network does."""


@dataclass(frozen=True)
class Elbo:
    """The answer of `elbo`: one entry of each field for one sample, (B,), and nfe.

    Args:
        value: a lower bound on log p(x), in nats. standard_error: of its estimate. degrees: of freedom that the
            standard error has, which few times or heavy tails make few. nfe: calls of the network for each sample.
    """

    value: Tensor
    standard_error: Tensor
    degrees: Tensor
    nfe: int

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Where the bound's expectation lies with confidence `level`, by Student's t: (B,), (B,)."""
        level = _checks.number("level", level, 0.0, 1.0)
        quantile = torch.from_numpy(student.ppf((1 + level) / 2, self.degrees.double().cpu().numpy()))
        width = quantile.to(self.standard_error) * self.standard_error
        return self.value - width, self.value + width


def elbo(
    model: Model,
    x: Tensor,
    samples: int = 128,
    *,
    t: float = 0.0,
    generator: torch.Generator | None = None,
    chunk: int = 1024,
) -> Elbo:
    """An unbiased estimate of a lower bound on log p(x), p the law of the model's reverse SDE.

    The prior is the normal distribution with the mean and covariance that the model's `moments` have at t_max (mean
    0, covariance α² + σ² without them), or at σ/α = 1000 data scales where the process goes beyond. From t_min to the
    data goes a normal decoder around the model's x₀, with the variance that data of those moments have given x_t.
    It depends on neither process nor prediction but by where they begin and end, and is exact for Gaussian data.

    Args:
        model: whose density it is. x: (B, *), data, continuous (for integer data see `vlb` and `bits_per_dim`).
        samples: K times a sample, each with a noise; an odd number is rounded up. Two in each of K/2 strata of a
            proposal in log σ/α, so that the standard error is without bias. It falls like 1/√K; 128 cost about what
            `log_prob` with one probe does.
        t: the time that x belongs to; beyond 0 the bound is on the density of x_t.
        generator: the source of times and noise. chunk: rows of a call of the network (at least B).
    Returns:
        Elbo. Differentiable in x, if x requires gradients.
    Raises:
        ValueError, TypeError: an argument that does not fit, or a result that is not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> from scoresde.likelihood.continuous import elbo
        >>> target = targets.Gaussian([1.0, -1.0], 0.25)
        >>> x = target.sample(3)
        >>> torch.allclose(elbo(target.model(VP()), x, 2).value, target.log_prob(x), atol=1e-4)
        True

    Reference: Song et al. (2021), arXiv 2101.09258, theorem 3; Kingma et al. (2021), 2107.00630, eq. 15;
    docs/theory, eq. 32-35.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise TypeError(
            f"x must be continuous, of a floating dtype, got {x.dtype}; "
            "for integer data write vlb(model, x, levels=256) or bits_per_dim(model, x, levels=256)"
        )
    _checks.state("x", x)
    samples, chunk = _checks.count("samples", samples), _checks.count("chunk", chunk)
    samples += samples % 2
    _checks.device_of(generator)
    if not x.numel():
        nothing = x.new_zeros(len(x))
        return Elbo(nothing, nothing, nothing, 0)
    process, frame, base = model.process, Frame.of(model, x), 0.0
    if _checks.number("t", t, 0.0, process.t_max) > 0:  # y = x/α at t is data too, with noise of its own
        base, alpha = ratio(process, t), process.at("alpha", t)
        if math.isinf(base):
            raise ValueError(f"t must be before the end of {process!r}, where α = 0, got {t:g}")
        frame = replace(frame, spread=(frame.spread**2 + base**2) ** 0.5, scale=math.hypot(frame.scale, base))
        x = x / alpha
    near = math.sqrt(max(ratio(process, process.t_min) ** 2 - base**2, (CLOSE * base) ** 2))
    far = min(math.sqrt(max(ratio(process, process.t_max) ** 2 - base**2, 0.0)), max(frame.scale, near) / NEGLIGIBLE)
    if far <= near:
        raise ValueError(f"t must leave the process some way to its end at t = {process.t_max:g}, got {t:g}")
    # the decoder's share, of weight 1 in log α²/σ², is drawn as half a unit of log ρ below the least
    edges = torch.linspace(math.log(near) - 0.5, math.log(far), CELLS + 1, dtype=torch.float64)
    masses = proposal(frame, (edges[1:] + edges[:-1]) / 2) * edges.diff()
    with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
        cell, within, weight = draw_cells(masses, len(x), samples, generator, x.device)
        edges, width = edges.to(x.device), edges.diff().to(x.device)
        place = edges[cell] + within * width[cell]
        last = place < math.log(near)
        rho = torch.hypot(place.clamp_min(math.log(near)).exp(), torch.tensor(base, dtype=torch.float64))
        times = process.time(-2 * rho.log()).clamp(process.t_min, process.t_max)
        gain, control, mean = squared_errors(model, frame, x, times, last, generator, chunk, base)
        rest = gain + (1 - share(gain + control, control)) * (control - mean)
        terms = weight * width[cell] * rest / samples
        value = log_normal(frame, x) - terms.sum(1)
        if base:
            value = value - math.prod(x.shape[1:]) * math.log(process.at("alpha", t))
    error, degrees = in_pairs(terms)
    value = _checks.finite_result("elbo", value.to(x.dtype))
    return Elbo(value, error.to(x.dtype), degrees.to(x.dtype), samples)


def log_normal(frame: Frame, x: Tensor) -> Tensor:
    """log N(x; m, s²), (B,), float64."""
    z = ((frame.turn(x) - frame.mean) / frame.spread).double()
    volume = torch.as_tensor(frame.spread, dtype=torch.float64, device=x.device).log().expand(z.shape[1]).sum()
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) - volume


def proposal(frame: Frame, log_rho: Tensor) -> Tensor:
    """A density of times in log ρ, not normalised: with r = ρ/s, the mean over the axes of √r/(1 + r^{5/2}), and a
    share of uniform.

    What is left of the integrand falls like ρ at the data (its mean like ρ²) and like ρ⁻⁴ at the noise, but
    begins at the data's finest structure, which the moments do not tell: hence the broad side towards the data.
    """
    spreads = torch.as_tensor(frame.spread, dtype=torch.float64, device="cpu").reshape(-1).unique()
    r = torch.exp(log_rho[:, None] - spreads.log())
    shape = (r.sqrt() / (1 + r**2.5)).mean(1)
    return (1 - DEFENSIVE) * shape / shape.mean() + DEFENSIVE


def draw_cells(
    masses: Tensor, batch: int, samples: int, generator: torch.Generator | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of a table, where in them, and one over their probability: (B, K), increasing, two in each stratum."""
    source = _checks.device_of(generator, device)
    jitter = torch.rand(batch, samples, generator=generator, device=source, dtype=torch.float64).to(device)
    u = (torch.arange(samples, device=device) // 2 + jitter) / (samples // 2)
    bounds = torch.cat([masses.new_zeros(1), (masses / masses.sum()).cumsum(0)]).to(device)
    cell = (torch.searchsorted(bounds, u, right=True) - 1).clamp_max(len(masses) - 1)
    share = bounds.diff()[cell]
    return cell, ((u - bounds[cell]) / share).clamp(0.0, 1.0), 1 / share


def noised(
    model: Model, frame: Frame, x: Tensor, t: Tensor, noise: Tensor, base: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """ε − ε̂, ε − ε̃ along the axes, (B, D), and ρ, (B, 1), at times t: (B,) for the noise ε: (B, *).

    With a `base`, x is itself of that σ/α, ρ is of what is added, and ε̂ of the sum is that much less: −ρ · score.
    """
    alpha, sigma = model.process.alpha(t), model.process.sigma(t)
    rho = (sigma / alpha).square().sub(base**2).sqrt() if base else sigma / alpha
    noisy = spread(alpha, x) * x + spread(alpha * rho if base else sigma, x) * noise
    estimate = model.predict("noise", noisy, t)
    missed = frame.turn(noise - (spread(rho * alpha / sigma, x) * estimate if base else estimate))
    rho, variance = rho.to(x.device, x.dtype)[:, None], frame.spread**2
    normal = (variance * frame.turn(noise) - rho * (frame.turn(x) - frame.mean)) / (variance + rho**2)
    return missed, normal, rho


def squared_errors(
    model: Model,
    frame: Frame,
    x: Tensor,
    t: Tensor,
    last: Tensor | None,
    generator: torch.Generator | None,
    chunk: int,
    base: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """‖ε − ε̂‖² − ‖ε − ε̃‖², ‖ε − ε̃‖² and its expectation for times t: (B, K), in pieces: (B, K) each, float64.

    Where `last` is true the squares are weighted by h²/s², the decoder's precision in units of 1/ρ².
    """
    at_once = 1 if is_conditioned(model) else max(1, chunk // len(x))  # conditions belong to rows of one batch
    variance, pieces = frame.spread**2, []
    for columns in torch.arange(t.shape[1], device=t.device).split(at_once):
        n = len(columns)
        noise = torch.cat([randn(x.shape, generator, x.device, x.dtype) for _ in range(n)])
        rows = x.repeat(n, *[1] * (x.ndim - 1))
        missed, normal, rho = noised(model, frame, rows, t[:, columns].T.reshape(-1), noise, base)
        total = variance + rho**2
        mean = (variance**2 + rho**2 * (frame.turn(rows) - frame.mean) ** 2) / total**2
        squares = torch.stack([(missed - normal) * (missed + normal), normal**2, mean.expand_as(normal)])
        if last is not None:
            squares = squares * torch.where(last[:, columns].T.reshape(-1, 1), total / variance, 1.0).to(x.dtype)
        pieces.append(squares.double().sum(2).reshape(3, n, len(x)))
    gain, control, mean = torch.cat(pieces, 1).mT
    return gain, control, mean


def share(squares: Tensor, control: Tensor) -> Tensor:
    """How much of the control variate to use, in [0, 1]: (B, K), from the strata on both sides.

    Where the model knows more than the moments, ‖ε − ε̂‖² is smaller than ‖ε − ε̃‖², and so are its fluctuations.
    A draw's own stratum has no say, so that the estimate keeps its expectation.
    """

    def beside(values: Tensor) -> Tensor:
        strata = pad(values.detach().unflatten(1, (-1, 2)).sum(2), (1, 1))
        return (strata[:, :-2] + strata[:, 2:]).repeat_interleave(2, 1)

    base = beside(control)
    return torch.where(base > 0, beside(squares) / base, 1.0).clamp(0.0, 1.0)


def in_pairs(terms: Tensor) -> tuple[Tensor, Tensor]:
    """The standard error of the sum of terms (B, K), two in each stratum, and its degrees of freedom: (B,) each.

    Reference: Satterthwaite (1946); docs/theory, eq. 36.
    """
    squares = terms.detach().unflatten(1, (-1, 2)).diff(dim=2).square().squeeze(2)
    total, fourth = squares.sum(1), squares.square().sum(1)
    return total.sqrt(), torch.where(fourth > 0, 3 * total**2 / fourth - 2, math.inf).clamp_min(1.0)
