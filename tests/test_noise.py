"""Noise sources: seeded normal numbers, Brownian paths by exact covariance, and strong convergence along one path."""

import math
from itertools import pairwise

import pytest
import torch

from scoresde import VE, VP, RectifiedFlow, sample
from scoresde.samplers import DDIM, DDPM, SDE, EulerMaruyama, LangevinCorrector, PredictorCorrector, Sampler
from scoresde.samplers.noise import LEAF, BrownianPath, Source, normals
from tests.problems import gaussian, mixture, name, slope


class Symbols:
    """The normal numbers of a path as unit vectors, one for each label: W(u) is then the row of its coefficients."""

    def __init__(self):
        self.labels = []

    def __call__(self, label):
        if label not in self.labels:
            self.labels.append(label)
        return torch.eye(2000, dtype=torch.float64)[self.labels.index(label)]


# --- normal numbers from a key and a label ---------------------------------------------------------------------


def test_seeded_numbers_are_standard_normal_and_independent():
    n = 200_000
    along_samples = normals(torch.arange(n), 3, 1)[:, 0]
    along_entries = normals(torch.zeros(1, dtype=torch.int64), 3, n)[0]
    along_labels = torch.cat([normals(torch.arange(100), label, 1)[:, 0] for label in range(-1000, 1000)])
    for x in (along_samples, along_entries, along_labels):
        rank = torch.special.ndtr(x.sort().values)
        gap = (rank - (torch.arange(n) + 0.5) / n).abs().max()
        assert gap < 1.95 / math.sqrt(n)  # Kolmogorov's bound at a chance of 1e-3
        assert abs(float(x.square().mean()) - 1) < 4 * math.sqrt(2 / n)
        for lag in (1, 2, 100, 4096):
            assert abs(float((x[lag:] * x[:-lag]).mean())) < 4 / math.sqrt(n)
    assert abs(float((along_samples * along_entries).mean())) < 4 / math.sqrt(n)


def test_numbers_belong_to_the_whole_seed():
    """Seeds that agree in their last 32 bits differ, as does the path from the independent numbers of a seed."""
    draws = [Source(torch.empty(0), 1, seeds=[s])((1, 1000)) for s in (5, 5 + 2**32, 6, -5)]
    draws += [Source(torch.empty(0), 1, seeds=[5]).path((1, 1000)).normal(label) for label in (1, 2)]
    for i, one in enumerate(draws):
        for two in draws[:i]:
            assert abs(float((one * two).mean())) < 4 / math.sqrt(1000)


# --- the path --------------------------------------------------------------------------------------------------


def test_the_paths_covariance_is_brownian_exactly():
    """Cov(W(u), W(v)) = min(|u|, |v|) on one side of 0, and 0 across it: no Monte Carlo, W is linear in its normals."""
    times = [-7.3, -3.0, -2.99, -2.0, -0.5, -1e-3, 0.0, 1e-4, 0.3, 1 / 3, 0.34, 0.5, 2.0, math.e, 3.0, math.pi, 6.9]
    path = BrownianPath(Symbols())
    rows = torch.stack([torch.as_tensor(path(u)).expand(2000) for u in times])
    u = torch.tensor(times, dtype=torch.float64)
    wanted = torch.minimum(u[:, None].abs(), u.abs()) * (u[:, None] * u > 0)
    assert (rows @ rows.mT - wanted).abs().max() < 1e-13


def test_increments_within_one_leaf_are_off_as_documented():
    """Two times in one leaf share a normal: each variance is right, the increment's is off by up to the leaf's size."""
    path = BrownianPath(Symbols())
    u, v = 0.5 + 0.25 * LEAF, 0.5 + 0.75 * LEAF
    assert abs(float(path(u) @ path(u)) - u) < 1e-13
    assert abs(float((path(v) - path(u)).square().sum()) / LEAF - 0.25) < 1e-9  # the true one is 0.5


def test_the_path_does_not_depend_on_the_order_of_the_questions():
    times = [-6.9 + 0.137 * i for i in range(100)]
    ends = {}
    for order in (times, times[::-1], times[1::2] + times[::2]):
        path = Source(torch.empty(0, dtype=torch.float64), 3, seeds=[1, 2, 3]).path((3, 2))
        values = {u: path(u) for u in order}
        ends.setdefault("first", values)
        assert all((values[u] - ends["first"][u]).abs().max() < 1e-12 for u in times)


def test_a_step_costs_few_numbers():
    asked = []

    def normal(label):
        asked.append(label)
        return torch.zeros(1)

    path = BrownianPath(normal)
    path(-7.0)
    for step in (0.2, 0.02):
        before = len(asked)
        for i in range(1, 101):
            path(-7.0 + step * i)
        assert (len(asked) - before) / 100 < math.log2(step / LEAF) + 4


def test_half_the_variance_at_a_midpoint_would_be_seen():
    """A planted error: a bridge of deviation √h/√2 for √h/2."""

    class Wrong(BrownianPath):
        def __call__(self, u):
            low, high = math.floor(u), math.floor(u) + 1
            left, right = self.normal(2 * low), self.normal(2 * high)
            return (left + right) / 2 + math.sqrt(1 / 2) * self.normal(1)

    right, wrong = (path(Symbols())(0.5) for path in (BrownianPath, Wrong))
    assert abs(float(right @ right) - 0.5) < 1e-13 < 0.1 < abs(float(wrong @ wrong) - 0.5)


# --- samplers along a path -------------------------------------------------------------------------------------

SAMPLERS = [EulerMaruyama, DDPM, SDE]


def ends(sampler, process, steps, seeds=range(100)):
    """The samples by grids that refine each other, from the same start, between two times with noise."""
    model = mixture().model(process, "v")
    first, last = (float(process.time(-2 * math.log(ratio))) for ratio in (20.0, 0.05))
    x = float(process.sigma(first)) * torch.randn(
        len(seeds), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return [sample(model, x=x, sampler=sampler, grid=torch.linspace(first, last, n + 1), seeds=seeds) for n in steps]


@pytest.mark.parametrize(
    ("sampler", "process"),
    [(EulerMaruyama, VP()), (EulerMaruyama, RectifiedFlow()), (DDPM, VP()), (SDE, RectifiedFlow())],
    ids=name,
)
def test_strong_order_one_along_a_path_and_none_without(sampler, process):
    """The reverse SDE's noise is additive, so that Euler's method has strong order 1; independent noise has none.

    Each run is compared with the one of twice the steps: their differences fall like the errors.
    """
    steps = [256, 512, 1024]
    along, apart = (
        [float((a - b).norm(dim=1).log().mean().exp()) for a, b in pairwise(ends(sampler(noise=k), process, n))]
        for k, n in (("path", steps), ("independent", [32, 64]))
    )
    assert 0.8 < slope(along, steps[:-1]) < 1.25
    assert along[-1] < 0.02 and apart[0] > 0.1


def test_every_process_follows_the_same_path():
    """The clock ½ log(α²/σ²) is common: x/α ends at the same points, a discretisation apart."""
    found = []
    for process in (VP(), RectifiedFlow()):
        model = mixture().model(process, "v")
        first, last = (float(process.time(-2 * math.log(ratio))) for ratio in (20.0, 0.05))
        y = 20.0 * torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        sampler, grid = EulerMaruyama(noise="path"), torch.linspace(first, last, 513)
        x = sample(model, x=float(process.alpha(first)) * y, sampler=sampler, grid=grid, seeds=range(100))
        found.append(x / float(process.alpha(last)))
    assert (found[0] - found[1]).norm(dim=1).median() < 0.04


@pytest.mark.parametrize("sampler", [*SAMPLERS, lambda noise: DDPM("beta", noise=noise)], ids=lambda s: s.__name__)
def test_increments_of_a_path_have_the_law_of_independent_ones(sampler):
    """Both runs on a Gaussian, 20,000 samples: means and covariances agree within 4 standard errors."""
    target, n = gaussian(), 20_000
    one, two = (
        sample(target.model(VP()), (n, 2), sampler(noise=k), 30, seeds=range(n)) for k in ("independent", "path")
    )
    deviation = one.std(0)
    assert ((one.mean(0) - two.mean(0)).abs() < 4 * deviation * math.sqrt(2 / n)).all()
    assert (((one.var(0) - two.var(0)) / deviation**2).abs() < 4 * 2 / math.sqrt(n)).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.__name__)
def test_seeds_make_a_path_its_own(sampler):
    for process in (VP(), VE()):
        model = mixture().model(process, "v")
        whole = sample(model, (6, 2), sampler(noise="path"), 9, seeds=range(6))
        parts = [sample(model, (2, 2), sampler(noise="path"), 9, seeds=s) for s in ([4, 5], [0, 1], [3, 2])]
        assert (whole - torch.cat([parts[1], parts[2].flip(0), parts[0]])).abs().max() < 1e-12


def test_generators_give_paths_too():
    model, before = mixture().model(VP()), torch.get_rng_state()
    runs = [sample(model, (5, 2), DDPM(noise="path"), 8, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    narrow = sample(mixture().model(VP()), x=torch.zeros(5, 2), sampler=DDPM(noise="path"), steps=4)
    assert narrow.dtype == torch.float32


# --- refusals --------------------------------------------------------------------------------------------------


class Twice(Sampler):
    stochastic = True
    noise = "path"

    def step(self, model, x, t, s, memory, randn):
        return x + randn(x.shape) + randn(x.shape), memory


def test_refusals():
    model, x = mixture().model(VP()), torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="one increment a step"):
        sample(model, x=x, sampler=Twice(), grid=[0.9, 0.5, 0.1])
    close = [0.5, float(VP().time(VP().logsnr(0.5) + 1e-9))]
    with pytest.raises(ValueError, match="too fine"):
        sample(model, x=x, sampler=EulerMaruyama(noise="path"), grid=close)
    sample(model, x=x, sampler=EulerMaruyama(), grid=close)
    with pytest.raises(TypeError, match="Source"):
        list(EulerMaruyama(noise="path").run(model, x, [0.9, 0.5], lambda shape: torch.randn(shape)))
    draw = Source(x, 2)
    with pytest.raises(ValueError, match="infinite"):
        list(Twice().run(model, x, [0.9, 0.0], draw))
    for make in (lambda k: EulerMaruyama(noise=k), lambda k: DDPM(noise=k), lambda k: SDE(noise=k)):
        with pytest.raises(ValueError, match="Did you mean 'path'"):
            make("paths")
    for method in ("srk", "log_ode"):
        with pytest.raises(ValueError, match="areas"):
            SDE(method, noise="path")
    with pytest.raises(ValueError, match="independent"):
        PredictorCorrector(EulerMaruyama(noise="path"), LangevinCorrector())
    assert DDIM().noise == PredictorCorrector().noise == "independent"
