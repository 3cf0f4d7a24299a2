"""`measure`: errors that cover the truth as often as they say, floors, and refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from scoresde import metrics
from scoresde.metrics import METRICS, Estimate, Metric, fit_features, measure
from scoresde.metrics.halves import half_sampling
from tests.test_metrics import gaussian_energy, gaussian_mmd, normal

LEVELS = {0.6827: 1.0, 0.95: 1.96}
X, Y = normal(60, 3) + 1, normal(60, 3, seed=1)


def repeat(name, n, m, dim, shift, repeats, estimate=None):
    """Values and standard errors of many draws of both sets: N(shift e₁, I) and N(0, I)."""
    estimate = estimate or METRICS[name].estimate
    x, y = normal(repeats, n, dim, seed=7), normal(repeats, m, dim, seed=8)
    x[..., 0] += shift
    source = torch.Generator().manual_seed(0)
    return np.array([estimate(a, b, 40, source) for a, b in zip(x, y)]).T


def hits(values, errors, truth):
    return [int((abs(values - truth) <= z * errors).sum()) for z in LEVELS.values()]


def bounds(repeats, tail=5e-4):
    """Least and most hits, at each level, of intervals that cover as often as they say."""
    return [binom.ppf([tail, 1 - tail], repeats, level) for level in LEVELS]


def covers(found, repeats, at_least=False):
    return all(low <= hit and (at_least or hit <= high) for hit, (low, high) in zip(found, bounds(repeats)))


def mmd_estimate(x, y, *_):
    from scoresde.metrics import kernel

    return kernel._estimate(x, y, lambda squares: torch.exp(-squares / 2 / 1.5**2))


# name, sizes, dimension, shift, truth (None: the mean at these sizes, of the draws themselves: its error is 6 % of one)
APART = [
    ("mmd", 100, 100, 2, 2.0, gaussian_mmd(2.0, 2, 1.0, 1.5)),
    ("mmd", 60, 120, 4, 2.5, gaussian_mmd(2.5, 4, 1.0, 1.5)),
    ("energy_distance", 100, 100, 1, 1.5, gaussian_energy(1.5, 1.0)),
    ("energy_distance", 60, 120, 1, 2.0, gaussian_energy(2.0, 1.0)),
    ("frechet", 100, 100, 2, 2.0, None),
    ("frechet", 80, 150, 4, 2.5, None),
    ("sliced_wasserstein", 100, 100, 2, 1.5, None),
    ("wasserstein", 60, 60, 5, 2.0, None),
    ("wasserstein", 80, 80, 1, 1.5, 1.5),
    ("precision", 100, 100, 16, 0.0, None),
    ("recall", 120, 80, 8, 1.0, None),
]


@pytest.mark.parametrize("name,n,m,dim,shift,truth", APART, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_intervals_cover_as_often_as_they_say(name, n, m, dim, shift, truth):
    repeats = 300
    values, errors = repeat(name, n, m, dim, shift, repeats, mmd_estimate if name == "mmd" else None)
    truth = values.mean() if truth is None else truth
    assert covers(hits(values, errors, truth), repeats), (hits(values, errors, truth), bounds(repeats))
    assert not covers(hits(values, errors / 1.5, truth), repeats), "errors too small by 1.5 must be seen"
    assert not covers(hits(values, errors * 2, truth), repeats), "and too large by 2"


NULL = [("mmd", 3), ("energy_distance", 1), ("energy_distance", 3), ("frechet", 1), ("frechet", 8)]
NULL += [("sliced_wasserstein", 3), ("wasserstein", 1), ("wasserstein", 8), ("precision", 3), ("recall", 8)]


@pytest.mark.parametrize("name,dim", NULL)
def test_intervals_of_equal_laws_cover_at_least_so_often(name, dim):
    repeats = 200
    values, errors = repeat(name, 80, 80, dim, 0.0, repeats)
    truth = 0.0 if name in ("mmd", "energy_distance") else values.mean()
    assert covers(hits(values, errors, truth), repeats, at_least=True)
    assert errors.mean() < 2.6 * values.std()  # what that costs
    assert not covers(hits(values, errors / 4, truth), repeats, at_least=True), "errors too small by 4 must be seen"


@pytest.mark.parametrize("name,dim", [("mmd", 2), ("energy_distance", 1), ("frechet", 2)])
def test_intervals_near_equal_laws_cover_too(name, dim):
    # some deviations of the null away, where the values are skewed and the jackknife errs low together with them
    repeats = 300
    values, errors = repeat(name, 100, 100, dim, 0.3, repeats, mmd_estimate if name == "mmd" else None)
    truth = {"mmd": gaussian_mmd(0.3, 2, 1.0, 1.5), "energy_distance": gaussian_energy(0.3, 1.0)}.get(
        name, values.mean()
    )
    assert covers(hits(values, errors, truth), repeats, at_least=True)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_of_the_classifier_cover(shift):
    repeats = 20
    values, errors = repeat("classifier_test", 60, 60, 2, shift, repeats)
    assert covers(hits(values, errors, values.mean()), repeats, at_least=True)
    assert not covers(hits(values, errors / 4, values.mean()), repeats, at_least=True)


def test_half_sampling_of_a_mean_is_its_standard_error():
    # E over cuts of (V − V′)²/4 is S²/n + S²/m exactly; 2000 cuts of χ²₁: 3.2 %, four of them
    x, y = normal(40, 1), 3 * normal(30, 1, seed=1)
    found = half_sampling(lambda i, j: float(x[i].mean() - y[j].mean()), 40, 30, 4000, torch.Generator().manual_seed(0))
    assert found**2 == pytest.approx(float(x.var() / 40 + y.var() / 30), rel=0.13)


def test_errors_shrink_as_the_root_of_the_size():
    for name in ("sliced_wasserstein", "mmd", "energy_distance", "frechet", "wasserstein"):
        few, many = (METRICS[name].estimate(normal(n, 2) + 2, normal(n, 2, seed=1), 200, None)[1] for n in (100, 900))
        assert few / many == pytest.approx(3, rel=0.35), (
            name
        )  # an error of an error: 7 % at 100 normal numbers, and more


# --- measure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_the_value_is_the_metric_and_the_floor_that_of_real_ones(name):
    other = normal(60, 3, seed=2)
    estimate = measure(name, X, Y, other)
    function = METRICS[name].function
    assert estimate.value == pytest.approx(function(X, Y), rel=1e-9, abs=0.1 if name == "classifier_test" else 0)
    assert estimate.floor == pytest.approx(function(other, Y), rel=1e-9, abs=0.2 if name == "classifier_test" else 0)
    assert measure(name, X, Y, other) == estimate
    assert estimate.standard_error > 0 and estimate.floor_error > 0
    better = METRICS[name].better
    assert (estimate.value > estimate.floor) if better == "lower" else (estimate.value < estimate.floor)


@pytest.mark.parametrize("name", ["wasserstein", "sliced_wasserstein", "frechet"])
def test_real_halves_give_the_floor_the_same_bias(name):
    # perfect samples: value and floor have one law, so their differences over 40 draws have the mean 0
    values = [measure(name, *normal(2, 100, 6, seed=seed), draws=20) for seed in range(40)]
    gaps = np.array([estimate.value - estimate.floor for estimate in values])
    assert abs(gaps.mean()) < 4 * gaps.std() / 40**0.5
    whole = [METRICS[name].function(*normal(2, 100, 6, seed=seed)) for seed in range(40)]
    gaps = np.array([value - estimate.floor for value, estimate in zip(whole, values)])
    assert abs(gaps.mean()) > 4 * gaps.std() / 40**0.5, "twice the size, another bias, must be seen"


def test_a_metric_of_ones_own_is_one_line(monkeypatch):
    def gap(x, y):
        return float((x.mean(0) - y.mean(0)).norm())

    monkeypatch.setitem(METRICS, "mine", Metric(gap))
    assert METRICS["mine"].label == "gap" and METRICS["mine"].better == "lower"
    estimate = measure("mine", X, Y)
    assert estimate.standard_error == pytest.approx(math.sqrt(2 / 30), rel=0.4)
    assert measure(Metric(gap), X, Y) == estimate


def test_wasserstein_takes_what_it_can():
    estimate = measure("wasserstein", normal(1300, 1) + 5, normal(2411, 1, seed=1))
    assert estimate.value == pytest.approx(5.0, abs=0.3) and estimate.floor < 0.3
    assert measure("wasserstein", normal(1100, 2), normal(2101, 2)).standard_error < 0.1
    assert measure("wasserstein", X, normal(47, 3, seed=1), normal(31, 3, seed=2)).value > 0


def test_features_come_first():
    x = normal(120, 3).float()
    features = fit_features(x, steps=20)
    with torch.no_grad():
        direct = measure("frechet", features(x[:50]), features(x[50:]))
    assert measure("frechet", x[:50], x[50:], features=features) == direct


def test_nothing_global_changes():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        one = measure("classifier_test", X.requires_grad_(False), Y)
        fit_features(normal(60, 3), steps=2)
    for name in METRICS:
        measure(name, X, Y, draws=20)
    assert torch.equal(state, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert measure("classifier_test", X, Y) == one
    before = X.clone()
    measure("precision", X, Y)
    assert torch.equal(X, before)


def test_estimates_print_and_give_intervals():
    assert str(Estimate(0.1324, 0.0041, 0.1291, 0.003)) == "0.132 ± 0.004 (floor 0.129)"
    assert str(Estimate(0.1324, 0.0014, 0.1291, 0.003)) == "0.1324 ± 0.0014 (floor 0.1291)"
    assert str(Estimate(-0.00004, 0.003, -0.0001, 0.003)) == "0.000 ± 0.003 (floor 0.000)"
    assert str(Estimate(5210.3, 130.0, 12.0, 1.0)) == "5210 ± 130 (floor 12)"
    assert str(Estimate(1e-12, 1e-13, 0.0, 0.0)) == "1e-12 ± 1e-13 (floor 0)"
    assert str(Estimate(1.0, 0.0, 1.0, 0.0)) == "1.000 ± 0.000 (floor 1.000)"
    low, high = Estimate(1.0, 0.5, 0.0, 0.1).interval(0.6827)
    assert (low, high) == pytest.approx((0.5, 1.5), abs=1e-4)
    with pytest.raises(ValueError, match="finite"):
        Estimate(math.nan, 0.1, 0.1, 0.1)


def broken(x, value=math.nan):
    x = x.clone()
    x[0, 0] = value
    return x


REFUSALS = {
    "unknown": (lambda: measure("slicedwasserstein", X, Y), "Did you mean 'sliced_wasserstein'"),
    "shapes": (lambda: measure("mmd", X, Y[:, :2]), "samples and real"),
    "other": (lambda: measure("mmd", X, Y, Y[:, :2]), "other and real"),
    "few": (lambda: measure("mmd", X[:5], Y), "samples must hold at least 12"),
    "few real": (lambda: measure("mmd", X, Y[:20]), "real must hold at least 24"),
    "nan": (lambda: measure("mmd", broken(X), Y), "samples must be finite, got 1 NaN"),
    "inf": (lambda: measure("mmd", X, broken(Y, math.inf)), "real must be finite"),
    "integers": (lambda: measure("mmd", X.long(), Y), "write samples.float"),
    "numpy": (lambda: measure("mmd", X.numpy(), Y), "torch.as_tensor"),
    "draws": (lambda: measure("mmd", X, Y, draws=1), "draws"),
    "generator": (lambda: measure("mmd", X, Y, generator=3), "generator"),
    "features": (lambda: measure("mmd", X, Y, features=3), "features must be a function"),
    "features' shape": (lambda: measure("mmd", X, Y, features=lambda x: x.sum(1)), "features must be x"),
    "features' nan": (lambda: measure("mmd", X, Y, features=lambda x: x.log()), "features.samples. must be finite"),
    "metric's nan": (lambda: measure(Metric(lambda x, y: math.nan), X, Y), "finite number"),
    "better": (lambda: Metric(metrics.mmd, "up"), "better must be"),
    "function": (lambda: Metric("mmd"), "function must be"),
    "level": (lambda: Estimate(0.0, 1.0, 0.0, 1.0).interval(95), "write 0.95"),
    "empty": (lambda: metrics.wasserstein(X[:0], Y), "at least one sample"),
    "numbers": (lambda: metrics.energy_distance(X[:, 0], Y), "for numbers"),
    "one": (lambda: metrics.energy_distance(X[:1], Y), "at least 2 samples"),
    "sizes": (lambda: metrics.wasserstein(normal(97, 2), normal(101, 2)), "subsample"),
    "large": (lambda: metrics.wasserstein(normal(4001, 2), normal(4001, 2)), "subsample"),
    "bandwidth": (lambda: metrics.mmd(X, Y, 0.0), "bandwidth must be a positive"),
    "no bandwidth": (lambda: metrics.mmd(X, torch.zeros(10, 3)), "give the bandwidth"),
    "k": (lambda: metrics.precision(X, Y[:5]), "at least 6 samples"),
    "k kind": (lambda: metrics.precision(X, Y, 2.0), "k must be"),
    "folds": (lambda: metrics.classifier_test(X, Y, folds=1), "folds"),
    "fold sizes": (lambda: metrics.classifier_test(X[:8], Y), "at least 10"),
    "covariance": (lambda: metrics.frechet(X[:1], Y), "at least 2"),
    "gaussian shape": (lambda: metrics.frechet_gaussians(X[0], torch.eye(2), X[0], torch.eye(3)), "C1 must have"),
    "gaussian sign": (lambda: metrics.frechet_gaussians(X[0], -torch.eye(3), X[0], torch.eye(3)), "eigenvalue -1"),
    "gaussian symmetry": (lambda: metrics.frechet_gaussians(X[0], normal(3, 3), X[0], torch.eye(3)), "symmetric"),
    "gaussian nan": (lambda: metrics.frechet_gaussians(broken(X)[0], torch.eye(3), X[0], torch.eye(3)), "finite"),
    "fit few": (lambda: fit_features(X[:20]), "at least 50"),
    "fit labels": (lambda: fit_features(X, torch.zeros(60)), "labels must be whole"),
    "fit one label": (lambda: fit_features(X, torch.zeros(60).long()), "two classes"),
    "fit steps": (lambda: fit_features(X, steps=0), "steps"),
    "features on another shape": (lambda: fit_features(X, steps=1)(X[:, :2]), "x must have shape"),
    "inception range": (lambda: metrics.inception_features(low=1, high=0), "low must"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_told(name):
    call, message = REFUSALS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call()
