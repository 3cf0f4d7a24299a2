"""What a sampler costs beside its network: the time of a run over the time of its bare calls, in one run.

    python experiments/benchmark_overhead.py [--device cpu] [--steps 50] [--repeats 15] [--compile] [--clock wall|cpu]

A run is all that a user waits for: `sample(...)` with its grid, or a peer's `set_timesteps` and loop. It is divided by
as many bare forwards as the network was called, timed right before and after it; the table shows the median of these
ratios over the repeats. "first" is the ratio of the very first run, which computes what later ones remember. "inside"
is the median of the run's time over the time it spent in the network (on the CPU only, where calls finish before they
return). "least" is the least time of a run over that of a bare call: with many repeats, what a quiet machine shows.
On a machine that others use as well, `--clock cpu` counts this process's own seconds (with one thread the same).
Peers are optional: pip install "scoresde[bench]" (and flow_matching, whose licence is non-commercial).
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from scoresde import Model, RectifiedFlow, ddpm, sample, samplers

Run = Callable[[Tensor, int], Tensor]

OURS = {
    # sampler, process (of the same network: only time is measured)
    "Adams()": ("ddpm", lambda: samplers.Adams()),
    "Adams(order=3)": ("ddpm", lambda: samplers.Adams(order=3)),
    "Adams(), moments of pixels": ("pixels", lambda: samplers.Adams()),
    "DDIM()": ("ddpm", lambda: samplers.DDIM()),
    "DPMSolverPP(2)": ("ddpm", lambda: samplers.DPMSolverPP(order=2)),
    "DPMSolverPP(3)": ("ddpm", lambda: samplers.DPMSolverPP(order=3)),
    "UniPC()": ("ddpm", lambda: samplers.UniPC()),
    "Heun()": ("ddpm", lambda: samplers.Heun()),
    "DDPM()": ("ddpm", lambda: samplers.DDPM()),
    "EulerMaruyama()": ("ddpm", lambda: samplers.EulerMaruyama()),
    "Euler(), flow": ("flow", lambda: samplers.Euler()),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

GOALS = {"MLP": 1.5, "convolutions": 1.03}  # at order 3


class MLP(nn.Module):
    """Two hidden layers of 256 for points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 2)
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1))


class Convolutions(nn.Module):
    """Three layers of 48 channels, the time as a channel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 48, 3, padding=1), nn.SiLU(), nn.Conv2d(48, 48, 3, padding=1), nn.SiLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.SiLU(), nn.Conv2d(48, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1))


NETWORKS = {
    # network, shape of the state
    "MLP": (MLP, (64, 2)),
    "convolutions": (Convolutions, (8, 3, 32, 32)),
}


def ours(net: nn.Module, shape: tuple[int, ...]) -> dict[str, Run]:
    """Every sampler of ours that this version has."""
    like = next(net.parameters())
    moments = like.new_zeros(shape[1:]), like.new_ones(shape[1:])
    models = {
        "ddpm": Model(net, ddpm()),
        "pixels": Model(net, ddpm(), moments=moments),
        "flow": Model(net, RectifiedFlow(), "velocity"),
    }
    runs: dict[str, Run] = {}
    for name, (process, build) in OURS.items():
        try:
            sampler = build()
        except AttributeError:
            continue
        runs[name] = lambda x, steps, model=models[process], sampler=sampler: sample(
            model, x=x, sampler=sampler, steps=steps
        )
    return runs


def loop(net: nn.Module) -> dict[str, Run]:
    def euler(x: Tensor, steps: int) -> Tensor:
        for i in range(steps):
            x = x - 1 / steps * net(x, torch.full((len(x),), 1 - i / steps, dtype=x.dtype, device=x.device))
        return x

    return {"hand-written Euler": euler}


def diffusers(net: nn.Module) -> dict[str, Run]:
    try:
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
    except ImportError:
        return {}

    def runner(build: Callable) -> Run:
        def run(x: Tensor, steps: int) -> Tensor:
            scheduler = build()
            scheduler.set_timesteps(steps, device=x.device)
            for t in scheduler.timesteps:
                y = net(scheduler.scale_model_input(x, t), t.to(x.dtype).expand(len(x)))
                x = scheduler.step(y, t, x).prev_sample
            return x

        return run

    return {
        "diffusers DDIM": runner(DDIMScheduler),
        "diffusers DPM-Solver++ 2M": runner(DPMSolverMultistepScheduler),
        "diffusers UniPC": runner(UniPCMultistepScheduler),
    }


def k_diffusion(net: nn.Module) -> dict[str, Run]:
    try:
        from peers import k_sampling

        sampling = k_sampling()
    except ImportError:
        return {}

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return x - wide * net(x, sigma)

    def run(x: Tensor, steps: int) -> Tensor:
        sigmas = sampling.get_sigmas_karras(steps, 0.01, 80.0, device=x.device)
        return sampling.sample_dpmpp_2m(denoise, x, sigmas, disable=True)

    return {"k-diffusion DPM-Solver++ 2M": run}


def azula(net: nn.Module) -> dict[str, Run]:
    try:
        from azula.denoise import SimpleDenoiser
        from azula.noise import VPSchedule
        from azula.sample import xEABSampler
    except ImportError:
        return {}
    denoiser = SimpleDenoiser(Broadcast(net), VPSchedule())
    return {"azula xEAB 3": lambda x, steps: xEABSampler(denoiser, order=3, steps=steps, silent=True)(x)}


def flow_matching(net: nn.Module) -> dict[str, Run]:
    try:
        from flow_matching.solver import ODESolver
    except ImportError:
        return {}
    solver = ODESolver(lambda x, t: net(x, t.expand(len(x))))
    return {
        "flow_matching Euler": lambda x, steps: solver.sample(
            x_init=x, step_size=None, time_grid=torch.linspace(0, 1, steps + 1, device=x.device), method="euler"
        )
    }


class Broadcast(nn.Module):
    """A network that takes one time for all."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t.expand(len(x)))


class Timed(nn.Module):
    """A network that counts its calls and the seconds in them."""

    def __init__(self, net: nn.Module, clock: Callable[[], float]) -> None:
        super().__init__()
        self.net, self.clock, self.calls, self.seconds = net, clock, 0, 0.0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        begun = self.clock()
        y = self.net(x, t)
        self.seconds += self.clock() - begun
        self.calls += 1
        return y


def rivals(net: nn.Module, shape: tuple[int, ...]) -> dict[str, Run]:
    runs = loop(net) | ours(net, shape)
    for peer in (diffusers, k_diffusion, azula, flow_matching):
        runs |= peer(net)
    return runs


def timer(device: str, clock: Callable[[], float]) -> Callable[[Callable[[], object]], float]:
    """function -> the seconds that it takes, on the device too."""

    def timed(function: Callable[[], object]) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        begun = clock()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        return clock() - begun

    return timed


@torch.no_grad()
def measure(
    name: str, device: str, steps: int, repeats: int, compiled: bool = False, clock: str = "wall"
) -> list[dict]:
    """One row for each rival: calls, milliseconds of a bare call, and the ratios first, median and inside."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    net = build().to(device).requires_grad_(False)
    if compiled:
        net.compile()
    x, times = torch.randn(shape, device=device), torch.full((shape[0],), 0.5, device=device)

    def bare(calls: int) -> None:
        for _ in range(calls):
            net(x, times)

    bare(20)
    timed = timer(device, CLOCKS[clock])
    watched = Timed(net, CLOCKS[clock])
    runs, watching = rivals(net, shape), rivals(watched, shape)
    ratios: dict[str, list[float]] = {key: [] for key in runs}
    inside: dict[str, list[float]] = {key: [] for key in runs}
    calls, bares, runtimes = {}, [], {key: math.inf for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            before = timed(lambda: bare(steps))
            spent = timed(lambda run=run: run(x, steps))
            after = timed(lambda: bare(steps))
            watched.calls, watched.seconds = 0, 0.0
            whole = timed(lambda key=key: watching[key](x, steps))
            calls[key] = watched.calls
            ratios[key].append(spent / (before + after) * 2 * steps / watched.calls)
            inside[key].append(whole / watched.seconds)
            bares += [before / steps, after / steps]
            runtimes[key] = min(runtimes[key], spent)
    return [
        {
            "network": name, "compiled": compiled, "device": device, "clock": clock, "steps": steps, "sampler": key,
            "calls": calls[key], "ms_a_call": 1e3 * min(bares), "first": values[0],
            "ratio": statistics.median(values[1:] or values), "inside": statistics.median(inside[key]),
            "least": runtimes[key] / calls[key] / min(bares),
        }
        for key, values in ratios.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also with the network compiled")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/overhead.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(
        f"torch {torch.__version__} on {options.device}, {options.threads} thread(s), {options.steps} steps, "
        f"{options.clock} time, medians of {options.repeats}"
    )
    for compiled in (False, True) if options.compile else (False,):
        for name in options.networks:
            found = measure(name, options.device, options.steps, options.repeats, compiled, options.clock)
            rows += found
            shape = " × ".join(map(str, NETWORKS[name][1]))
            title = f"{name}{', compiled' if compiled else ''}, state {shape}"
            print(f"\n{title}: {found[0]['ms_a_call']:.3f} ms a bare call; goal at order 3: {GOALS[name]}")
            print(f"{'sampler':<30}{'calls':>7}{'first':>9}{'median':>9}{'inside':>9}{'least':>9}")
            for row in found:
                print(
                    f"{row['sampler']:<30}{row['calls']:>7}{row['first']:>9.2f}{row['ratio']:>9.3f}{row['inside']:>9.3f}{row['least']:>9.3f}"
                )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
