"""What torchsde's Euler costs through solve(), against a plain Euler–Maruyama loop, as ratios in one run.

    python experiments/benchmark_solve.py [--device cpu] [--steps 100] [--repeats 9]

Both integrate the reverse SDE of the same model, a few tensor operations (the score of N(0, s² I)), from t = 1 to
0.01 in equal steps, with the same drift and diffusion functions; the loop is what one would write by hand. The two
alternate, and each ratio is of the medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch

from scoresde import VP, Model, Reverse, solve

SHAPES = (
    # batch, dimension, the most that the ratio may be
    (64, 3072, 1.3),
    (64, 2, 3.0),
)


def model() -> Model:
    """The exact noise of N(0, ¼ I) data under VP, in as few operations as it takes."""
    process = VP()

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        decay = torch.exp(-0.1 * t - 9.95 * t * t)  # α²
        return x * ((1 - decay).sqrt() / (1 - 0.75 * decay))[:, None]

    return Model(net, process, "noise")


def loop(dynamics: Reverse, x: torch.Tensor, t0: float, t1: float, steps: int) -> torch.Tensor:
    """Euler–Maruyama as one would write it."""
    h = (t1 - t0) / steps
    for i in range(steps):
        t = t0 + i * h
        noise = math.sqrt(abs(h)) * torch.randn_like(x)
        x = x + h * dynamics.drift(t, x) + dynamics.diffusion(t, x) * noise
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    dynamics = Reverse(model(), 1.0)

    def timed(function) -> float:
        if options.device != "cpu":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        function()
        if options.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    print(f"torch {torch.__version__} on {options.device}, {options.steps} steps, medians of {options.repeats}")
    print(f"{'shape':<12}{'loop, µs/step':>15}{'light':>8}{'interval':>10}{'limit for light':>17}")
    for batch, dim, most in SHAPES:
        x = torch.randn(batch, dim, device=options.device)
        rivals = {
            "loop": lambda x=x: loop(dynamics, x, 1.0, 0.01, options.steps),
            "light": lambda x=x: solve(dynamics, x, 1.0, 0.01, "euler", steps=options.steps),
            "interval": lambda x=x: solve(dynamics, x, 1.0, 0.01, "euler", steps=options.steps, brownian="interval"),
        }
        times: dict[str, list[float]] = {name: [] for name in rivals}
        with torch.no_grad():
            for round_ in range(options.repeats + 1):
                for name, run in rivals.items():
                    spent = timed(run)
                    if round_:  # the first is a warm-up
                        times[name].append(spent)
        middle = {name: statistics.median(values) for name, values in times.items()}
        light, interval = (middle[name] / middle["loop"] for name in ("light", "interval"))
        each = 1e6 * middle["loop"] / options.steps
        print(f"{f'{batch} × {dim}':<12}{each:>15.0f}{light:>8.2f}{interval:>10.2f}{most:>17.1f}")


if __name__ == "__main__":
    main()
