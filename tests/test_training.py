import math

import pytest
import torch

from scoresde import EDM, EMA, VE, VP, Model, RectifiedFlow, SubVP, fit, loss, networks, sample, targets
from scoresde.metrics import sliced_wasserstein
from scoresde.training import draw_times, moments
from tests.problems import MAIN, NAMES, PROCESSES, gaussian, mixture, name


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("process", MAIN, ids=name)
def test_the_loss_is_the_squared_error_to_the_row(process, prediction):
    """A network that answers with the true target has no loss; one that is off by c has c²/(a² + b²)."""
    from scoresde import PREDICTIONS

    x0, noise = torch.randn(2, 6, 3, dtype=torch.float64)
    t = (0.1 + 0.8 * torch.rand(6, dtype=torch.float64)) * process.t_max
    a, b = (torch.as_tensor(c).double().expand(6)[:, None] for c in PREDICTIONS[prediction](process, t))
    truth = a * x0 + b * noise
    assert loss(Model(lambda x, t: truth, process, prediction), x0, t, noise).max() < 1e-20
    off = loss(Model(lambda x, t: truth + 0.5, process, prediction), x0, t, noise)
    assert torch.allclose(off, 0.25 / (a**2 + b**2)[:, 0], rtol=1e-10)


@pytest.mark.parametrize("prediction", NAMES)
def test_the_exact_model_has_the_least_loss_and_it_is_the_known_one(prediction):
    """For N(m, s²) data E‖y − ŷ‖² is the variance of the row given x_t, (αb − σa)² s²/(α²s² + σ²) in one dimension."""
    from scoresde import PREDICTIONS

    target = targets.Gaussian(torch.tensor([0.5], dtype=torch.float64), 0.3)
    x0, process, t, n = target.sample(200_000), VP(), 0.4, 200_000
    model = target.model(process, prediction)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    a, b = (float(c) for c in PREDICTIONS[prediction](process, torch.tensor(t, dtype=torch.float64)))
    known = (alpha * b - sigma * a) ** 2 * 0.3 / (alpha**2 * 0.3 + sigma**2) / (a**2 + b**2)
    values = loss(model, x0, t)
    assert abs(float(values.mean()) - known) < 4 * known * math.sqrt(2 / n)
    for wrong in (1.02, 0.98):  # and any other scale does worse
        worse = loss(model.wrap(lambda model, x, t, w=wrong: w * model(x, t)), x0, t, generator=None)
        assert float(worse.mean()) > known * (1 - 4 * math.sqrt(2 / n))


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_times_cover_the_interval_evenly_in_noise_level(process):
    t = draw_times(process, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64 and t.min() >= process.t_min and t.max() <= process.t_max
    level = process.sigma(t) / (process.alpha(t) + process.sigma(t))
    ends = torch.tensor([process.t_min, process.t_max], dtype=torch.float64)
    low, high = (process.sigma(ends) / (process.alpha(ends) + process.sigma(ends))).tolist()
    share = ((level - low) / (high - low)).sort().values
    assert (share - torch.linspace(0, 1, 1000, dtype=torch.float64)).abs().max() < 2e-3  # one in each thousandth


def test_fit_is_a_generator_with_averaged_weights_and_moments():
    torch.manual_seed(0)
    model = Model(networks.MLP(2, width=32, blocks=1), VP(), "v")
    data = gaussian().sample(500).float()
    before = [p.clone() for p in model.net.parameters()]
    records = fit(model, data, steps=20, batch_size=50, generator=torch.Generator().manual_seed(0))
    first = next(records)
    assert first.step == 1 and first.loss.ndim == 0
    last = list(records)[-1]
    assert last.step == 20
    assert any(not torch.equal(a, b) for a, b in zip(before, model.net.parameters()))  # trained in place
    assert any(not torch.equal(a, b) for a, b in zip(last.model.net.parameters(), model.net.parameters()))
    mean, covariance = last.model.moments
    assert torch.allclose(mean, data.double().mean(0))
    assert torch.allclose(covariance, data.double().mT.cov(correction=0))


def test_fit_repeats_from_a_generator_and_leaves_the_global_one_alone():
    ends, state = [], None
    for _ in range(2):
        torch.manual_seed(3)
        model = Model(networks.MLP(2, width=16, blocks=1), VE(), "noise")
        state = torch.get_rng_state()
        *_, last = fit(model, targets.moons, 5, batch_size=8, generator=torch.Generator().manual_seed(1))
        ends.append(torch.cat([p.flatten() for p in last.model.net.parameters()]))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*ends)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "prediction"),
    [(VP(), "noise"), (VP(), "x0"), (SubVP(), "v"), (VE(), "noise"), (EDM(), "x0"), (RectifiedFlow(), "velocity")],
    ids=name,
)
def test_a_trained_network_draws_the_mixture(process, prediction):
    """Closer to fresh exact samples than 0.2 beyond the distance of exact samples among themselves, about 0.1."""
    torch.manual_seed(0)
    net = networks.Scaled(networks.MLP(2, width=96, blocks=2), process)
    target = mixture()
    data = target.sample(20_000, torch.Generator().manual_seed(0)).float()
    *_, last = fit(
        Model(net, process, prediction), data, 1500, batch_size=256, lr=2e-3, generator=torch.Generator().manual_seed(1)
    )
    x = sample(last.model, (2000, 2), generator=torch.Generator().manual_seed(2))
    truth = target.sample(2000, torch.Generator().manual_seed(3)).float()
    floor = sliced_wasserstein(truth, target.sample(2000, torch.Generator().manual_seed(4)).float())
    assert sliced_wasserstein(x, truth) < floor + 0.2


def test_ema_is_the_average_it_says():
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    ema = EMA(net, decay=0.9)
    average = net[0].weight.detach().clone()
    for n in range(1, 200):
        with torch.no_grad():
            net[0].weight.copy_(torch.randn(1, 1))
            net[1].running_mean.fill_(n)
        ema.update(net)
        decay = min(0.9, n / (9 + n))
        average = decay * average + (1 - decay) * net[0].weight.detach()
    assert torch.allclose(ema.net[0].weight, average, atol=1e-6)
    assert float(ema.net[1].running_mean) == 199
    assert not ema.net.training and not any(p.requires_grad for p in ema.net.parameters())


def test_moments_are_full_only_where_the_data_allow():
    assert moments(torch.randn(100, 3, 3))[1].shape == (9, 9)
    assert moments(torch.randn(10, 3, 3))[1].shape == (3, 3)
    assert moments(torch.randn(2200, 33, 33))[1].shape == (33, 33)


def test_mlp_and_scaled():
    net = networks.MLP((2, 3), width=8, blocks=2)
    assert not net(torch.randn(4, 2, 3), torch.rand(4)).any()  # starts at zero
    torch.nn.init.normal_(net.leave.weight)
    x = torch.randn(4, 2, 3)
    assert not torch.allclose(net(x, torch.full((4,), 0.2)), net(x, torch.full((4,), 0.8)))
    for process in (VP(), VE(), EDM(), RectifiedFlow()):
        seen = []
        scaled = networks.Scaled(lambda x, t, seen=seen: seen.append((float(x.std()), t)) or x, process)
        t = torch.tensor(process.t_max).expand(5000)
        scaled(process.perturb(torch.randn(5000, 2), t)[0], t)
        assert seen[0][0] == pytest.approx(1.0, abs=0.05) and 0.5 < float(seen[0][1][0]) <= 1.0
        scaled(process.perturb(torch.randn(5000, 2), torch.zeros(5000))[0], torch.zeros(5000))
        assert seen[1][0] == pytest.approx(1.0, abs=0.05) and 0.0 <= float(seen[1][1][0]) < 0.5


def test_sliced_wasserstein_has_its_closed_forms():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    shift = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    # a shift d: D E⟨d, u⟩² = ‖d‖²; 2,000 directions leave 3 %
    assert sliced_wasserstein(x, x + shift, 2000) == pytest.approx(1.3, rel=0.05)
    assert sliced_wasserstein(x, 2 * x, 200) == pytest.approx(math.sqrt(3), rel=0.05)  # scales 1 and 2: √(D · 1)
    assert sliced_wasserstein(x, x[torch.randperm(4000)]) == 0.0
    assert sliced_wasserstein(x[:2000], x.repeat_interleave(2, 0)[:4000], 50) == pytest.approx(0.0, abs=1e-12)
