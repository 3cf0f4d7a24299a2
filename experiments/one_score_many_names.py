"""One network, trained once: five names for what it says, five processes to sample it along, ten samplers.

A network that has learned v on VP is asked for the noise, the score, x₀, v or the velocity, all the same answer in
other words, and sampled along VP, sub-VP, VE, EDM and rectified flow, all the same flow in other coordinates: with
ρ = σ/α and y = x/α every process has dy/dρ = ε, and x₀ at equal ρ is the same. So, from the same start (and with the
same noise),

1. the prediction changes nothing but rounding, for any sampler, process and number of steps;
2. the process changes nothing but rounding for samplers that step in ρ; those that step in t have other errors on every
   process, which vanish as the steps do, so that all end at the same points (on EDM, whose time is ρ, and on rectified
   flow Euler's method is DDIM);
3. stochastic samplers end at other points than the flow, but in the same law.

Left: how far each sampler ends from where it ends on VP, in 20 steps. Middle: how far from the flow's own end, in ever
more steps. Right: the energy distance of what is sampled to the data, with two standard errors.

    python experiments/one_score_many_names.py [--out runs/figures] [--device cpu] [--quick]

References: Kingma et al. (2021), arXiv 2107.00630, sec. 3 (equivalence of processes); Karras et al. (2022), 2206.00364,
sec. 2; Salimans and Ho (2022), 2202.00512 (v); Song et al. (2021), 2011.13456.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lesson
import torch
from torch import Tensor

from scoresde import EDM, VE, VP, Model, Process, RectifiedFlow, SubVP, fit, metrics, networks, sample, targets
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import DDIM, DDPM, DEIS, Adams, DPMSolverPP, Euler, EulerMaruyama, Heun, Sampler, SASolver, UniPC

STEPS, BATCH, WIDTH, LR = 3000, 256, 96, 2e-3
POINTS, SAMPLES, FINE = 64, 1200, 800
FIRST, LAST = 40.0, 0.005  # σ/α at the start and at the end
FEW, MANY, SWEEP = 20, 80, (10, 20, 40, 80, 160, 320)
NAMES = ("noise", "score", "x0", "v", "velocity")
PROCESSES: dict[str, Process] = {
    "VP": VP(), "sub-VP": SubVP(), "VE": VE(0.002, 50.0), "EDM": EDM(), "rectified": RectifiedFlow(),
}  # fmt: skip
IN_RATIO: dict[str, Sampler] = {
    "Adams": Adams(), "DDIM": DDIM(), "DPM-Solver++": DPMSolverPP(3), "DEIS": DEIS(), "UniPC": UniPC(),
}  # fmt: skip
IN_TIME: dict[str, Sampler] = {"Euler": Euler(), "Heun": Heun()}
STOCHASTIC: dict[str, Sampler] = {"DDPM": DDPM(), "SA-Solver": SASolver(), "Euler–Maruyama": EulerMaruyama()}
ROUNDING, MARKERS = 1e-12, ("o", "s", "^", "D", "v")
SAMPLERS = IN_RATIO | IN_TIME | STOCHASTIC


@dataclass(frozen=True)
class Result:
    """Distances of y = x/α at the last σ/α, root mean square over the points.

    Args:
        few: steps of the first two. names: sampler → the largest of all predictions and processes from v's on the same
            process. processes: sampler → process → from VP's. ends: sampler → process → steps → from the flow's own
            end. laws: sampler → process → energy distance to the data.
    """

    few: int
    names: dict[str, float]
    processes: dict[str, dict[str, float]]
    ends: dict[str, dict[str, dict[int, float]]]
    laws: dict[str, dict[str, metrics.Estimate]]


def mixture() -> targets.GaussianMixture:
    """Three modes in the plane."""
    return targets.GaussianMixture([0.2, 0.3, 0.5], [[-1.2, 0.0], [1.1, 0.7], [0.2, -1.1]], 0.25**2)


def trained(steps: int, device: str) -> Model:
    """The one network, made to compute in float64, so that rounding is far below everything else."""
    torch.manual_seed(0)
    net = networks.MLP(2, width=WIDTH, highest=32.0).to(device)
    data = mixture().sample(20_000, torch.Generator().manual_seed(0)).float()
    *_, last = fit(
        Model(net, VP(), "v"), data, steps, batch_size=BATCH, lr=LR, generator=torch.Generator().manual_seed(0)
    )
    return replace(last.model, net=last.model.net.double())


def read(model: Model, name: str) -> Model:
    """The same model as one whose network predicts `name`."""
    return Model(partial(model.predict, name), model.process, name, model.moments)


def grid(process: Process, steps: int) -> Tensor:
    """Times at the same σ/α on every process, in equal steps of its seventh root."""
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ratio = ((1 - share) * FIRST ** (1 / 7) + share * LAST ** (1 / 7)) ** 7
    return process.time(-2 * ratio.log())


def start(n: int, seed: int, device: str) -> Tensor:
    """y = x/α at the first σ/α, normal with the moments that it has: (n, 2)."""
    mean, covariance = mixture().moments
    root = torch.linalg.cholesky(covariance + FIRST**2 * torch.eye(2, dtype=torch.float64))
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + z @ root.mT).to(device)


def drawn(model: Model, process: Process, sampler: Sampler, steps: int, y: Tensor) -> Tensor:
    """y at the last σ/α, from y at the first; the noise of stochastic samplers is the same in every call."""
    times, source = grid(process, steps), torch.Generator(y.device).manual_seed(7)
    x = process.at("alpha", float(times[0])) * y
    x = sample(model.on(process), x=x, sampler=sampler, grid=times, generator=source)
    return x / process.at("alpha", float(times[-1]))


def rms(gap: Tensor) -> float:
    return float(gap.square().sum(-1).mean().sqrt())


def measure(quick: bool, device: str) -> Result:
    model = trained(STEPS // 20 if quick else STEPS, device)
    few, many, sweep, count = (FEW // 4, MANY // 4, SWEEP[:3], SAMPLES // 6) if quick else (FEW, MANY, SWEEP, SAMPLES)
    y, names, processes = start(POINTS // 4 if quick else POINTS, 1, device), {}, {}
    for kind, sampler in SAMPLERS.items():
        own = {name: drawn(model, process, sampler, few, y) for name, process in PROCESSES.items()}
        processes[kind] = {name: rms(points - own["VP"]) for name, points in own.items()}
        names[kind] = max(
            rms(drawn(read(model, name), process, sampler, few, y) - own[where])
            for name in NAMES for where, process in PROCESSES.items()
        )  # fmt: skip
    truth, ends = drawn(model, VP(), Adams(), FINE // 8 if quick else FINE, y), {}
    for kind in ("Adams", "DDIM", *IN_TIME):
        for name in PROCESSES if kind in IN_TIME else ("VP",):
            found = {n: rms(drawn(model, PROCESSES[name], SAMPLERS[kind], n, y) - truth) for n in sweep}
            ends.setdefault(kind, {})[name] = found
    exact, source = mixture().marginal(EDM(), LAST), torch.Generator().manual_seed(2)
    real, other = exact.sample(2 * count, source).double(), exact.sample(count, source).double()
    y, laws, floor = start(count, 3, device), {}, None
    for kind in ("Adams", *STOCHASTIC):
        for name, process in PROCESSES.items():
            points = drawn(model, process, SAMPLERS[kind], many, y).cpu()
            law = metrics.measure("energy_distance", points, real, other, floor=floor)
            laws.setdefault(kind, {})[name], floor = law, (law.floor, law.floor_error)
    return Result(few, names, processes, ends, laws)


def same(result: Result) -> list[str]:
    """The samplers that end at the same points on every process, to rounding."""
    return [kind for kind, row in result.processes.items() if max(row.values()) < ROUNDING]


def table(result: Result) -> str:
    others, steps = list(PROCESSES)[1:], list(result.ends["Euler"]["VP"])
    apart = [
        [kind, f"{result.names[kind]:.0e}", *(f"{result.processes[kind][name]:.0e}" for name in others)]
        for kind in SAMPLERS
    ]
    far = [
        [f"{kind}, {name if kind in IN_TIME else 'any'}", *(f"{value:.1e}" for value in found.values())]
        for kind, row in result.ends.items() for name, found in row.items()
    ]  # fmt: skip
    laws = [
        [kind, *(f"{e.value:.4f} ± {e.standard_error:.4f}" for e in row.values())] for kind, row in result.laws.items()
    ]
    every = [law for row in result.laws.values() for law in row.values()]
    beyond = max((law.value - law.floor) / math.hypot(law.standard_error, law.floor_error) for law in every)
    last = max(found[steps[-1]] for kind in IN_TIME for found in result.ends[kind].values())
    return "\n".join([
        f"Distance of the ends in {result.few} steps, root mean square: between predictions at most, and from VP's",
        lesson.rows(("", "predictions", *others), apart),
        "",
        "Distance to the flow's own end, in so many steps",
        lesson.rows(("", *map(str, steps)), far),
        "",
        f"Energy distance to the data (of other data: {every[0].floor:.4f} ± {every[0].floor_error:.4f})",
        lesson.rows(("", *PROCESSES), laws),
        "",
        f"{len(NAMES)} predictions, {len(PROCESSES)} processes, {len(SAMPLERS)} samplers: a prediction's name changes "
        f"{max(result.names.values()):.0e} at most;",
        f"the process changes nothing but rounding (below {ROUNDING:.0e}) for {', '.join(same(result))};",
        f"Euler and Heun end within {last:.1g} of the flow's end in {steps[-1]} steps, and nearer in more;",
        f"no law is further from the data than other data by more than {beyond:.1f} standard errors.",
    ])  # fmt: skip


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 4.2, theme)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
    for i, kind in enumerate(SAMPLERS):
        left.plot(result.names[kind], -i, "|", color=theme.ink, markersize=9, label="predictions" if i == 0 else None)
        for color, marker, name in zip(COLORS[1:], MARKERS[1:], list(PROCESSES)[1:]):
            value = max(result.processes[kind][name], 1e-16)
            left.plot(value, -i, marker, color=color, markersize=5, label=name if i == 0 else None, mew=0)
    left.set_yticks([-i for i in range(len(SAMPLERS))], list(SAMPLERS))
    left.set(
        xscale="log",
        xlim=(1e-16, 10),
        xlabel=f"distance from VP's end, from v's (bars)\nin {result.few} steps",
        xticks=[1e-15, 1e-10, 1e-5, 1],
    )
    for color, marker, name in zip(COLORS, MARKERS, PROCESSES):
        for kind, style in zip(IN_TIME, STYLES):
            look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 3, "linewidth": 1.1}
            middle.plot(*zip(*result.ends[kind][name].items()), linestyle=style, mew=0, **look)
    for kind in ("DDIM", "Adams"):
        found = result.ends[kind]["VP"]
        middle.plot(*zip(*found.items()), color=theme.ink, linewidth=2, linestyle=":" if kind == "DDIM" else "-")
    middle.set(
        xscale="log", yscale="log", xlabel="steps\nsolid: Euler, dashed: Heun\nthick: DDIM (dotted), Adams (on any)"
    )
    middle.set_ylabel("distance to the flow's end")
    middle.set_xticks(SWEEP, map(str, SWEEP))
    middle.set_xticks([], minor=True)
    first = next(iter(next(iter(result.laws.values())).values()))
    band = (first.floor - 2 * first.floor_error, first.floor + 2 * first.floor_error)
    right.axvspan(*band, color=theme.faint, alpha=0.25, linewidth=0)
    for i, row in enumerate(result.laws.values()):
        for j, (color, marker, law) in enumerate(zip(COLORS, MARKERS, row.values())):
            look = {"color": color, "fmt": marker, "markersize": 4.5, "linewidth": 1.2}
            right.errorbar(law.value, -i + 0.3 - 0.15 * j, xerr=2 * law.standard_error, **look)
    right.set_yticks([-i for i in range(len(result.laws))], list(result.laws))
    right.set(xlabel="energy distance ± 2 std. errors\nband: other data's")
    handles = [
        left.plot([], [], marker, color=color, label=name, mew=0)[0]
        for color, marker, name in zip(COLORS, MARKERS, PROCESSES)
    ]
    handles += [left.plot([], [], "|", color=theme.ink, markersize=9, label="other predictions")[0]]
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=6, fontsize=8.5, frameon=False)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    for axis, title in ((left, "the same end"), (middle, "or in ever more steps"), (right, "or the same law")):
        axis.set_title(title, fontsize=9.5)
        axis.xaxis.label.set_size(8.5)
        axis.yaxis.label.set_size(8.5)
        dress(axis, theme)
    return figure


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
