"""Parity with the published implementations, from the same x_T, on the same grid, with the same exact model.

Agreement to 1e-5 in float32, which is rounding, and to 1e-9 in float64, which says that the rules are the same.
The packages come with the extra `bench`; without it these tests are skipped. The comparison with k-diffusion runs
where that package is installed.
"""

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
import torch

from scoresde import EDM, Model, ddpm, grids, networks, sample
from scoresde.samplers import DDIM, DDPM, DPMSolverPP, Heun, UniPC
from tests.problems import mixture

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CHAIN = 1000
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy's, in diffusers


@pytest.fixture(scope="module")
def schedulers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the package and its dependencies
        return pytest.importorskip("diffusers")


@pytest.fixture(params=list(TOLERANCE), ids=str)
def dtype(request):
    return request.param


def start(process, dtype, n=32):
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = process.at("alpha", process.t_max), process.at("sigma", process.t_max)
    return (alpha * mixture().sample(n, generator) + sigma * torch.randn(n, 2, generator=generator)).to(dtype)


def exact_table(scheduler):
    """The scheduler with its table of α² exact: in float32 1 − α² loses half its digits at the chain's first steps."""
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, CHAIN, dtype=torch.float64), 0)
    return scheduler


def theirs(scheduler, net, x, at=None, **options):
    """A diffusers pipeline's loop. net(x, t): the noise; at(i, t): the time of call i, by default the chain's own."""
    for i, t in enumerate(scheduler.timesteps):
        time = at(i, t) if at else (float(t) + 1) / CHAIN
        x = scheduler.step(net(x, time), t, x, return_dict=False, **options)[0]
    return x


def chain_times(scheduler):
    """The times of a scheduler's steps, and 0."""
    return [*((float(t) + 1) / CHAIN for t in scheduler.timesteps), 0.0]


def assert_same(mine, their):
    assert mine.dtype == their.dtype
    error = (mine - their).abs().max()
    assert error < TOLERANCE[mine.dtype], f"largest difference {error:.1e}"


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(schedulers, spacing, dtype):
    model = mixture().model(ddpm())
    scheduler = exact_table(schedulers.DDIMScheduler(timestep_spacing=spacing, clip_sample=False))
    scheduler.set_timesteps(50)
    x = start(model.process, dtype)
    assert_same(sample(model, x=x, sampler=DDIM(), grid=chain_times(scheduler)), theirs(scheduler, model, x))


def test_ddim_with_noise(schedulers, dtype):
    model = mixture().model(ddpm())
    scheduler = exact_table(schedulers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False))
    scheduler.set_timesteps(50)
    x = start(model.process, dtype)
    their = theirs(scheduler, model, x, eta=0.7, generator=torch.Generator().manual_seed(1))
    mine = sample(
        model, x=x, sampler=DDIM(eta=0.7), grid=chain_times(scheduler), generator=torch.Generator().manual_seed(1)
    )
    assert_same(mine, their)


@pytest.mark.parametrize("ours, name", [("posterior", "fixed_small"), ("beta", "fixed_large")])
def test_ddpm(schedulers, ours, name, dtype):
    """From the same noise, on the leading spacing, whose last step theirs makes without noise, as ours."""
    model = mixture().model(ddpm())
    options = {"variance_type": name, "timestep_spacing": "leading", "clip_sample": False}
    scheduler = exact_table(schedulers.DDPMScheduler(**options))
    scheduler.set_timesteps(200)
    x = start(model.process, dtype)
    their = theirs(scheduler, model, x, generator=torch.Generator().manual_seed(1))
    mine = sample(
        model, x=x, sampler=DDPM(ours), grid=chain_times(scheduler), generator=torch.Generator().manual_seed(1)
    )
    assert_same(mine, their)


RECIPES = {
    # of docs/migration.md: theirs, and its options; ours, and the grid
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, DDIM(), grids.leading),
    "DPM-Solver++": (
        "DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"},
        DPMSolverPP(2, rule="published"), grids.trailing,
    ),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_of_migration(schedulers, recipe):
    """As the page writes them, with a network that is told the index, and every other setting as it comes."""
    name, options, sampler, grid = recipe
    scheduler, process = getattr(schedulers, name)(beta_schedule="linear", **options), ddpm(1000, "linear")
    net = lambda x, k: 0.3 * x + 0.2 * torch.sin(x + k[:, None] / 200)  # noqa: E731
    model = Model(networks.Adapter(net, process, time="index"), process, "noise")
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(20)
    their = theirs(scheduler, net, x, lambda i, t: torch.full((8,), float(t)))
    mine = sample(model, None, sampler, 20, grid, x=x)
    assert (mine - their).abs().max() < 1e-5 * their.abs().max()  # the samples are 60 in size


GRIDS = {"linspace": {}, "trailing": {"timestep_spacing": "trailing"}, "karras": {"use_karras_sigmas": True}}
"""diffusers' own grids."""


def in_logsnr(scheduler, process):
    """The times of a scheduler's `sigmas`, σ/α, exactly: float32 rounds them, and karras falls between indices."""
    ratios = scheduler.sigmas[:-1].double()
    return [*process.time(-2 * ratios.log()).tolist(), 0.0]


def compare_on_grid(scheduler, sampler, dtype):
    model = mixture().model(ddpm())
    scheduler.set_timesteps(20)
    scheduler.sigmas = scheduler.sigmas.double()
    times = in_logsnr(scheduler, model.process)
    x = start(model.process, dtype)
    their = theirs(scheduler, model, x, at=lambda i, t: times[i])
    assert_same(sample(model, x=x, sampler=sampler, grid=times), their)


@pytest.mark.parametrize("grid", GRIDS)
def test_dpm_solver_pp_2m(schedulers, grid):
    """In float32 alone: the scheduler steps in no other."""
    scheduler = schedulers.DPMSolverMultistepScheduler(solver_order=2, **GRIDS[grid])
    compare_on_grid(scheduler, DPMSolverPP(2, rule="published"), torch.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_unipc(schedulers, grid, dtype):
    scheduler = schedulers.UniPCMultistepScheduler(solver_order=2, solver_type="bh2", **GRIDS[grid])
    compare_on_grid(scheduler, UniPC(2), dtype)


def karras_times(process, steps):
    """EDM's own grid, σ from 80 to 0.002 and 0, in numbers that float32 holds."""
    high, low = process.sigma_max ** (1 / 7), process.sigma_min ** (1 / 7)
    sigmas = torch.tensor([(high + i / (steps - 1) * (low - high)) ** 7 for i in range(steps)]).float()
    return [process.sigma_max, *sigmas[1:].tolist(), 0.0]


def test_heun_of_diffusers(schedulers, dtype):
    process, steps = EDM(), 18
    model, times = mixture().model(process), karras_times(EDM(), 18)
    scheduler = schedulers.HeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    sigmas = torch.tensor(times)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.set_begin_index(0)
    x = start(process, dtype)
    their = theirs(scheduler, model, x, at=lambda i, t: float(scheduler.sigmas[i]))
    assert_same(sample(model, x=x, sampler=Heun(rule="published"), grid=times), their)


@pytest.mark.skipif(importlib.util.find_spec("k_diffusion") is None, reason="k-diffusion is not installed")
@pytest.mark.parametrize("name, sampler", [("heun", Heun), ("dpmpp_2m", DPMSolverPP)])
def test_k_diffusion(name, sampler, dtype, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    rules = (sys.modules.get("peers") or importlib.import_module("peers")).k_sampling()
    process = EDM()
    model, times, x = mixture().model(process), karras_times(process, 18), start(process, dtype)

    def denoiser(x, sigma):
        return model.predict("x0", x, float(sigma[0]))

    their = getattr(rules, f"sample_{name}")(denoiser, x, torch.tensor(times, dtype=dtype), disable=True)
    assert_same(sample(model, x=x, sampler=sampler(rule="published"), grid=times), their)


def test_the_benchmarks_peers_and_reference(monkeypatch):
    """On a grid that they are handed all first-order samplers are DDIM; the reference is where ours converges."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    pytest.importorskip("azula")
    benchmark, peer, peers = (importlib.import_module(name) for name in ("benchmark_samplers", "peer", "peers"))
    problem, calls, least = benchmark.exact_problem("mixture", "vp", 16, "cpu"), 10, 0.01
    process = problem.model.process
    ratios = torch.from_numpy(peer.levels("log", calls, problem.top, least))
    times = [process.t_max, *process.time(-2 * ratios[1:].log()).tolist(), 0.0]
    mine = sample(problem.model, x=problem.x, sampler=DDIM(), grid=times)
    runs = {"azula": lambda: peers.by_azula("DDIMSampler", {}, 1, "log", least, "zero", problem, calls)}
    if importlib.util.find_spec("k_diffusion"):
        runs["k-diffusion"] = lambda: peers.by_k_diffusion("euler", {}, 1, "log", least, problem, calls)
    for name, run in runs.items():
        problem.calls = 0
        assert (run() - mine).abs().max() < 1e-9, name
        assert problem.calls == calls, name
    assert (sample(problem.model, x=problem.x, steps=300) - problem.reference()).abs().max() < 1e-6
