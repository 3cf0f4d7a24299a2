"""What a step of training costs: `fit`, and losses of ours and of other packages, beside a loop written by hand.

    python experiments/benchmark_training.py [--device cpu] [--clock wall|cpu] [--rounds 50] [--block 4] [--threads 1]

The loop by hand does the work that `fit` does by default, and no more: a random batch from a tensor in memory, noise,
stratified noise levels, α and σ of VP in closed form, the squared error of v, its gradient clipped to norm 1, fused
Adam with a rate that rises and falls, and an average of the weights. The losses of others run in the same loop, with
the same network. All train copies of their own, a block of steps in turn, the loop by hand before and after each;
a ratio is that of a block's time to the mean of those two. "by hand, again" is the same loop once more: what it shows
beside 1 is the noise of the machine. "of leasts" is the ratio of its quickest block to that of as many by hand.
Where others use the machine as well, `--clock cpu` counts this process's own seconds (with one thread the same).
Peers are optional: pip install "scoresde[bench]" denoising-diffusion-pytorch.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn

from scoresde import VP, Model, fit, loss, networks

Loss = Callable[[Tensor], Tensor]  # x0: (B, *) -> ()

NETWORKS = {
    # network, batch
    "MLP, batch 128": (lambda: networks.MLP((1, 8, 8)), 128),
    "MLP, batch 256": (lambda: networks.MLP((1, 8, 8)), 256),
    "U-Net, batch 32": (lambda: networks.UNet((1, 28, 28), width=16), 32),
}
SAMPLES = 2000
RATE, DECAY, CLIP = 1e-3, 0.999, 1.0  # the defaults of fit
GOAL = 1.05
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def loop(
    net: nn.Module, data: Tensor, steps: int, batch: int, of: Callable[[nn.Module], Loss]
) -> Iterator[tuple[Tensor, nn.Module]]:
    """The loop by hand, around the loss `of` a network: a step each time that it is asked for its next loss and the
    network with averaged weights.
    """
    value, average = of(net), deepcopy(net).requires_grad_(False)
    weights, averages = list(net.parameters()), list(average.parameters())
    optimizer = torch.optim.Adam(weights, lr=RATE, fused=True)
    rows = torch.empty(0, dtype=torch.int64, device=data.device)
    for step in range(1, steps + 1):
        while len(rows) < batch:
            seed = int(torch.randint(2**62, ()))
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
            rows = torch.cat([rows, order.to(data.device)])
        x0, rows = data[rows[:batch]], rows[batch:]
        each = value(x0)
        optimizer.zero_grad()
        each.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        rate = RATE * min(step / max(1, steps // 20), 0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - min(DECAY, step / (9 + step)))
        yield each.detach(), average


def by_hand(net: nn.Module, first: float = 0.1, last: float = 20.0) -> Loss:
    """‖v − net(α x₀ + σ ε, t)‖²/D with α² = e^{−B}, B = β₀ t + (β₁ − β₀) t²/2, at n equal steps of σ/(α + σ)."""
    top = math.sqrt(math.expm1((first + last) / 2))
    low, high = 1e-3 / (1 + 1e-3), top / (1 + top)
    steps = {}

    def value(x0: Tensor) -> Tensor:
        n, noise = len(x0), torch.randn_like(x0)
        if n not in steps:
            steps[n] = torch.arange(n, device=x0.device, dtype=x0.dtype) / n
        level = low + (high - low) * torch.frac(steps[n] + torch.rand((), device=x0.device, dtype=x0.dtype))
        rho = level / (1 - level)
        integral = torch.log1p(rho * rho)
        t = 2 * integral / (first + torch.sqrt(first**2 + 2 * (last - first) * integral))
        alpha = torch.exp(-0.5 * integral)
        sigma = (rho * alpha).view(-1, 1, 1, 1)
        alpha = alpha.view(-1, 1, 1, 1)
        return nn.functional.mse_loss(net(alpha * x0 + sigma * noise, t), alpha * noise - sigma * x0)

    return value


def ours(net: nn.Module) -> Loss:
    model = Model(net, VP(), "v")
    return lambda x0: loss(model, x0).mean()


def diffusers(prediction: str) -> Callable[[nn.Module], Loss]:
    """As in its examples of training: uniform indices, add_noise, get_velocity, mse_loss."""
    from diffusers import DDPMScheduler

    def of(net: nn.Module) -> Loss:
        scheduler = DDPMScheduler(prediction_type=prediction)
        length = scheduler.config["num_train_timesteps"]

        def value(x0: Tensor) -> Tensor:
            noise = torch.randn_like(x0)
            t = torch.randint(0, length, (len(x0),), device=x0.device)
            x: Any = scheduler.add_noise(x0, noise, t)  # pyright: ignore[reportArgumentType]
            y: Any = noise
            if prediction == "v_prediction":
                y = scheduler.get_velocity(x0, noise, t)  # pyright: ignore[reportArgumentType]
            return nn.functional.mse_loss(net(x, t / length), y)

        return value

    return of


@cache
def gaussian_diffusion() -> Any:
    """denoising-diffusion-pytorch's class."""
    try:
        from denoising_diffusion_pytorch import GaussianDiffusion
    except RuntimeError as error:  # a torchvision that does not match torch; the loss does without it
        print(f"denoising-diffusion-pytorch: without torchvision, which does not load ({error})")
        with patch.dict(sys.modules, {"torchvision": MagicMock()}):
            from denoising_diffusion_pytorch import GaussianDiffusion
    return GaussianDiffusion


def denoising_diffusion() -> Callable[[nn.Module], Loss]:
    kind = gaussian_diffusion()

    class Adapted(nn.Module):
        """A network with the attributes that the package asks for."""

        channels, out_dim, self_condition = 1, 1, False

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            return self.net(x, t / 1000)

    def of(net: nn.Module) -> Loss:
        size = net.shape[-1]  # pyright: ignore
        diffusion = kind(Adapted(net), image_size=size, auto_normalize=False)  # v, and 1000 indices, by default
        return diffusion.to(next(net.parameters()).device)

    return of


def azula(kind: str) -> Callable[[nn.Module], Loss]:
    from azula import denoise
    from azula.noise import VPSchedule

    def of(net: nn.Module) -> Loss:
        denoiser = getattr(denoise, kind)(net, VPSchedule())
        return lambda x0: denoiser.loss(x0, torch.rand(len(x0), device=x0.device))

    return of


RIVALS: dict[str, Callable[[], Callable[[nn.Module], Loss]]] = {
    "by hand, again":                   lambda: by_hand,
    "scoresde loss":                    lambda: ours,
    "diffusers, noise":                 lambda: diffusers("epsilon"),
    "diffusers, v":                     lambda: diffusers("v_prediction"),
    "denoising-diffusion-pytorch, v":   denoising_diffusion,
    "azula SimpleDenoiser":             lambda: azula("SimpleDenoiser"),
    "azula KarrasDenoiser":             lambda: azula("KarrasDenoiser"),
}  # fmt: skip


def losses() -> tuple[dict[str, Callable[[nn.Module], Loss]], dict[str, str]]:
    """The losses that are installed, and why the others are not there."""
    found, missing = {}, {}
    for name, build in RIVALS.items():
        try:
            found[name] = build()
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return found, missing


def timer(device: str, clock: str) -> Callable[[Iterator[Any], int], float]:
    """(training, steps) -> seconds a step, on the device too."""
    now = CLOCKS[clock]

    def timed(training: Iterator[Any], steps: int) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        begun = now()
        for _ in range(steps):
            next(training)
        if device != "cpu":
            torch.cuda.synchronize()
        return (now() - begun) / steps

    return timed


def measure(name: str, device: str = "cpu", clock: str = "wall", rounds: int = 50, block: int = 4) -> list[dict]:
    """One row for each: seconds a step, in the median, and the ratios to the loop by hand."""
    torch.manual_seed(0)
    build, batch = NETWORKS[name]
    net = build().to(device)
    data = torch.rand(SAMPLES, *net.shape, device=device) * 2 - 1
    found, _ = losses()
    steps = (2 + (len(found) + 2) * rounds) * block

    def training(of: Callable[[nn.Module], Loss]) -> Iterator[Any]:
        return loop(deepcopy(net), data, steps, batch, of)

    hand = training(by_hand)
    rivals = {"scoresde fit": fit(Model(deepcopy(net), VP(), "v"), data, steps, batch_size=batch)}
    rivals |= {key: training(of) for key, of in found.items()}
    timed = timer(device, clock)
    for each in (hand, *rivals.values()):
        timed(each, block)
    spent: dict[str, list[float]] = {key: [] for key in ("by hand", *rivals)}
    ratios: dict[str, list[float]] = {key: [] for key in rivals}
    beside: dict[str, list[float]] = {key: [] for key in rivals}
    for _ in range(rounds):
        before = timed(hand, block)
        for key, rival in rivals.items():
            spent[key].append(timed(rival, block))
            after = timed(hand, block)
            spent["by hand"].append(after)
            beside[key].append(after)
            ratios[key].append(2 * spent[key][-1] / (before + after))
            before = after
    ratios, beside = {"by hand": [1.0], **ratios}, {"by hand": spent["by hand"], **beside}
    return [
        {
            "network": name, "device": device, "clock": clock, "training": key,
            "seconds": statistics.median(spent[key]), "ratio": statistics.median(values),
            "least": min(values), "largest": max(values), "of_leasts": min(spent[key]) / min(beside[key]),
        }
        for key, values in ratios.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--block", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/training.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__} on {options.device}, {options.threads} thread(s), {options.clock} time, "
        f"{options.rounds} rounds of {options.block} steps each; goal of fit: {GOAL}"
    )
    for name, why in losses()[1].items():
        print(f"{name}: {why}")
    rows = []
    for name in options.networks:
        found = measure(name, options.device, options.clock, options.rounds, options.block)
        rows += found
        print(f"\n{name:<32}{'ms a step':>10}{'median':>9}{'least':>9}{'largest':>9}{'of leasts':>11}")
        for row in found:
            print(
                f"{row['training']:<32}{1e3 * row['seconds']:>10.3f}{row['ratio']:>9.3f}{row['least']:>9.3f}"
                f"{row['largest']:>9.3f}{row['of_leasts']:>11.3f}"
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
