"""The loop: there and back, grids, seeds, trajectories, calls, on every sampler and process."""

from dataclasses import replace

import pytest
import torch

from scoresde import (
    EDM,
    VE,
    VP,
    Count,
    Discrete,
    RectifiedFlow,
    ddpm,
    encode,
    grids,
    sample,
    targets,
)  # fmt: skip
from scoresde.samplers import (
    DDIM,
    DDPM,
    ODE,
    SDE,
    Adams,
    Adaptive,
    AnnealedLangevin,
    Euler,
    EulerMaruyama,
    FlowSDE,
    Heun,
    Midpoint,
    PredictorCorrector,
    Restart,
    Sampler,
)  # fmt: skip
from tests.problems import MAIN, PROCESSES, gaussian, mixture, name

DETERMINISTIC = [Adams(), Adaptive(), Midpoint(), Adams(order=2), DDIM(), Euler(), Heun(), ODE(), ODE("rk4")]
STOCHASTIC = [
    DDIM(eta=0.7), DDPM(), DDPM(variance="beta"), EulerMaruyama(), EulerMaruyama(eta=0.5), SDE(), SDE("srk", eta=0.5),
    AnnealedLangevin(inner=10), PredictorCorrector(), DDPM(noise="path"),
    FlowSDE(), FlowSDE("constant", order=2), FlowSDE("process", noise="path"), Heun(churn=10.0), Restart(),
]  # fmt: skip
GRIDS = [grids.uniform, grids.quadratic, grids.logsnr, grids.karras, grids.trailing, grids.leading, grids.graded]


# --- there and back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [*MAIN, ddpm()], ids=name)
@pytest.mark.parametrize("sampler", [Adams(), Heun(), ODE(rtol=1e-8, atol=1e-8), DDIM(), ODE("rk4")], ids=repr)
def test_encode_and_sample_are_inverse(process, sampler):
    model, x = mixture().model(process, "v"), mixture().sample(30)
    steps = 200
    back = sample(model, x=encode(model, x, sampler, steps), sampler=sampler, steps=steps)
    # DDIM is of first order; equations in t start badly on the grid's first step where time is not graded (VE)
    limit = 0.1 if isinstance(sampler, DDIM) or (isinstance(process, VE) and sampler != Adams()) else 5e-3
    assert (back - x).abs().max() < limit


def test_encode_refuses_noise():
    for sampler in STOCHASTIC:
        with pytest.raises(ValueError, match="deterministic"):
            encode(mixture().model(VP()), torch.zeros(2, 2), sampler)


# --- grids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.__name__)
def test_grids_decrease_from_noise_to_data_at_every_step_count(process, grid):
    chain = isinstance(process, Discrete) and grid in (grids.trailing, grids.leading)
    for steps in (1, 2, 3, 7, 51, 999):
        if chain and steps > process.steps:
            with pytest.raises(ValueError, match="at most the chain's"):
                grid(process, steps)
            continue
        times = grid(process, steps)
        assert times.dtype == torch.float64 and times.shape == (steps + 1,)
        assert (times.diff() < 0).all() and times[-1] == 0.0
        assert times[0] == process.t_max or grid is grids.leading
        if chain:
            assert torch.allclose(times * process.steps, (times * process.steps).round(), atol=1e-9)


def test_known_grids():
    assert torch.allclose(grids.trailing(ddpm(), 3) * 1000, torch.tensor([1000.0, 667, 333, 0]).double())
    assert torch.allclose(grids.leading(ddpm(), 3) * 1000, torch.tensor([667.0, 334, 1, 0]).double())
    ratio = torch.tensor([80 ** (1 / 7) + i / 3 * (0.002 ** (1 / 7) - 80 ** (1 / 7)) for i in range(4)]) ** 7
    assert torch.allclose(grids.karras(EDM(), 4)[:-1], ratio.double(), rtol=1e-5)
    logsnr = VP().logsnr(grids.logsnr(VP(), 6)[:-1])
    assert torch.allclose(logsnr.diff(), logsnr.diff()[0].expand(5), rtol=1e-9)


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC], ids=repr)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_every_sampler_runs_on_every_process_prediction_and_grid(sampler, process):
    """A budget of 40 steps is rough; still nothing is lost, and the samples are where the data are."""
    for prediction in ("noise", "v"):
        model = mixture().model(process, prediction)
        x = sample(model, (32, 2), sampler, 40, generator=torch.Generator().manual_seed(0))
        assert x.dtype == torch.float64 and x.abs().max() < 4.5, prediction
    model = mixture().model(process, "noise")
    for grid in (grids.karras, grids.uniform, [process.t_max * u for u in (0.99, 0.5, 0.2, 0.1)]):
        assert torch.isfinite(sample(model, (4, 2), sampler, 6, grid, seeds=range(4))).all()


# --- the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC], ids=repr)
def test_seeds_make_a_sample_its_own(sampler):
    """Sample i is the same whatever the batch, its order or its split (adaptive steps follow the worst sample)."""
    model = mixture().model(VP())
    slack = 1e-4 if sampler == ODE() else 1e-12
    whole = sample(model, (6, 2), sampler, 9, seeds=range(6))
    parts = [sample(model, (2, 2), sampler, 9, seeds=s) for s in ([4, 5], [0, 1], [3, 2])]
    again = torch.cat([parts[1], parts[2].flip(0), parts[0]])
    assert (whole - again).abs().max() < slack


def test_generators_repeat_and_leave_the_global_one_alone():
    model, before = mixture().model(VP()), torch.get_rng_state()
    for sampler in (DDPM(), SDE("srk")):
        runs = [sample(model, (5, 2), sampler, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
        sample(model, (5, 2), sampler, 8, seeds=range(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampler", [Adams(), DDPM(), SDE(), ODE("rk4"), ODE()], ids=repr)
@pytest.mark.parametrize("process", [VP(), VE(), Discrete([0.1, 0.2, 0.3])], ids=name)
def test_trajectory_has_every_state(sampler, process):
    model = mixture().model(process, "v")
    path = sample(model, (3, 2), sampler, 3, grids.uniform, seeds=range(3), trajectory=True)
    assert path.shape == (4, 3, 2)
    assert torch.equal(path[-1], sample(model, (3, 2), sampler, 3, grids.uniform, seeds=range(3)))


def test_calls_of_the_network():
    calls = {}
    for process in (VP(), VE(), RectifiedFlow()):
        for sampler in (Adams(), DDIM(), Euler(), Heun(), EulerMaruyama(), DDPM()):
            count = Count()
            sample(mixture().model(process, "v").wrap(count), (2, 2), sampler, 10)
            calls[type(process).__name__, type(sampler).__name__] = count.calls
    for name_, one, two in (("VP", 10, 19), ("VE", 11, 21), ("RectifiedFlow", 10, 19)):
        for sampler in ("DDIM", "Euler", "EulerMaruyama", "DDPM"):
            assert calls[name_, sampler] == one
        assert calls[name_, "Heun"] == two
    assert (calls["VP", "Adams"], calls["VE", "Adams"], calls["RectifiedFlow", "Adams"]) == (9, 10, 9)
    for steps, moments, expected in ((40, mixture().moments, 40), (10, None, 10)):  # the noise end is asked
        count = Count()
        model = replace(mixture().model(RectifiedFlow(), "v"), moments=moments).wrap(count)
        sample(model, (2, 2), steps=steps)
        assert count.calls == expected


def test_progress_shows_steps_and_calls(capsys):
    sample(mixture().model(VP()), (2, 2), steps=5, progress=True)
    shown = capsys.readouterr().err
    assert "5/5" in shown and "NFE=4" in shown and "Adams" in shown


def test_gradients_flow_if_the_start_requires_them():
    model = gaussian().model(VP(), "v")
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    got = sample(model, x=x, steps=5)
    (grad,) = torch.autograd.grad(got.sum(), x)
    bumped = sample(model, x=x.detach() + 1e-6 * torch.eye(2).double()[:1], steps=5)
    assert torch.allclose(((bumped - got) / 1e-6).sum(1), grad[:, 0], atol=1e-5)
    assert not sample(model, x=x.detach(), steps=5).requires_grad


def test_moments_of_any_accepted_shape():
    target = targets.Empirical(torch.rand(50, 3, 3).double(), 0.2)
    exact, shape = target.model(VP(), "v"), (7, 3, 3)
    mean, covariance = exact.moments
    deviation = covariance.diagonal().sqrt()
    truth = sample(exact, shape, steps=400, seeds=range(7))
    x = encode(exact, truth, steps=400)
    for moments in (
        None, (mean, covariance), (mean, deviation.reshape(3, 3)), (mean.reshape(3, 3), deviation.mean()), (0.5, 0.4),
    ):  # fmt: skip
        model = replace(exact, moments=moments)
        assert (sample(model, x=x, steps=300) - truth).abs().max() < 1e-4


def test_constant_pixels_do_no_harm():
    data = torch.cat([torch.rand(50, 2).double(), torch.zeros(50, 2).double()], 1)
    model = targets.Empirical(data, 0.002).model(VP(), "v")
    flat = replace(model, moments=(data.mean(0), data.std(0)))  # two deviations of zero
    one, two = (sample(m, (20, 4), Adams(), 300, seeds=range(20)) for m in (model, flat))
    assert torch.isfinite(two).all() and two[:, 2:].abs().max() < 0.02
    assert (one - two).abs().median() < 0.01  # some starts near a watershed end at another point of the data


def test_your_own_sampler():
    class Mine(Sampler):
        def step(self, model, x, t, s, memory, randn):
            return x + (s - t) * model.predict("velocity", x, t), memory

    model, grid = mixture().model(VP()), torch.linspace(1, 0.1, 9)
    x = torch.randn(3, 2, dtype=torch.float64)
    assert torch.allclose(sample(model, x=x, sampler=Mine(), grid=grid), sample(model, x=x, sampler=Euler(), grid=grid))


def test_empty_batches():
    for sampler in (Adams(), DDPM(), SDE(), ODE()):
        assert sample(mixture().model(VP()), (0, 2), sampler, 4).shape == (0, 2)
    assert sample(mixture().model(VP()), (0, 2), DDIM(), 4, trajectory=True).shape == (5, 0, 2)


@pytest.mark.gpu
def test_on_an_accelerator():
    target = mixture().cuda()
    for sampler in (Adams(), DDPM(), SDE(), ODE(), Heun()):
        x = sample(target.model(VP()), (50, 2), sampler, 20, seeds=range(50))
        assert x.device.type == "cuda"
        assert (x.cpu() - sample(mixture().model(VP()), (50, 2), sampler, 20, seeds=range(50))).abs().max() < 1e-3


def test_a_start_at_pure_noise_is_carried_to_where_a_noise_prediction_can_begin():
    """Noise says nothing of the data's mean where α = 0, so the sampler begins at σ/α = 1000, and x goes there too."""
    x = torch.randn(20, 2, dtype=torch.float64)
    truth = sample(mixture().model(RectifiedFlow(), "v"), x=x, steps=800)
    model = mixture().model(RectifiedFlow(), "noise")
    for sampler in (Adams(), ODE(rtol=1e-8, atol=1e-8)):
        assert (sample(model, x=x, sampler=sampler, steps=800) - truth).abs().max() < 1e-7  # 2e-3 if it stays
    assert (encode(model, truth, steps=800) - x).abs().max() < 1e-6
