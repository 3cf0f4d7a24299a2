"""The report against closed forms: losses, optima and gaps by bin, and networks that do and do not look at the time."""

import math

import pytest
import torch

from scoresde import EDM, VP, Model, RectifiedFlow, SubVP, loss, networks, targets
from scoresde.training.report import Report, loss_by_logsnr
from scoresde.training.weighting import WEIGHTINGS
from tests.problems import NAMES, gaussian, mixture, name


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_optimum(report, target, weighting):
    """u(λ) Var(v | x_t)/D of a Gaussian, averaged over each bin (Simpson's rule is not needed: 200 midpoints)."""
    low, high = report.edges[:-1, None], report.edges[1:, None]
    logsnr = low + (high - low) * (torch.arange(200) + 0.5) / 200
    variance = target.variances[0]
    best = (variance / (logsnr.sigmoid()[..., None] * variance + (-logsnr).sigmoid()[..., None])).mean(-1)
    return (WEIGHTINGS[weighting](logsnr) * best).mean(1)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("process", [VP(), SubVP(), EDM(), RectifiedFlow()], ids=name)
def test_an_exact_model_has_the_optimum_and_no_gap(process, prediction):
    """Losses within 4.5 standard errors of the closed form (the worst of 20 × 8 bins), gaps of nothing but rounding."""
    target, weighting = gaussian(), "min_snr"
    data = target.sample(20_000, seeded())
    report = loss_by_logsnr(
        target.model(process, prediction), data, 8, 2000, target=target, weighting=weighting, generator=seeded(1)
    )
    known = mean_optimum(report, target, weighting)
    assert ((report.loss - known).abs() < 4.5 * report.standard_error).all()
    assert (report.standard_error < 0.05 * known).all()
    assert torch.equal(report.loss, report.optimum) and report.gap.max() < 1e-20
    assert not report.time_blind and report.told_wrong.sum() > 1.1 * report.loss.sum()


def test_a_known_fault_is_the_gap():
    """ε̂ + c sin λ: the gap of the noise is c² sin²λ, exactly; as a difference of losses it drowns."""
    target, process, c = mixture(), VP(), 0.01
    exact = target.model(process, "noise")
    model = exact.wrap(lambda model, x, t: model(x, t) + c * process.logsnr(t).sin()[:, None])
    data = target.sample(20_000, seeded())
    report = loss_by_logsnr(model, data, 8, 2000, target=target, weighting="simple", generator=seeded(1))
    low, high = report.edges[:-1, None], report.edges[1:, None]
    known = c**2 * (low + (high - low) * (torch.arange(2000) + 0.5) / 2000).sin().square().mean(1)
    assert torch.allclose(report.gap, known, rtol=1e-2)  # times are even within a bin
    assert (report.gap_error < 0.05 * known).all()
    rise = report.loss - report.optimum
    assert ((rise - known).abs() < 5 * (report.standard_error + report.gap_error)).all()
    assert (report.standard_error[2:] > 1000 * report.gap_error[2:]).all()


@pytest.mark.parametrize("prediction", NAMES)
def test_the_gap_is_the_same_number_in_every_prediction(prediction):
    """The same estimates, converted: one gap, for a weighting on v."""
    target, process = mixture(), RectifiedFlow()
    other = targets.Gaussian(*target.moments).model(process, "v")  # the Gaussian of the moments, as a network

    def as_prediction(model, x, t):
        return other.predict(prediction, x, t)

    model = Model(lambda x, t: as_prediction(None, x, t), process, prediction)
    data = target.sample(5000, seeded())
    got, base = (loss_by_logsnr(m, data, 6, 500, target=target, generator=seeded(1)) for m in (model, other))
    assert torch.allclose(got.gap, base.gap, rtol=1e-9) and torch.allclose(got.loss, base.loss, rtol=1e-9)
    assert (base.gap > 10 * base.gap_error).any()


def blind(process):
    """The best one can say without the time, nearly: a network of x alone."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    return Model(lambda x, t: net(x), process, "v")


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
def test_time_blind_networks_are_seen_and_others_are_not(process):
    data = mixture().sample(5000, seeded()).float()
    report = loss_by_logsnr(blind(process), data, 5, 400, generator=seeded(1))
    assert report.time_blind and torch.equal(report.told_wrong, report.loss)
    assert "does not look at the time" in str(report)
    for prediction in NAMES:
        report = loss_by_logsnr(mixture().model(process, prediction), data, 5, 400, generator=seeded(1))
        assert not report.time_blind and "looks at the time" in str(report)
    fresh = Model(networks.MLP(2, width=16), process, "v")  # starts at zero, whatever the time
    assert loss_by_logsnr(fresh, data, 5, 400, generator=seeded(1)).time_blind


def test_without_a_target_and_with_every_weighting():
    data = gaussian().sample(500, seeded())
    for weighting in (*WEIGHTINGS, None, lambda logsnr: logsnr.sigmoid()):
        report = loss_by_logsnr(gaussian().model(VP()), data, 3, 50, weighting=weighting, generator=seeded(1))
        assert isinstance(report, Report) and report.optimum is None and report.gap is None
        assert (report.loss > 0).all() and (report.standard_error > 0).all()


def test_the_bins_are_those_of_the_process():
    data = gaussian().sample(100, seeded())
    for process in (VP(), RectifiedFlow()):
        report = loss_by_logsnr(gaussian().model(process), data, 4, 10)
        assert float(report.edges[-1]) == pytest.approx(float(process.logsnr(process.t_min)))
        assert float(report.edges[0]) == pytest.approx(max(float(process.logsnr(1.0)), -2 * math.log(1000)))
        assert report.logsnr.shape == (4,)


def test_it_is_the_loss_that_training_sees():
    """The mean over bins is that of `loss` at times uniform in λ, within 4 standard errors."""
    data, model = mixture().sample(20_000, seeded()), targets.Gaussian(*mixture().moments).model(VP(), "v")
    report = loss_by_logsnr(model, data, 10, 2000, weighting="p2", generator=seeded(1))
    values = loss(model, data, generator=seeded(2), weighting="p2", times="logsnr")
    error = math.hypot(float(values.std()) / math.sqrt(len(data)), float(report.standard_error.norm()) / 10)
    assert abs(float(values.mean() - report.loss.mean())) < 4 * error


@pytest.mark.parametrize("chunk", [4096, 37])
def test_conditions_go_with_their_rows_in_pieces_of_any_size(chunk, monkeypatch):
    """Data that are constant for a label, and a model that is told which."""
    monkeypatch.setattr("scoresde.training.report.CHUNK", chunk)
    label = torch.arange(60) % 3
    data = label[:, None].double().repeat(1, 2)

    def net(x, t, label, shift):
        return label[:, None].to(x) + shift * torch.ones_like(x)

    report = loss_by_logsnr(Model(net, VP(), "x0"), data, 3, 40, weighting="x0", label=label, shift=0.1)
    assert torch.allclose(report.loss, torch.full((3,), 0.01, dtype=torch.float64))


def test_it_repeats_and_chance_is_left_alone():
    data, state = mixture().sample(1000, seeded()), torch.get_rng_state()
    model = mixture().model(VP())
    one, two = (loss_by_logsnr(model, data, 3, 50, generator=seeded(1)) for _ in range(2))
    assert torch.equal(one.loss, two.loss) and torch.equal(state, torch.get_rng_state())
    assert not one.loss.requires_grad and torch.is_grad_enabled()


def test_the_table_is_aligned():
    report = loss_by_logsnr(gaussian().model(VP()), gaussian().sample(100, seeded()), 4, 10, target=gaussian())
    title, head, *rows, verdict = str(report).splitlines()
    assert title == "Loss by log-SNR, weighting v" and len(rows) == 4 and verdict.endswith("the time.")
    assert all(len(row) == len(head) for row in rows)
    assert head.split()[:4] == ["log-SNR", "σ/α", "loss", "±"]


X, MODEL = torch.randn(20, 2), mixture().model(VP())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_by_logsnr(None, X), "model must be"),
        (lambda: loss_by_logsnr(MODEL, X.long()), "data must have a floating dtype"),
        (lambda: loss_by_logsnr(MODEL, X * math.nan), "data must be finite"),
        (lambda: loss_by_logsnr(MODEL, X[:0]), "at least one number"),
        (lambda: loss_by_logsnr(MODEL, X, 0), "bins must be"),
        (lambda: loss_by_logsnr(MODEL, X, 3, 1), "samples must be at least 2"),
        (lambda: loss_by_logsnr(MODEL, X, target="moons"), "target must be a Target"),
        (lambda: loss_by_logsnr(MODEL, X, weighting="u"), "unknown weighting"),
        (lambda: loss_by_logsnr(MODEL, X, generator=0), "generator must be"),
        (lambda: loss_by_logsnr(Model(lambda x, t: x / 0, VP()), X), "the loss is not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
