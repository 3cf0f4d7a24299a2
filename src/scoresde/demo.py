"""The main job in small: swap the SDE, train, sample by an ODE and an SDE, and compute a likelihood, on real digits."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde import plots
from scoresde.data import dequantize, dequantized, digits
from scoresde.likelihood import bits_per_dim
from scoresde.metrics import sliced_wasserstein
from scoresde.model import Count, Model
from scoresde.networks import MLP, Scaled
from scoresde.process import VE, VP, RectifiedFlow, SubVP
from scoresde.samplers import SDE, Adams, Sampler, sample
from scoresde.training import fit

LEVELS = 17
STEPS = 4000

MODELS = (
    # process        prediction    bits/dim on held-out digits, with STEPS = 4000
    (VP(),            "v"),  #        2.36
    (SubVP(),         "v"),  #        2.37
    (VE(),            "noise"),  #    2.54
    (RectifiedFlow(), "velocity"),  # 2.30
)  # fmt: skip

SAMPLERS: tuple[tuple[str, Sampler, int], ...] = (
    ("ODE Adams", Adams(), 20),
    ("SDE Euler–Maruyama", SDE("euler"), 100),
)


@dataclass(frozen=True)
class Row:
    """One line of the table; its names are the CSV's header."""

    process: str
    prediction: str
    sampler: str
    nfe: int
    sliced_wasserstein: float
    bits_per_dim: float
    bits_per_dim_standard_error: float


def run(
    out: Path, device: torch.device | None = None, steps: int = STEPS, samples: int = 1000, held_out: int = 297,
    quiet: bool = False,
) -> list[Row]:  # fmt: skip
    """Train, sample and score every model; write table.csv, samples.png and losses.png into `out`."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    train, held = (x.to(device) for x in digits(held_out))
    truth = dequantize(held, LEVELS, generator=torch.Generator().manual_seed(1))
    real = dequantize(train[:samples], LEVELS, generator=torch.Generator().manual_seed(2))
    rows, pictures, curves = [], {"real": truth[:16]}, {}
    print(f"{len(train)} digits to train on, {len(held)} held out, on {device}", flush=True)
    for process, prediction in MODELS:
        name = type(process).__name__
        torch.manual_seed(0)
        net = Scaled(MLP((8, 8)), process, scale=float(real.std())).to(device)
        model, curves[f"{name}, {prediction}"] = _train(Model(net, process, prediction), train, steps, name, quiet)
        source = torch.Generator().manual_seed(3)
        bits = bits_per_dim(model, held, LEVELS, steps=16, generator=source)
        for label, sampler, n in SAMPLERS:
            count = Count()
            x = sample(model.wrap(count), (samples, 8, 8), sampler, n, seeds=range(samples))
            pictures[f"{name}\n{label.split()[0]}"] = x[:16]
            distance = sliced_wasserstein(x, truth)
            rows.append(Row(name, prediction, label, count.calls, distance, bits.value, bits.standard_error))
    floor = sliced_wasserstein(real, truth)
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    plots.images(pictures, out / "samples.png", title="Handwritten digits: real, and sampled by each process")
    plots.losses(curves, out / "losses.png", ylabel="loss, over the target's scale")
    print("\n" + table(rows, floor, len(real), len(held), steps))
    print(f"\n{time.monotonic() - begun:.0f} s; wrote table.csv, samples.png and losses.png to {out}/")
    return rows


def _train(model: Model, data: Tensor, steps: int, name: str, quiet: bool) -> tuple[Model, list[float]]:
    values: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    records = fit(model, dequantized(data, LEVELS), steps, batch_size=128, lr=2e-3, generator=generator)
    bar = tqdm(records, total=steps, desc=f"{name:>13}, {model.prediction:<8}", disable=quiet or None, mininterval=0.5)
    for record in bar:
        values.append(record.loss)
        if record.step % 100 == 0:
            bar.set_postfix(loss=f"{record.loss:.3f}", refresh=False)
        model = record.model
    return model, torch.stack(values).tolist()


def table(rows: list[Row], floor: float, real: int, held: int, steps: int) -> str:
    """The table as text."""
    head = f"{'process':<14}{'prediction':<12}{'sampler':<20}{'NFE':>5}{'sliced W':>10}{'bits/dim':>18}"
    lines = [head, "─" * len(head)]
    for row in rows:
        error = row.bits_per_dim_standard_error
        bits = f"{row.bits_per_dim:.3f} ± {error:.3f}" if math.isfinite(error) else f"{row.bits_per_dim:.3f}"
        lines.append(
            f"{row.process:<14}{row.prediction:<12}{row.sampler:<20}{row.nfe:>5}{row.sliced_wasserstein:>10.3f}{bits:>18}"
        )
    return "\n".join([
        *lines, "─" * len(head),
        f"sliced W: sliced Wasserstein distance to the {held} held-out digits ({real} real ones: {floor:.3f})",
        f"bits/dim: on the held-out digits, ± one standard error ({LEVELS} levels, guessed: {math.log2(LEVELS):.3f})",
        f"training: {steps} steps each",
    ])  # fmt: skip
