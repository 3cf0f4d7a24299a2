"""Named members of the exponential family: DPM-Solver, DPM-Solver++, DEIS, SA-Solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scoresde.samplers.exponential import Stepper
from scoresde.samplers.noise import Noise
from scoresde.samplers.quadrature import moments


@dataclass(frozen=True)
class DPMSolver(Stepper):
    """DPM-Solver: the exponential stepper in the noise prediction, deterministic. `order` calls a step if singlestep.

    Strong order `order`, but 2 for the published multistep rule of order 3 (docs/theory, eq. 20).

    Args:
        order: 1 to 3. method: "singlestep" or "multistep". rule: "exact" integrals or the "published" ones.
    Raises:
        ValueError: an order outside 1 to 3, an unknown method or rule.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.DPMSolver(), steps=n)) - 2) for n in (40, 80)]
        >>> round(errors[0] / errors[1])  # order 2
        4

    Reference: Lu et al. (2022), arXiv 2206.00927, eq. 3.4, algorithms 1 and 2.
    """

    order: int = 2
    method: Literal["multistep", "singlestep"] = "singlestep"
    rule: Literal["exact", "published"] = "exact"
    prediction = "noise"
    orders = (1, 2, 3)


@dataclass(frozen=True)
class DPMSolverPP(Stepper):
    """DPM-Solver++: the exponential stepper in the data prediction, deterministic or with noise. One call a step.

    Published 2M:  x_s = (σ_s/σ_t) x_t + α_s (1 − e^{−h}) [(1 + 1/(2r)) x̂₀(t) − 1/(2r) x̂₀(before)],  r = h_before/h

    η = 0: strong order `order`, but 2 for the published 3M, whose second difference lacks a factor 2. η > 0: weak
    order 1 for order 1, else 2, by either rule. (diffusers' SDE 3M has a wrong sign besides, in its last coefficient.
    It is not an option here.) Singlestep: `order` calls a step, and order at most 2 if η > 0.

    Args:
        order: 1 to 3. eta: the dial, 0 or more; 1 is Anderson's reverse SDE.
        method: "multistep" or "singlestep". rule: "exact" integrals or the "published" ones.
        noise: "independent" increments, or those of one Brownian "path" a sample.
    Raises:
        ValueError: an order that the method or rule does not have, eta below 0, an unknown method, rule or noise.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, x = targets.Gaussian([1.0], 0.25).model(VP()), torch.ones(1, 1)
        >>> one, two = (sample(model, x=x, sampler=s) for s in (samplers.DPMSolverPP(order=1), samplers.DDIM()))
        >>> torch.allclose(one, two)
        True

    Reference: Lu et al. (2022), arXiv 2211.01095, eq. 9-17, algorithms 1 and 2, app. A and B; docs/theory, eq. 17-22.
    """

    order: int = 2
    eta: float = 0.0
    method: Literal["multistep", "singlestep"] = "multistep"
    rule: Literal["exact", "published"] = "exact"
    noise: Noise = "independent"
    orders = (1, 2, 3)


@dataclass(frozen=True)
class DEIS(Stepper):
    """DEIS in log ρ: the exponential stepper in the noise prediction, multistep, its integrals exact by either rule.

    Strong order `order`. One call a step, and two more on the first step of order 4. As published, the first steps
    are not corrected, which leaves 2 for the orders above in the end, and the last step is DDIM's.

    Args:
        order: 1 to 4. rule: "exact", or "published" starts and ends.
    Raises:
        ValueError: an order outside 1 to 4, an unknown rule.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.DEIS(order=3), steps=n)) - 2) for n in (80, 160)]
        >>> errors[0] / errors[1] > 7  # order 3: twice the steps, an eighth of the error
        True

    Reference: Zhang and Chen (2023), arXiv 2204.13902, eq. 14-15 and sec. 4 (log ρ); docs/theory, eq. 18-19.
    """

    order: int = 3
    rule: Literal["exact", "published"] = "exact"
    prediction = "noise"
    published = 4

    def integrals(self, z: float, n: int) -> tuple[float, ...]:
        return moments(z, n)


@dataclass(frozen=True)
class SASolver(Stepper):
    """SA-Solver: stochastic Adams, predictor and corrector, in the data prediction. One call a step.

    η = 0: strong order min(order + 1, corrector), or `order` without a corrector. η > 0: weak order 2, or 1 if that is.
    The paper's τ is η.

    Args:
        order: 1 to 4, the predictions that the predictor uses. corrector: those that the corrector uses, the new
            one among them; 0 for none. eta: the dial, 0 or more; 1 is Anderson's reverse SDE.
        rule: "exact" integrals or the "published" ones, which differ for two predictions.
        noise: "independent" increments, or those of one Brownian "path" a sample.
    Raises:
        ValueError: an order outside 1 to 4, corrector or eta below 0, an unknown rule or noise.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, generator = targets.Gaussian([1.0], 0.25).model(VP()), torch.Generator().manual_seed(0)
        >>> x = sample(model, (4000, 1), samplers.SASolver(), steps=20, generator=generator)
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)  # of N(1, 1/4)
        (1.0, 0.5)

    Reference: Xue et al. (2023), arXiv 2309.05019, eq. 14-18, algorithm 1; docs/theory, eq. 17-22.
    """

    order: int = 2
    corrector: int = 2
    eta: float = 1.0
    rule: Literal["exact", "published"] = "exact"
    noise: Noise = "independent"

    published = 4

    def integrals(self, z: float, n: int) -> tuple[float, ...]:
        return (moments(z, 1)[0], 0.5) if self.rule == "published" and n == 2 else moments(z, n)
