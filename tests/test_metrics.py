"""Distances against closed forms and identities."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import linalg, optimize
from scipy.stats import norm

from scoresde import metrics
from scoresde.metrics import METRICS, frechet_gaussians, kernel, transport

DISTANCES = ["sliced_wasserstein", "wasserstein", "mmd", "energy_distance", "frechet"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim):
    return torch.linalg.qr(normal(dim, dim, seed=9))[0]


# --- identities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METRICS if name != "classifier_test"])
def test_order_place_and_direction_of_the_sets_do_not_matter(name):
    function, x, y = METRICS[name].function, normal(60, 3) + 0.5, normal(60, 3, seed=1)
    value = function(x, y)
    order = torch.randperm(60)
    assert function(x[order], y.flip(0)) == pytest.approx(value, rel=1e-9)
    assert function(x + 1e3, y + 1e3) == pytest.approx(value, rel=1e-8)
    if name != "sliced_wasserstein":  # its directions are fixed
        turn = rotation(3)
        assert function(x @ turn, y @ turn) == pytest.approx(value, rel=1e-8)
    assert function(x.reshape(60, 3, 1), y.reshape(60, 3, 1)) == value
    assert function(x.float(), y.float()) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", ["sliced_wasserstein", "wasserstein", "energy_distance", "frechet"])
def test_distances_scale_with_the_numbers(name):
    x, y = normal(50, 3) + 0.5, normal(50, 3, seed=1)
    power = 2 if name == "frechet" else 1
    function = METRICS[name].function
    assert function(3 * x, 3 * y) == pytest.approx(3**power * function(x, y), rel=1e-9)
    assert function(x, y) == pytest.approx(function(y, x), rel=1e-9)


def test_mmd_scales_with_the_bandwidth_and_takes_it_from_the_real_ones():
    x, y = normal(50, 3) + 0.5, normal(40, 3, seed=1)
    assert metrics.mmd(3 * x, 3 * y, 3.0) == pytest.approx(metrics.mmd(x, y, 1.0), rel=1e-9)
    assert metrics.mmd(3 * x, 3 * y) == pytest.approx(metrics.mmd(x, y), rel=1e-9)
    median = float(torch.pdist(y).median())
    assert metrics.mmd(x, y) == pytest.approx(metrics.mmd(x, y, median), rel=1e-9)
    assert metrics.mmd(10 * x, y) == pytest.approx(metrics.mmd(10 * x, y, median), rel=1e-9)


@pytest.mark.parametrize("name", ["wasserstein", "frechet"])
def test_a_shift_costs_its_length(name):
    x, shift = normal(50, 3), torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    assert METRICS[name].function(x, x + shift) == pytest.approx(3.0 if name == "wasserstein" else 9.0, rel=1e-9)


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_sets_have_no_distance(name):
    x = normal(50, 3)
    bound = 0.0 if name in ("mmd", "energy_distance") else 1e-6  # the unbiased ones fall below zero
    assert METRICS[name].function(x, x.clone()) <= bound


# --- optimal transport ----------------------------------------------------------------------------------------------


def test_wasserstein_is_the_best_of_all_pairings():
    x, y = normal(6, 2), normal(6, 2, seed=1)
    best = min((x - y[list(order)]).square().sum(1).mean() for order in itertools.permutations(range(6)))
    assert metrics.wasserstein(x, y) == pytest.approx(float(best) ** 0.5, rel=1e-12)


def test_wasserstein_of_unequal_sizes_is_the_linear_program():
    x, y = normal(4, 2), normal(6, 2, seed=1)
    cost = torch.cdist(x, y).square().flatten().numpy()
    sides = np.concatenate([np.kron(np.eye(4), np.ones(6)), np.kron(np.ones(4), np.eye(6))])
    found = optimize.linprog(cost, A_eq=sides, b_eq=[1 / 4] * 4 + [1 / 6] * 6)
    assert metrics.wasserstein(x, y) == pytest.approx(found.fun**0.5, rel=1e-9)


def test_in_one_dimension_all_transport_is_between_quantiles():
    x, y = normal(70, 1) * 2, normal(70, 1, seed=1)
    truth = float((x.sort(0).values - y.sort(0).values).square().mean().sqrt())
    assert metrics.wasserstein(x, y) == pytest.approx(truth, rel=1e-12)
    assert metrics.wasserstein(torch.cat([x, 0 * x], 1), torch.cat([y, 0 * y], 1)) == pytest.approx(truth, rel=1e-12)
    assert metrics.sliced_wasserstein(x, y) == pytest.approx(truth, rel=1e-12)
    y = normal(35, 1, seed=2)
    assert metrics.wasserstein(x, y) == pytest.approx(metrics.sliced_wasserstein(x, y), rel=1e-12)


@pytest.mark.parametrize("name", ["sliced_wasserstein", "wasserstein"])
def test_transport_between_normal_laws(name):
    # 1-D: W² = δ² + (s₁ − s₂)²; five of its own standard errors, and a bias of W² of at most 2 log log n/n (1 + s²)
    n, delta, s = 1000, 1.0, 2.0
    x, y = normal(n, 1) * s + delta, normal(n, 1, seed=1)
    value, error = METRICS[name].estimate(x, y, 200, None)
    truth = math.sqrt(delta**2 + (s - 1) ** 2)
    assert 0.02 < error < 0.08
    assert abs(value - truth) < 5 * error + (1 + s * s) * math.log(math.log(n)) / n / truth
    assert abs(value / 2**0.5 - truth) > 5 * error, "a missing factor must be seen"


@pytest.mark.parametrize("shape", [(40, 1), (40, 3)])
def test_dual_variables_prove_the_pairing_optimal(shape):
    # weak duality: u_i + v_j ≤ c_ij with Σ(u + v)/n = W² holds for an optimal pairing only
    x, y = normal(*shape), normal(*shape, seed=1)
    cost = torch.cdist(x, y).square()
    columns = torch.as_tensor(optimize.linear_sum_assignment(cost.numpy())[1])
    paired = cost[:, columns].diagonal()
    for edges, sign in ((cost[:, columns] - paired, 1), ((cost[:, columns] - paired).T, -1)):
        u = sign * transport._shortest(edges)
        assert float((cost[:, columns] - u[:, None] - (paired - u)).min()) > -1e-9
    off = columns.roll(1)  # and fails for another pairing
    worse = cost[:, off].diagonal()
    u = transport._shortest(cost[:, off] - worse)
    assert float((cost[:, off] - u[:, None] - (worse - u)).min()) < -1e-3


def test_both_ways_to_the_error_of_transport_agree_on_a_line():
    x, y = normal(300, 1) * 2 + 1, normal(300, 1, seed=1)
    one, two = METRICS["sliced_wasserstein"].estimate(x, y, 200, None)[1], METRICS["wasserstein"]
    two = two.estimate(*(torch.cat([side, 0 * side], 1) for side in (x, y)), 200, None)[1]  # the line in the plane
    assert one == pytest.approx(two, rel=0.02)  # the potential is known to a gap between samples, 1/300 of the whole


# --- kernels --------------------------------------------------------------------------------------------------------


def gaussian_mmd(shift, dim, s, h):
    return 2 * (h * h / (h * h + 2 * s * s)) ** (dim / 2) * (1 - math.exp(-shift * shift / 2 / (h * h + 2 * s * s)))


def folded(mean, s):
    """E|N(mean, s²)|."""
    return s * math.sqrt(2 / math.pi) * math.exp(-mean * mean / 2 / s / s) + mean * (1 - 2 * norm.cdf(-mean / s))


def gaussian_energy(shift, s):
    return 2 * folded(shift, math.sqrt(1 + s * s)) - folded(0, math.sqrt(2)) - folded(0, s * math.sqrt(2))


def mean_score(function, truth, dim, shift, s=1.0, n=20, m=30, repeats=1500):
    """How many standard errors the mean of many small draws is from the truth."""
    x, y = normal(repeats, n, dim, seed=3) * s, normal(repeats, m, dim, seed=4)
    x[..., 0] += shift
    values = torch.tensor([function(a, b) for a, b in zip(x, y)])
    return abs(float(values.mean()) - truth) / float(values.std() / repeats**0.5)


def biased(x, y, k):
    return float(k(torch.cdist(x, x).square()).mean() + k(torch.cdist(y, y).square()).mean()) - 2 * float(
        k(torch.cdist(x, y).square()).mean()
    )


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_mmd_has_its_closed_form_without_bias(shift):
    truth = gaussian_mmd(shift, 3, 1.0, 1.5)
    assert mean_score(lambda x, y: metrics.mmd(x, y, 1.5), truth, 3, shift) < 4  # normal: 6e-5
    assert mean_score(lambda x, y: biased(x, y, lambda d: torch.exp(-d / 4.5)), truth, 3, shift) > 6, "with diagonals"
    if shift > 1:
        assert mean_score(lambda x, y: metrics.mmd(x, y, 1.5 / 2**0.5), truth, 3, shift) > 6, "exp(−d²/h²)"


@pytest.mark.parametrize("shift,s", [(0.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_energy_distance_has_its_closed_form_without_bias(shift, s):
    truth = gaussian_energy(shift, s)
    assert mean_score(metrics.energy_distance, truth, 1, shift, s) < 4
    assert mean_score(lambda x, y: biased(x, y, lambda d: -d.sqrt()), truth, 1, shift, s) > 6


def test_energy_distance_on_a_line_is_between_distribution_functions():
    # the biased one is 2 ∫ (F − G)²; the U-statistic lacks its diagonals, E‖X − X′‖ n/(n − 1)
    x, y = normal(7, 1), normal(5, 1, seed=1)
    grid = torch.cat([x, y]).flatten().sort().values
    gap = (x <= grid).double().mean(0) - (y <= grid).double().mean(0)
    whole = float(2 * (gap[:-1].square() * grid.diff()).sum())
    within = float(torch.cdist(x, x).sum() / (49 * 6) + torch.cdist(y, y).sum() / (25 * 4))
    assert metrics.energy_distance(x, y) == pytest.approx(whole - within, rel=1e-9)


def test_kernels_in_blocks_are_those_in_one(monkeypatch):
    x, y = normal(1500, 2), normal(1100, 2, seed=1)
    k = torch.exp(-torch.cdist(x, y).square() / 2)
    rows, columns, square = kernel._sums(x, y, lambda d: torch.exp(-d / 2))
    assert torch.allclose(rows, k.sum(1)) and torch.allclose(columns, k.sum(0))
    assert square == pytest.approx(float(k.square().sum()))
    rows, _, square = kernel._sums(x, x, lambda d: torch.exp(-d / 2), same=True)
    k = torch.exp(-torch.cdist(x, x).square() / 2).fill_diagonal_(0.0)
    assert torch.allclose(rows, k.sum(1)) and square == pytest.approx(float(k.square().sum()))


def test_the_second_order_term_is_the_variance_of_equal_laws():
    # B without bias: for h = Σ over pairs of a degenerate kernel, k = x·y of x ~ N(2, I) in D dimensions, E k̃² = D
    values = [kernel._centred(*centred_sums(normal(12, 3, seed=seed) + 2)) for seed in range(800)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values) - 3) < 4 * error and error < 0.2
    assert abs(np.mean(values) * 12 / 9 - 3) > 4 * error, "a wrong denominator must be seen"


def centred_sums(x):
    k = (x @ x.T).fill_diagonal_(0.0)
    return k.sum(1), float(k.square().sum())


# --- Fréchet --------------------------------------------------------------------------------------------------------


def covariance(rank, dim, seed):
    root = normal(dim, rank, seed=seed)
    return root @ root.T


@pytest.mark.parametrize("ranks", [(4, 4), (4, 2), (2, 2), (1, 3), (0, 4), (0, 0)])
def test_frechet_of_gaussians_against_scipy(ranks):
    (m1, m2), (C1, C2) = normal(2, 4, seed=5), (covariance(rank, 4, 6 + i) for i, rank in enumerate(ranks))
    root = linalg.sqrtm(C1.numpy()) if ranks[0] == 4 else None
    if root is None:  # sqrtm of a singular matrix is not accurate: by eigenvalues
        values, vectors = np.linalg.eigh(C1.numpy())
        root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ C2.numpy() @ root).clip(0)
    truth = float((m1 - m2).square().sum() + C1.trace() + C2.trace()) - 2 * np.sqrt(middle).sum()
    assert frechet_gaussians(m1, C1, m2, C2) == pytest.approx(truth, rel=1e-7)  # √ of rounding in the eigenvalues
    assert frechet_gaussians(m1, C1, m1, C1) == pytest.approx(0.0, abs=1e-12)
    if ranks == (4, 4):
        assert np.trace(linalg.sqrtm((C1 @ C2).numpy())).real == pytest.approx(np.sqrt(middle).sum(), rel=1e-9)


def test_frechet_of_gaussians_in_closed_form():
    zero, one = torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4.0, 9.0]).double())
    assert frechet_gaussians(zero, one, zero, torch.eye(3).double() * 4) == pytest.approx(1 + 0 + 1, rel=1e-12)
    v = torch.tensor([3.0, 0.0, 4.0]).double()  # tr (v vᵀ)^{1/2} = ‖v‖
    assert frechet_gaussians(zero, torch.outer(v, v), zero, torch.eye(3).double()) == pytest.approx(25 + 3 - 10)


def test_frechet_of_sets_is_that_of_their_moments():
    x, y = normal(60, 4) * 2 + 1, normal(80, 4, seed=1)
    truth = frechet_gaussians(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert metrics.frechet(x, y) == pytest.approx(truth, rel=1e-10)
    assert metrics.frechet(x, y, features=lambda x: x[:, :2] ** 2) == metrics.frechet(x[:, :2] ** 2, y[:, :2] ** 2)
    few = metrics.frechet(x[:3], y[:3])  # fewer samples than dimensions
    truth = frechet_gaussians(x[:3].mean(0), x[:3].T.cov(), y[:3].mean(0), y[:3].T.cov())
    assert few == pytest.approx(truth, rel=1e-8)


@pytest.mark.parametrize("rank", [3, 2])
def test_the_influence_in_frechet_is_a_derivative(rank):
    # s without its second-order term against the jackknife by leaving out, which is the same to 1/n
    n, flat = 150, torch.eye(3).double()
    flat[rank:] = 0
    one, two = normal(2, 3, 3, seed=5)  # covariances that do not commute
    x, y = 2 * normal(n, 3) @ one @ flat, normal(n, 3, seed=1) @ two @ flat
    without = [metrics.frechet(x[torch.arange(n) != i], y) for i in range(n)]
    without_y = [metrics.frechet(x, y[torch.arange(n) != i]) for i in range(n)]
    jackknife = math.sqrt((n - 1) ** 2 / n * (np.var(without) + np.var(without_y)))
    own = np.linalg.eigvalsh(((x.T.cov() + y.T.cov()) / 2).numpy()).clip(1e-300)
    pairs = np.tril(own[:, None] * own / (own[:, None] + own))
    second = 2 * (2 / n) ** 2 * ((own**2).sum() + (pairs**2).sum())
    error = METRICS["frechet"].estimate(x, y, 200, None)[1]
    assert math.sqrt(error**2 - 3 * second) == pytest.approx(jackknife, rel=0.05)
