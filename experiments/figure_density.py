"""The figure of a trained model's log-density beside the exact one, with the error in nats.

    python experiments/figure_density.py [--device cpu] [--steps 3000] [--cells 150] [--out docs/figures/density.png]

A multilayer perceptron is trained on draws of a mixture whose density is known; `log_prob` answers on a grid. The
mean error under the mixture itself is printed, in nats: its mean is the Kullback–Leibler divergence.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from targets_likelihood import mixture
from torch import Tensor

from scoresde import Model, RectifiedFlow, fit, log_prob, networks
from scoresde.targets import Target

EXTENT = (-2.6, 3.2, -3.2, 2.2)
DEPTH = 8.0
"""Nats below the highest log-density that are shown."""

LARGEST = 0.5
"""The error at the ends of its scale, in nats."""

TOLERANCE = 0.01
"""Of log_prob, in nats: less than a colour."""

FASTEST = 20.0
"""Of the time embedding's frequencies: faster ones would be noise in time, which log_prob must follow."""


def trained(target: Target, steps: int, device: str = "cpu", width: int = 128) -> Model:
    """A model of fresh draws of the target."""
    torch.manual_seed(0)
    process = RectifiedFlow()
    net = networks.Scaled(networks.MLP(2, width), process).to(device)
    net.net.embedding[0].frequencies.clamp_(max=FASTEST)  # pyright: ignore
    draw = lambda n, generator: target.sample(n, generator).float()  # noqa: E731
    source = torch.Generator(device).manual_seed(0)
    model = Model(net, process, "velocity")
    for record in fit(model, draw, steps, batch_size=512, lr=2e-3, ema=0.998, generator=source):
        model = record.model
    model.net.requires_grad_(False).eval()  # pyright: ignore[reportAttributeAccessIssue]
    return replace(model, moments=target.moments)


def on_grid(model: Model, target: Target, cells: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Log-densities of the model and of the target at the cells' centres: (cells, cells) each, rows along y."""
    left, right, bottom, top = EXTENT
    place = (torch.arange(cells, dtype=torch.float64, device=device) + 0.5) / cells
    y, x = torch.meshgrid(bottom + (top - bottom) * place, left + (right - left) * place, indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2)
    values = log_prob(model, points.float(), tolerance=TOLERANCE).value.double()
    return values.reshape(cells, cells).cpu(), target.log_prob(points).reshape(cells, cells).cpu()


def draw(model: Tensor, exact: Tensor, out: Path) -> None:
    """Three panels: exact, model, and the model less exact where the exact is within DEPTH of its highest."""
    figure = Figure(figsize=(9.6, 3.15), dpi=100, layout="constrained")
    axes = figure.subplots(1, 3)
    high = float(exact.max())
    levels = np.arange(math.floor(high) - DEPTH, high + 1, 2)
    for axis, values, title in ((axes[0], exact, "exact"), (axes[1], model, "log_prob of the trained model")):
        shown = values.clamp_min(high - 1.5 * DEPTH).numpy()
        image = axis.imshow(shown, origin="lower", extent=EXTENT, cmap="viridis", vmin=high - DEPTH, vmax=high)
        axis.contour(shown, levels, extent=EXTENT, colors="white", linewidths=0.6, linestyles="solid", alpha=0.8)
        dress(axis, title)
    bar = figure.colorbar(image, ax=axes[:2], shrink=0.9, pad=0.02, extend="min")
    bar.set_label("log-density, nats", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    error = (model - exact).masked_fill(exact < high - DEPTH, math.nan).numpy()
    image = axes[2].imshow(error, origin="lower", extent=EXTENT, cmap="RdBu_r", vmin=-LARGEST, vmax=LARGEST)
    shown = exact.clamp_min(high - 1.5 * DEPTH).numpy()
    axes[2].contour(shown, levels, extent=EXTENT, colors="0.5", linewidths=0.5, linestyles="solid")
    dress(axes[2], "model − exact")
    bar = figure.colorbar(image, ax=axes[2], shrink=0.9, pad=0.02, extend="both")
    bar.set_label("error, nats", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)


def dress(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xticks(range(-2, 4))
    axis.set_yticks(range(-3, 3))
    axis.tick_params(labelsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--cells", type=int, default=150, help="of the grid, a side")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/density.png"))
    options = parser.parse_args()
    start, target = time.perf_counter(), mixture().to(options.device)
    model = trained(target, options.steps, options.device)
    x = target.sample(2000, torch.Generator(options.device).manual_seed(1)).float()
    result = log_prob(model, x, tolerance=TOLERANCE)
    error = result.value.double() - target.log_prob(x.double())
    chance = float(error.std()) / math.sqrt(len(x))
    print(f"KL(exact ‖ model) = {-error.mean():.4f} ± {chance:.4f} nats, mean |error| {error.abs().mean():.3f},")
    print(f"of which the solver's {result.error.mean():.5f} in {result.nfe} calls", flush=True)
    draw(*on_grid(model, target, options.cells, options.device), options.out)
    size = options.out.stat().st_size / 1000
    print(f"written to {options.out} ({size:.0f} kB) after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
