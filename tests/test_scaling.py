"""Scaling: every level comes back whatever the noise, and densities change as the determinant says."""

import math

import pytest
import torch

from scoresde import targets
from scoresde.scaling import Scaling

LEVELS = (2, 3, 16, 17, 33, 255, 256, 257, 1000, 4095, 65535, 65536)
NOISES = (0.0, 2.0**-24, 0.5, 1 - 2.0**-24)  # torch.rand draws multiples of 2⁻²⁴ from 0 to 1 − 2⁻²⁴


def naive(levels, raw, noise):
    """Dequantization that fills the bins to their ends, and its inverse, in float32."""
    x = (raw + noise - levels / 2) / (levels / 2)
    return (x * (levels / 2) + levels / 2).floor().clamp(0, levels - 1).long()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("noise", NOISES)
def test_every_level_comes_back_at_extreme_noise(levels, noise, monkeypatch):
    scaling, raw = Scaling.of_levels(levels), torch.arange(levels)[:, None]
    monkeypatch.setattr(torch, "rand", lambda shape, generator=None, device=None: torch.full(shape, noise))
    x = scaling(raw)
    assert x.dtype == torch.float32 and float(x.abs().max()) <= 1.0
    assert torch.equal(scaling.inverse(x), raw)
    assert torch.equal(scaling.inverse(x.double()), raw)
    assert torch.equal(scaling(raw, noise=torch.full(raw.shape, noise)), x)
    assert torch.equal(scaling.inverse(scaling(raw, noise=torch.full(raw.shape, noise).double()).float()), raw)


def test_the_naive_inverse_loses_levels_which_the_test_would_see():
    lost = [n for n in LEVELS if not torch.equal(naive(n, torch.arange(n), NOISES[-1]), torch.arange(n))]
    assert 17 in lost and 256 in lost and 65536 in lost


def test_any_dtype_of_levels_gives_the_same_x():
    raw, noise = torch.arange(200)[:, None], torch.rand(200, 1)
    x = Scaling.of_levels(256)(raw, noise=noise)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(Scaling.of_levels(256)(raw.to(dtype), noise=noise), x)


def test_noise_comes_from_the_generator_alone():
    raw, before = torch.randint(0, 17, (5, 8)), torch.get_rng_state()
    draws = [Scaling.of_levels(17)(raw, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_uniform_in_its_bin():
    n, levels = 100_000, 4
    x = Scaling.of_levels(levels)(torch.full((n, 1), 2), torch.Generator().manual_seed(0))
    inside = (x * 2 + 2 - 2).flatten().double()  # in [0, 1) for level 2
    # the empirical distribution function's largest error exceeds 1.95/√n with probability 0.1 % (Kolmogorov)
    steps = torch.arange(1, n + 1).double() / n
    assert float((inside.sort().values - steps).abs().max()) < 1.95 / math.sqrt(n)
    assert float((inside.square().sort().values - steps).abs().max()) > 1.95 / math.sqrt(n)  # a planted error


@pytest.mark.parametrize("scaling", [Scaling(0.3, 2.5), Scaling(torch.tensor([1.0, -2.0, 5.0]), [0.1, 3.0, 40.0])])
def test_log_det_is_the_jacobians(scaling):
    raw = torch.randn(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda r: scaling(r[None])[0], raw)
    assert scaling.log_det((3,)) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-12)


def test_log_det_counts_every_number_of_a_sample():
    assert Scaling.of_levels(256).log_det((3, 4, 4)) == pytest.approx(-48 * math.log(128), abs=1e-10)


def test_density_of_raw_data_changes_by_log_det():
    mean, spread = torch.tensor([3.0, -70.0], dtype=torch.float64), torch.tensor([0.02, 9.0], dtype=torch.float64)
    root = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    covariance = root @ root.mT
    scaled = targets.Gaussian(torch.zeros(2).double(), covariance)
    raw_law = targets.Gaussian(mean, spread[:, None] * covariance * spread)
    scaling = Scaling(mean, spread)

    def log_p(raw):
        return scaled.log_prob(scaling(raw)) + scaling.log_det(raw.shape[1:])

    raw = raw_law.sample(100, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(log_p(raw), raw_law.log_prob(raw), rtol=0, atol=1e-9)
    edges = torch.linspace(-8, 8, 161, dtype=torch.float64)  # the trapezoid rule is exact beyond rounding here
    grid = mean + torch.cartesian_prod(edges, edges) * spread
    assert float(log_p(grid).exp().sum() * 0.01 * spread.prod()) == pytest.approx(1.0, abs=1e-10)


def test_probabilities_of_levels_sum_to_one():
    """P(k) = ∫ over bin k of p(x) |dx/draw|: the bins tile [−1, 1]."""
    levels, scaling, points = 5, Scaling.of_levels(5), 2000
    raw = (torch.arange(levels * points, dtype=torch.float64) + 0.5) / points  # the midpoint rule within each bin
    x = (raw - scaling.shift) / scaling.scale
    density = 0.75 * (1 - x.square())  # integrates to one over [−1, 1]
    mass = (density * math.exp(scaling.log_det((1,)))).reshape(levels, points).mean(1)
    edges = torch.linspace(-1, 1, levels + 1, dtype=torch.float64)
    exact = (0.75 * (edges - edges**3 / 3)).diff()
    torch.testing.assert_close(mass, exact, rtol=0, atol=1e-6)
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-6)


def test_measured_scaling_centres_and_keeps_what_does_not_vary():
    raw = torch.randn(1000, 3, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 1e5]) + torch.tensor([5.0, 0.0, -1e6])
    raw = torch.cat([raw, torch.full((1000, 1), 0.1, dtype=torch.float64)], 1)
    scaling = Scaling.of(raw)
    x = scaling(raw)
    torch.testing.assert_close(x.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-11)
    torch.testing.assert_close(x.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]).double(), rtol=0, atol=1e-11)
    assert float(scaling.scale[3]) == 1.0
    torch.testing.assert_close(scaling.inverse(x), raw, rtol=1e-14, atol=1e-14)
    alike = torch.full((1000, 1), 1.1, dtype=torch.float64)
    assert float(alike.std(0, correction=0)) > 0 and float(Scaling.of(alike).scale) == 1.0  # rounding is no spread


def test_a_mean_far_from_zero_keeps_its_digits():
    raw = (1e4 + 0.01 * torch.randn(1000, 1)).float()
    x = Scaling.of(raw)(raw)
    exact = (raw.double() - raw.double().mean()) / raw.double().std(correction=0)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), exact, rtol=1e-6, atol=1e-6)


def test_half_precision_is_undone_in_float32():
    scaling, raw = Scaling.of_levels(17), torch.arange(17)[:, None]
    x = scaling(raw, noise=torch.full((17, 1), 0.5))  # bin centres, 2⁻⁸ apart from their neighbours' in bfloat16
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(scaling.inverse(x.to(dtype)), raw)
    y = Scaling(100.0, 0.5)(torch.tensor([[100.25]]).half())
    assert y.dtype == torch.float16 and float(y) == 0.5


def test_what_lies_outside_goes_to_the_outermost_levels():
    assert Scaling.of_levels(4).inverse(torch.tensor([[-9.0, -1.0, 1.0, 9.0]])).tolist() == [[0, 0, 3, 3]]


def test_lists_serve_as_tensors():
    raw = torch.tensor([[1.0, 2.0]])
    assert torch.equal(Scaling([1, 0], [2, 4])(raw), torch.tensor([[0.0, 0.5]]))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Scaling(0.0, 0.0), "scale must be positive"),
        (lambda: Scaling(0.0, [1.0, -1.0]), "scale must be positive"),
        (lambda: Scaling(float("nan")), "shift must be finite"),
        (lambda: Scaling("zero"), "shift must hold numbers"),
        (lambda: Scaling.of_levels(1), "levels must be at least 2"),
        (lambda: Scaling.of_levels(2**16 + 1), "levels must be at most 65536"),
        (lambda: Scaling.of_levels(2.5), "levels must be a whole number"),
        (lambda: Scaling.of(torch.empty(0, 2)), "raw must hold at least one sample"),
        (lambda: Scaling.of_levels(17)(torch.zeros(1, 2)), r"raw must be whole levels 0..16.*raw.long\(\)"),
        (lambda: Scaling.of_levels(17)(torch.tensor([[17]])), r"raw must lie in 0..16, got 17 to 17"),
        (lambda: Scaling.of_levels(17)(torch.tensor([[200]], dtype=torch.uint8)), r"raw must lie in 0..16"),
        (lambda: Scaling.of_levels(17)([[1]]), "raw must be a torch.Tensor, got list"),
        (lambda: Scaling()(torch.tensor([[float("inf")]])), "raw must be finite"),
        (lambda: Scaling().inverse(torch.tensor([[float("nan")]])), "x must be finite"),
        (lambda: Scaling([0.0, 1.0])(torch.zeros(2, 3)), r"a sample must fit the scaling's shape \(2,\), got \(3,\)"),
        (lambda: Scaling([0.0, 1.0])(torch.zeros(2)), r"a sample must fit the scaling's shape \(2,\), got \(\)"),
        (lambda: Scaling(0.0, [1.0, 2.0]).log_det((3,)), r"a sample must fit the scaling's shape \(2,\), got \(3,\)"),
    ],
)  # fmt: skip
def test_mistakes_are_named(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_edges_are_those_of_the_outermost_bins():
    assert Scaling.of_levels(17).edges == (-1.0, 1.0)
    low, high = Scaling(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), 4).edges
    assert low.tolist() == [-0.5, -0.5] and high.tolist() == [1.5, 0.5]
    with pytest.raises(ValueError, match="continuous"):
        _ = Scaling(0.0, 2.0).edges
