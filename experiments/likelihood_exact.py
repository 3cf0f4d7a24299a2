"""log_prob against the exact density of a 2-D mixture, for every process: mean and largest error in nats/dim.

python experiments/likelihood_exact.py [--device cpu] [--points 500]
"""

from __future__ import annotations

import argparse

import torch

from scoresde import EDM, VE, VP, Cosine, RectifiedFlow, Sigmoid, SubVP, ddpm, log_prob, targets
from scoresde.samplers import ODE, Adams

PROCESSES = (VP(), SubVP(), VE(), EDM(), Cosine(), Sigmoid(), RectifiedFlow(), ddpm())
SOLVERS = (
    # solver, steps
    (Adams(), 20),
    (Adams(), 40),
    (Adams(), 80),
    (ODE("dopri5", 1e-7, 1e-7), 1),
)


def mixture() -> targets.GaussianMixture:
    """Three modes with standard deviations from 0.14 to 0.33."""
    covariances = torch.tensor(
        [[[0.04, 0.0], [0.0, 0.04]], [[0.09, 0.03], [0.03, 0.05]], [[0.06, -0.04], [-0.04, 0.06]]]
    )
    return targets.GaussianMixture([0.2, 0.3, 0.5], [[-1.5, 0.0], [1.5, 0.8], [0.3, -1.5]], covariances.double())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--points", type=int, default=500)
    options = parser.parse_args()
    target = mixture().to(options.device)
    x = target.sample(options.points, torch.Generator(options.device).manual_seed(0)).double()
    exact = target.log_prob(x)
    print(f"{'process':<15}{'solver':<13}{'steps':>6}{'NFE':>6}{'mean error':>12}{'largest':>10}{'its estimate':>14}")
    for process in PROCESSES:
        for solver, steps in SOLVERS:
            result = log_prob(target.model(process), x, steps, solver=solver)
            error = (result.value - exact).abs() / target.dim
            name = type(solver).__name__ if isinstance(solver, Adams) else f"{solver.method} {solver.rtol:g}"
            print(
                f"{type(process).__name__:<15}{name:<13}{steps if isinstance(solver, Adams) else '-':>6}{result.nfe:>6}"
                f"{error.mean():>12.1e}{error.max():>10.1e}{(result.error / target.dim).mean():>14.1e}"
            )


if __name__ == "__main__":
    main()
