"""The default of `sample` beside every deterministic sampler of diffusers, k-diffusion and azula, in one run.

    python experiments/benchmark_samplers.py [--process vp|edm|flow] [--targets mixture digits …] [--learned]
        [--starts 512] [--nfe 5 8 10 15 20 30 50 100] [--device cpu] [--out runs/benchmark]

The error is that of the endpoint, RMSE a dimension, against the probability-flow ODE of the same model solved in
float64 down to σ = 0, from the same x_T; "best peer" is the best of all configurations, chosen anew for every cell.
Calls are counted at the network. Besides the root of the mean square over starts, the mean and the median of the
starts' errors are reported (a few starts that end in another mode can carry a mean square). The default was chosen
on the targets marked "tuning"; the others, and their starts, were not looked at. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import learned_networks
import peers

from scoresde import EDM, Model, Process, RectifiedFlow, data, ddpm, sample, targets

NFE = (5, 8, 10, 15, 20, 30, 50, 100)
LEARNED_NFE = (5, 8, 10, 15, 20, 30, 50)
PROCESSES: dict[str, tuple[Process, str]] = {
    # name: process, what an exact model predicts
    "vp": (ddpm(), "noise"),
    "edm": (EDM(), "noise"),
    "flow": (RectifiedFlow(), "velocity"),
}
STATISTICS = ("rmse", "mean", "median")
TOLERANCE, LEARNED_TOLERANCE = 1e-11, 1e-9
"""Of the reference, relative and absolute, in the norm over all starts."""


def digits(first: int = 0) -> targets.Target:
    """The kernel density of 500 digits, scaled to [−1, 1], with bandwidth 0.1."""
    return targets.Empirical(data.digits()[0][first : first + 500].double() / 8 - 1, 0.1)


def moons() -> targets.Target:
    """The kernel density of 300 points of two moons, bandwidth 0.1."""
    return targets.Empirical(targets.moons(300, torch.Generator().manual_seed(0)).double(), 0.1)


@dataclass(frozen=True)
class Row:
    """A target of the benchmark: what makes it, its part, the seed of its starts and the most of them."""

    make: Callable[[], targets.Target]
    part: str
    seed: int
    most: int = 512


TARGETS = {
    # name: target, tuning or held-out, seed of the starts, most starts
    "mixture": Row(targets.EXAMPLES["gmm"], "tuning", 0),
    "digits": Row(digits, "tuning", 0, 256),
    "mixture16": Row(targets.EXAMPLES["gmm16"], "held-out", 1),
    "lattice": Row(targets.EXAMPLES["lattice"], "held-out", 1),
    "moons": Row(moons, "held-out", 1),
    "anisotropic32": Row(targets.EXAMPLES["anisotropic32"], "held-out", 1, 256),
    "other digits": Row(lambda: digits(500), "held-out", 1, 256),
}


@dataclass
class Problem:
    """One model and its starts, as `peers` wants it; `model` is for scoresde."""

    name: str
    part: str
    model: Model
    x: Tensor
    expect: Callable[[Tensor, float, float, float, float], Tensor]
    mean: Tensor
    spread: float
    tolerance: float = TOLERANCE
    calls: int = field(default=0)

    @property
    def process(self) -> Process:
        return self.model.process

    def _top(self) -> tuple[float, float]:
        return self.process.at("alpha", self.process.t_max), self.process.at("sigma", self.process.t_max)

    @property
    def top(self) -> float:
        """The highest σ/α; 1000 where the process ends in pure noise, which few samplers can start from."""
        alpha, sigma = self._top()
        return sigma / alpha if alpha else 1000.0

    def start(self, alpha: float, sigma: float) -> Tensor:
        """x_T as a state α x₀ + σ ε; pure noise is carried there as Gaussian data would be."""
        first, last = self._top()
        if first:
            return self.x * math.hypot(alpha, sigma) / math.hypot(first, last)
        return alpha * self.mean + math.hypot(alpha * self.spread, sigma) * self.x

    def ask(self, x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        self.calls += 1
        return self.expect(x, alpha, sigma, a, b)

    def reference(self) -> Tensor:
        """The flow solved along x₀ cos θ + ε sin θ, tan θ = σ/α, where it is regular from pure noise to σ = 0."""
        alpha, sigma = self._top()
        shape = self.x.shape

        def slope(angle: float, state: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(state).reshape(shape).to(self.x.device)
            cosine, sine = math.cos(angle), math.sin(angle)
            return self.expect(x, cosine, sine, -sine, cosine).cpu().numpy().ravel()

        begin = (self.x / math.hypot(alpha, sigma)).cpu().numpy().ravel()
        result = solve_ivp(
            slope,
            (math.atan2(sigma, alpha), 0.0),
            begin,
            "DOP853",
            t_eval=[0.0],
            rtol=self.tolerance,
            atol=self.tolerance,
        )
        if not result.success:
            raise RuntimeError(f"the reference of {self.name} was not solved: {result.message}")
        return torch.from_numpy(result.y[:, -1]).reshape(shape).to(self.x.device)


def exact_problem(name: str, process_name: str, starts: int, device: str) -> Problem:
    row, (process, prediction) = TARGETS[name], PROCESSES[process_name]
    target = row.make().to(device)
    generator = torch.Generator().manual_seed(row.seed)
    clean = target.sample(min(starts, row.most), generator).double()
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    alpha, sigma = process.at("alpha", process.t_max), process.at("sigma", process.t_max)
    mean, covariance = target.moments
    spread = float(covariance.diagonal().mean().sqrt())
    x = alpha * clean + sigma * noise.to(device)

    def expect(x: Tensor, *coefficients: float) -> Tensor:
        return target.expect(x, *torch.tensor(coefficients, dtype=torch.float64, device=device))

    return Problem(name, row.part, target.model(process, prediction), x, expect, mean, spread)


def learned_problem(name: str, process_name: str, starts: int, device: str, out: Path) -> Problem:
    """A trained network, in float64; where a peer asks it off its own scale of x, its input is rescaled."""
    model = learned_networks.trained(name, process_name, out)
    model = replace(model, net=model.net.to(device))
    process = model.process
    mean, second = (m.double() for m in model.moments)
    deviation = second.diagonal().sqrt() if second.ndim == 2 else second
    spread = float(deviation.square().mean().sqrt())
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(min(starts, learned_networks.NETWORKS[name].starts), len(mean), generator=generator).double()
    alpha, sigma = process.at("alpha", process.t_max), process.at("sigma", process.t_max)
    x = (alpha * mean + (alpha**2 * deviation**2 + sigma**2).sqrt() * noise).to(device)

    def expect(x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        t = float(process.time(2 * math.log(alpha / sigma))) if alpha and sigma else (process.t_max if sigma else 0.0)
        scale = math.hypot(process.at("alpha", t), process.at("sigma", t)) / math.hypot(alpha, sigma)
        return model.estimate(a, b, scale * x, t)

    return Problem(name, "learned", model, x, expect, mean.to(device), spread, LEARNED_TOLERANCE)


def errors(result: Tensor, reference: Tensor) -> dict[str, float]:
    """RMSE a dimension over all starts, and mean and median of the starts' own."""
    squares = (result - reference).square().flatten(1).mean(1)
    each = squares.sqrt()
    return {"rmse": float(squares.mean().sqrt()), "mean": float(each.mean()), "median": float(each.median())}


def ours(problem: Problem, nfe: int) -> tuple[Tensor, int]:
    """The default with the most steps that take at most `nfe` calls, and those calls."""
    for steps in range(nfe + 2, 0, -1):
        calls = 0

        def counted(model: Model, x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return model(x, t)

        result = sample(problem.model.wrap(counted), x=problem.x, steps=steps)
        if calls <= nfe:
            return result, calls
    raise ValueError(f"no number of steps takes at most {nfe} calls")


def compare(problem: Problem, process: str, nfes: Sequence[int], reference: Tensor, rows: list[dict]) -> Iterator[dict]:
    """One cell a budget: ours and the best peer, by each statistic. Every configuration is added to `rows`."""
    contenders, missing = peers.peers(process)
    for package in missing:
        print(f"{package} is not installed: its configurations are left out")
    print(f"\n{problem.name} ({problem.part}), {problem.x.shape[1]}-D, {len(problem.x)} starts; RMSE a dimension")
    print(f"{'NFE':>4}{'ours':>10}{'best peer':>11}{'ratio':>7}{'mean':>7}{'median':>8}{'to any':>8}  best peer")
    for nfe in nfes:
        result, calls = ours(problem, nfe)
        mine = errors(result, reference)
        keys = {"process": process, "target": problem.name, "part": problem.part, "nfe": nfe}
        rows.append({**keys, "package": "scoresde", "sampler": "default", "calls": calls, **mine})
        scores: dict[peers.Peer, dict[str, float]] = {}
        for peer in contenders:
            problem.calls = 0
            value = peers.quietly(peer, problem, nfe)
            if value is not None and problem.calls > nfe:
                raise RuntimeError(f"{peer} took {problem.calls} calls of {nfe}")
            score = errors(value, reference) if value is not None else dict.fromkeys(STATISTICS, math.nan)
            rows.append({**keys, "package": peer.package, "sampler": peer.name, "calls": problem.calls, **score})
            if value is not None:
                scores[peer] = score
        own = [peer for peer in scores if not peer.borrowed]
        best = {kind: min(own, key=lambda peer: scores[peer][kind]) for kind in STATISTICS}
        best["rmse, any grid"] = min(scores, key=lambda peer: scores[peer]["rmse"])
        least = {kind: scores[peer][kind.split(",")[0]] for kind, peer in best.items()}
        ratio = {kind: mine[kind.split(",")[0]] / least[kind] for kind in best}
        print(
            f"{nfe:>4}{mine['rmse']:>10.2e}{least['rmse']:>11.2e}{ratio['rmse']:>7.2f}{ratio['mean']:>7.2f}"
            f"{ratio['median']:>8.2f}{ratio['rmse, any grid']:>8.2f}  {best['rmse']}",
            flush=True,
        )
        yield {
            **keys, "calls": calls, "ours": mine, "ran": len(scores), "failed": len(contenders) - len(scores),
            "best": {kind: (str(peer), least[kind]) for kind, peer in best.items()}, "ratio": ratio,
        }  # fmt: skip


def geometric(values: list[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def summary(cells: list[dict]) -> None:
    """Worst and geometric mean of the ratios, by target and in all."""
    kinds = list(cells[0]["ratio"])
    print("\nours / best peer: worst, geometric mean" + f"\n{'':<20}" + "".join(f"{kind:>20}" for kind in kinds))
    groups = {name: [c for c in cells if c["target"] == name] for name in dict.fromkeys(c["target"] for c in cells)}
    for part in dict.fromkeys(c["part"] for c in cells):
        groups[f"all {part}"] = [c for c in cells if c["part"] == part]
    for name, group in {**groups, "all": cells}.items():
        ratios = {kind: [c["ratio"][kind] for c in group] for kind in kinds}
        print(f"{name:<20}" + "".join(f"{max(r):>13.2f}{geometric(r):>7.3f}" for r in ratios.values()))
    ran, failed = [c["ran"] for c in cells], [c["failed"] for c in cells]
    print(f"\n{min(ran)} to {max(ran)} configurations of peers ran in a cell;", end=" ")
    print(f"{min(failed)} to {max(failed)} raised, or returned something not finite")


def cached_reference(problem: Problem, process: str, out: Path) -> Tensor:
    """The reference, kept in `out` for the same starts and model."""
    path = out / f"reference-{process}-{problem.name.replace(' ', '-')}.pt"
    probe = problem.expect(problem.x, math.cos(0.7), math.sin(0.7), 1.0, 0.0)
    if path.exists():
        kept = torch.load(path, weights_only=True, map_location=problem.x.device)
        if kept["x"].shape == problem.x.shape and torch.equal(kept["x"], problem.x) and torch.allclose(
            kept["probe"], probe, rtol=0, atol=1e-12
        ):  # fmt: skip
            return kept["reference"]
    reference = problem.reference()
    torch.save({"x": problem.x, "probe": probe, "reference": reference}, path)
    return reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--process", choices=PROCESSES, default="vp")
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--learned", action="store_true", help="trained networks instead of exact targets")
    parser.add_argument("--starts", type=int, default=512)
    parser.add_argument("--nfe", nargs="*", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = list(learned_networks.NETWORKS) if options.learned else options.targets
    nfes = tuple(options.nfe or (LEARNED_NFE if options.learned else NFE))
    rows: list[dict] = []
    cells: list[dict] = []
    kept: dict[str, dict[str, Tensor]] = {}
    label = options.process + ("-learned" if options.learned else "")
    print(f"{PROCESSES[options.process][0]}; torch {torch.__version__}, {options.device}")
    with torch.no_grad():
        for name in names:
            begun = time.perf_counter()
            if options.learned:
                problem = learned_problem(name, options.process, options.starts, options.device, options.out)
            else:
                problem = exact_problem(name, options.process, options.starts, options.device)
            reference = cached_reference(problem, options.process, options.out)
            kept[name] = {"x": problem.x, "reference": reference}
            torch.save(kept, options.out / f"{label}.pt")
            for cell in compare(problem, options.process, nfes, reference, rows):
                cells.append(cell)
                (options.out / f"{label}.json").write_text(json.dumps(cells, indent=1))
            print(f"  ({time.perf_counter() - begun:.0f} s)")
    with (options.out / f"{label}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    summary(cells)


if __name__ == "__main__":
    main()
