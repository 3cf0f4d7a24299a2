"""The built-in samplers and the orders that they declare: what `scoresde certify` measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from scoresde.samplers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    ODE,
    PNDM,
    SDE,
    Adams,
    Adaptive,
    AnnealedLangevin,
    DPMSolver,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Exponential,
    FlowSDE,
    Heun,
    LangevinCorrector,
    Midpoint,
    PredictorCorrector,
    Restart,
    Sampler,
    SASolver,
    UniPC,
)
from scoresde.testing.certificate import Certificate, spelled
from scoresde.testing.certify import certify


@dataclass(frozen=True)
class Claim:
    """A sampler (or a function of n), the order it declares, and what else `certify` is told."""

    sampler: Sampler | Callable[[int], Sampler]
    order: float
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.more.get("name") or spelled(self.sampler)

    def certificate(self) -> Certificate:
        return certify(self.sampler, self.order, **self.more)


DDIMS_END = {"leaves": 4e-6}
"""What a last step by DDIM's rule, from σ/α = 0.001 to the data, leaves at any number of steps."""

START = {"most": 512, "note": "of order 3 by its first steps, whose error is small beside the rest"}
HIGHER = {"note": "its error of order 2 is small beside that of order 3"}
SAMPLED = {"most": 64}
"""Where steps remember and draw noise, the mixture's expectations are sampled, and small errors are out of sight."""

RTOL, BIAS = {"kind": "rtol"}, {"kind": "bias"}


def _langevin(predictor: Sampler) -> Callable[[int], Sampler]:
    """Corrector steps as small as the predictor's: of a size that is 0.08/n of the noise's variance."""
    return lambda n: PredictorCorrector(predictor, LangevinCorrector(snr=math.sqrt(0.4 / n)))


def _restart(n: int) -> Restart:
    """A way down whose steps are as small as the grid's."""
    return Restart(low=0.3, repeats=1, inner_steps=n // 4)


CLAIMS = tuple(
    Claim(sampler, order, more)
    for sampler, order, more in (
        (DDIM(),                                                    1, {}),
        (Euler(),                                                   1, {}),
        (Heun(),                                                    2, {}),
        (Midpoint(),                                                2, {}),
        (Adams(2),                                                  2, {}),
        (Adams(3),                                                  3, {}),
        (Adams(4),                                                  4, {}),
        (Adams(5),                                                  5, {}),
        (Exponential("x0", 1),                                      1, {}),
        (Exponential("x0", 2),                                      2, {}),
        (Exponential("x0", 3),                                      3, {}),
        (Exponential("x0", 4),                                      4, {}),
        (Exponential("x0", 2, corrector=3),                         3, {}),
        (Exponential("noise", 3),                                   3, {}),
        (DPMSolver(1),                                              1, {}),
        (DPMSolver(2),                                              2, {}),
        (DPMSolver(3),                                              3, {}),
        (DPMSolver(2, "multistep"),                                 2, {}),
        (DPMSolver(3, "multistep"),                                 3, {}),
        (DPMSolver(2, rule="published"),                            2, {}),
        (DPMSolver(3, rule="published"),                            3, DDIMS_END),
        (DPMSolver(3, "multistep", "published"),                    2, {}),
        (DPMSolverPP(1),                                            1, {}),
        (DPMSolverPP(2),                                            2, {}),
        (DPMSolverPP(3),                                            3, {}),
        (DPMSolverPP(2, method="singlestep"),                       2, {}),
        (DPMSolverPP(3, method="singlestep"),                       3, {}),
        (DPMSolverPP(2, rule="published"),                          2, {}),
        (DPMSolverPP(3, rule="published"),                          2, {}),
        (DEIS(1),                                                   1, {}),
        (DEIS(2),                                                   2, {}),
        (DEIS(3),                                                   3, {}),
        (DEIS(4),                                                   4, {}),
        (SASolver(2, 3, 0.0),                                       3, {}),
        (UniPC(1),                                                  2, {}),
        (UniPC(2),                                                  3, DDIMS_END),
        (UniPC(3),                                                  3, DDIMS_END | START),
        (UniPC(1, "bh1"),                                           2, {}),
        (UniPC(2, "bh1"),                                           3, DDIMS_END),
        (UniPC(3, "bh1"),                                           3, DDIMS_END | START),
        (PNDM(),                                                    2, {}),
        (IPNDM(1),                                                  1, {}),
        (IPNDM(2),                                                  2, {}),
        (IPNDM(4),                                                  2, {}),
        (ODE("euler"),                                              1, {}),
        (ODE("midpoint"),                                           2, {}),
        (ODE("heun3"),                                              3, {}),
        (ODE("rk4"),                                                4, {"ends": 3}),
        (lambda n: Adaptive(1 / n, 1 / n),                          1, RTOL | {"name": "Adaptive(rtol)"}),
        (lambda n: Adaptive(1 / n, 1 / n, 3),                       1, RTOL | {"name": "Adaptive(rtol, order=3)"}),
        (lambda n: ODE("dopri5", 1 / n, 1 / n),                     1, RTOL | {"name": "ODE('dopri5', rtol)"}),
        (EulerMaruyama(),                                           1, {}),
        (EulerMaruyama(0.5),                                        1, {}),
        (FlowSDE(),                                                 1, {}),
        (FlowSDE(order=2),                                          2, {}),
        (FlowSDE("constant", 2),                                    2, {"ends": 1.5}),
        (Heun(churn=4.0),                                           2, {"name": "Heun(churn=4)"}),
        (_restart,                                                  2, {"name": "Restart()", "most": 128}),
        (DDPM(),                                                    1, {}),
        (DDPM("beta"),                                              1, {}),
        (DDIM(0.5),                                                 1, {}),
        (DDIM(1.0),                                                 1, {}),
        (DPMSolverPP(1, 1.0),                                       1, {}),
        (DPMSolverPP(2, 1.0, "singlestep"),                         2, {}),
        (DPMSolverPP(2, 1.0),                                       2, SAMPLED),
        (SASolver(),                                                2, SAMPLED | HIGHER),
        (SDE("euler"),                                              1, {"most": 64, "name": "SDE('euler')"}),
        (SDE("srk"),                                                2, {"most": 64}),
        (_langevin(EulerMaruyama()),                                1, {"name": "PredictorCorrector()"}),
        (_langevin(DDIM()),                                         1, {"name": "PredictorCorrector(DDIM())"}),
        (lambda n: AnnealedLangevin(1, 1 / n),                      1, BIAS | {"name": "AnnealedLangevin(step_size)"}),
        (lambda n: LangevinCorrector(math.sqrt(0.2 / n)),           1, BIAS | {"name": "LangevinCorrector(snr²)"}),
    )
)  # fmt: skip
"""Each row ends up as one of docs/certificates.md. torchdiffeq's explicit_adams and implicit_adams are not among them:
they take every step for equal to the last, and lose their order on grids that are not uniform in t."""

QUICK = {
    "DDIM()", "Heun()", "Adams(3)", "Exponential(order=3)", "UniPC(2)", "PNDM()", "EulerMaruyama()", "DDPM()",
    "LangevinCorrector(snr²)",
}  # fmt: skip
"""The rows of `scoresde certify --quick`."""


def chosen(only: str | None = None, quick: bool = False) -> list[Claim]:
    """The rows to certify: all, the quick ones, or those called `only`, as printed or by the sampler's class.

    Raises:
        ValueError: no row is called that.
    """
    if only is None:
        return [row for row in CLAIMS if not quick or row.name in QUICK]
    wanted, families = only.lower(), {row.name.split("(")[0].lower(): row.name.split("(")[0] for row in CLAIMS}
    mine = [row for row in CLAIMS if wanted in (row.name.lower(), row.name.split("(")[0].lower())]
    if not mine:
        close = get_close_matches(wanted, families, n=1, cutoff=0.4)
        hint = f" Did you mean {families[close[0]]!r}?" if close else ""
        raise ValueError(f"unknown sampler {only!r}; known: {', '.join(families.values())}.{hint}")
    return mine
