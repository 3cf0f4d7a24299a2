"""bits_per_dim on problems that can be enumerated, its three dequantizations, and data that look like integers."""

import math
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from scoresde import EDM, VE, VP, Model, RectifiedFlow, bits_per_dim, data, log_prob, targets
from scoresde.likelihood import dequantization
from scoresde.likelihood.continuous import elbo
from scoresde.likelihood.dequantization import Dequantizer, TruncatedNormal, Uniform, Variational, fit_dequantizer
from scoresde.likelihood.lattice import Bins, looks_discrete
from tests.problems import LIMIT, name

LEVELS = torch.cartesian_prod(torch.arange(4), torch.arange(4))  # two pixels of four levels, on [-1, 1]
CENTRES = (-1 + 0.5 * (LEVELS + 0.5)).double()
WEIGHTS = torch.softmax(torch.arange(16, dtype=torch.float64).mul(2.1).sin(), 0)
SMOOTH = targets.GaussianMixture([0.4, 0.6], torch.tensor([[-0.5, 0.3], [0.4, -0.2]]).double(), 0.1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def peaked(deviation):
    """Bare levels, each a normal of its own: in bins of width a half."""
    return targets.GaussianMixture(WEIGHTS, CENTRES, deviation**2)


def exact(target, process):
    """The exact density of x_t, as `log_prob` would give it."""
    return lambda model, x, t=0.0, **_: (target.marginal(process, t) if t else target).log_prob(x)


def masses(target, n=200):
    inner = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    offsets = torch.cartesian_prod(inner, inner)
    return torch.stack([target.log_prob(-1 + 0.5 * (k + offsets)).exp().mean() * 0.25 for k in LEVELS])


def probability(each):
    return (-2 * math.log(2) * each).exp()


def run(target, law, samples=1, repeat=1, process=VP(), seed=0, density=None, levels=LEVELS):  # noqa: B008
    return bits_per_dim(
        target.model(process), levels.repeat(repeat, 1), 4, law, samples,
        density=density or exact(target, process), generator=generator(seed),
    )  # fmt: skip


def test_bits_per_dim_is_a_bound_that_tightens():
    """By the flow's density, against quadrature of the exact one over each bin."""
    bits = -masses(SMOOTH, 40).log2() / 2
    totals = []
    for samples in (1, 64):
        got = bits_per_dim(SMOOTH.model(VP(), "v"), LEVELS, 4, samples=samples, steps=24, generator=generator())
        assert got.each.shape == (16,) and got.value == pytest.approx(float(got.each.mean()))
        totals.append(float((got.each - bits).mean()))
    assert -0.02 < totals[1] < totals[0]  # a bound in expectation; 64 draws leave 0.02 of chance
    assert totals[1] < 0.05


@pytest.mark.parametrize("law", ["uniform", "truncated_normal", "variational"])
def test_bits_per_dim_tracks_the_scale(law):
    """N(0, ½) on [−1, 1], N(5, 12.5) on [0, 10], and both at once, a column each."""
    model = targets.Gaussian(torch.zeros(1, dtype=torch.float64), 0.5).model(EDM())
    wide = targets.Gaussian(torch.full((1,), 5.0, dtype=torch.float64), 12.5).model(EDM())
    both = targets.Gaussian(torch.tensor([0.0, 5.0]).double(), torch.tensor([0.5, 12.5])).model(EDM())
    levels = torch.arange(8)[:, None]
    first = second = law
    if law == "variational":
        first = fit_dequantizer(model, levels, 8, 20, generator=generator(1))
        second = fit_dequantizer(wide, levels, 8, 20, low=0.0, high=10.0, generator=generator(1))
    one = bits_per_dim(model, levels, 8, first, generator=generator())
    two = bits_per_dim(wide, levels, 8, second, low=0.0, high=10.0, generator=generator())
    assert torch.allclose(one.each, two.each, atol=1e-8 if law != "variational" else 1e-5)
    if law == "uniform":
        low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 10.0])
        pair = bits_per_dim(both, levels.expand(8, 2), 8, law, 64, low=low, high=high, generator=generator())
        fine = bits_per_dim(model, levels, 8, law, 64, generator=generator())
        assert torch.allclose(pair.each, fine.each, atol=5 * float(pair.each_error.max() + fine.each_error.max()))


@pytest.mark.parametrize("deviation", [None, 0.001, 0.05, 0.1])
@pytest.mark.parametrize("law", ["uniform", "truncated_normal", "variational"])
def test_implied_probabilities_are_below_the_exact_ones_and_approach_them(law, deviation):
    """With K = 4096 draws, each is the exact one within its own error; with one, their geometric means are below.

    Exact: the integral over the bin of the density at the law's noise level.
    """
    if (law, deviation) == ("uniform", 0.001):
        pytest.skip("next to no uniform draw falls on a level")
    target = SMOOTH if deviation is None else peaked(deviation)
    if law == "variational":
        law = fit_dequantizer(target.model(VP()), LEVELS.repeat(16, 1), 4, 60, lr=0.02, generator=generator())
    many = run(target, law, 4096)
    ratio = many.dequantizer.ratio(Bins.of(LEVELS, 4, -1.0, 1.0))
    assert (ratio == 0) == (deviation in (None, 0.1) or law == "uniform")
    truth = masses(target.marginal(EDM(), ratio) if ratio else target)
    implied, error = probability(many.each), 2 * math.log(2) * many.each_error  # the latter relative
    assert ((implied / truth - 1).abs() < LIMIT * error).all() and error.max() < 0.05
    assert float(implied.sum()) < 1 + LIMIT * float((implied * error).square().sum().sqrt())
    single = run(target, law, 1, 400).each.reshape(400, 16)
    assert (probability(single.mean(0) + LIMIT * single.std(0) / 20) < truth).all()
    assert float(probability(single.mean(0)).sum()) <= 1


def test_the_bound_tightens_with_every_doubling_of_the_draws():
    totals = [run(SMOOTH, "uniform", k, 300, seed=k).each.reshape(300, 16).mean(1) for k in (1, 2, 4, 8, 16, 32)]
    for few, more in pairwise(totals):
        chance = math.sqrt(float(few.var() + more.var()) / 300)
        assert float((few - more).mean()) > -LIMIT * chance
    truth = float((-masses(SMOOTH).log2() / 2).mean())
    assert float(totals[0].mean()) - truth > 20 * (float(totals[-1].mean()) - truth) > 0


@pytest.mark.parametrize("process", [VP(), VE(), EDM(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("deviation", [None, 0.001, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_truncated_normal_is_no_worse_than_uniform(deviation, process):
    target = SMOOTH if deviation is None else peaked(deviation)
    flat, cut = (run(target, law, 1, 100, process).each.reshape(100, 16) for law in ("uniform", "truncated_normal"))
    truth = masses(target) if deviation is None or deviation > 0.03 else WEIGHTS
    gap = ((cut - flat) * truth).sum(1)
    assert float(gap.mean()) < LIMIT * float(gap.std()) / 10
    law = run(target, "truncated_normal").dequantizer
    assert (law == Uniform()) == (deviation is None or deviation > 0.05)  # a tenth of a bin
    if deviation is not None and deviation < 0.05:
        assert float((cut * truth).sum(1).mean()) < 0.005 - float((truth * truth.log2()).sum()) / 2  # and is exact


def test_what_truncation_costs():
    """Levels so far apart that none leaks: −log P(k) − D log erf(1/(√8 scale)), without chance."""
    bare = targets.Empirical(torch.tensor([[-0.75, 0.25], [0.25, 0.25]]).double(), 1e-6)
    x = torch.tensor([[0, 2], [2, 2]])
    for scale in (1 / 8, 1 / 6):
        got = bits_per_dim(bare.model(VP()), x, 4, TruncatedNormal(scale), density=exact(bare, VP()))
        known = (math.log(2) - 2 * math.log(math.erf(1 / (math.sqrt(8) * scale)))) / (2 * math.log(2))
        assert got.each == pytest.approx(torch.full((2,), known).double(), abs=1e-5)


@pytest.mark.parametrize("deviation", [None, 0.001, 0.1, 0.2])
def test_a_learned_law_is_no_worse_than_uniform(deviation):
    target = SMOOTH if deviation is None else peaked(deviation)
    law = fit_dequantizer(target.model(VP()), LEVELS.repeat(16, 1), 4, 150, lr=0.02, generator=generator())
    flat, bent = (run(target, one, 1, 100).each.reshape(100, 16).mean(1) for one in ("uniform", law))
    gap = bent - flat
    assert float(gap.mean()) < LIMIT * float(gap.std()) / 10
    if deviation is None:  # most of what Jensen's inequality cost is won back
        truth = float((-masses(target).log2() / 2).mean())
        assert float(bent.mean()) - truth < 0.5 * (float(flat.mean()) - truth)


def test_a_law_can_be_fitted_to_one_set_and_used_on_another():
    model = SMOOTH.model(VP())
    law = fit_dequantizer(model, LEVELS[::2], 4, 3, generator=generator())
    assert bits_per_dim(model, LEVELS[1::2], 4, law, density=exact(SMOOTH, VP())).dequantizer is law
    assert not any(p.requires_grad for p in law.parameters())
    with pytest.raises(ValueError, match="dequantize was fitted to other shapes"):
        bits_per_dim(targets.Gaussian(torch.zeros(3), 1.0).model(VP()), torch.zeros(2, 3).long(), 4, law)


def laws():
    net = dequantization._Entries(torch.Size([1]), 4).double()
    torch.nn.init.normal_(net.layers[-1].weight, std=2.0)
    return [Uniform(), TruncatedNormal(0.1), TruncatedNormal(5.0), Variational(net, Uniform()),
            Variational(net, TruncatedNormal(0.2))]  # fmt: skip


@pytest.mark.parametrize("law", laws(), ids=lambda law: type(law).__name__)
def test_draws_have_the_density_they_say(law):
    """dy/du = 1/q(y), in the bin, and symmetric about its middle for the laws without parameters."""
    u = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)[:, None].requires_grad_()
    x = torch.randint(4, (99, 1))
    y, log_q = law.draw(x, u, Bins.of(x, 4, 0.0, 1.0))
    (slope,) = torch.autograd.grad(y.sum(), u)
    assert torch.allclose(slope[:, 0].log(), -log_q, atol=1e-9)
    assert bool(((y > 0) & (y < 1)).all())
    if not isinstance(law, Variational):
        assert torch.allclose(y + y.flip(0), torch.ones_like(y), atol=1e-9)


def test_the_gradient_that_trains_is_that_of_the_bound():
    """The score's product with the draws, against differentiating the density itself, parameter by parameter."""
    bins, x = Bins.of(LEVELS, 4, -1.0, 1.0), LEVELS
    law = Variational(dequantization._Entries(torch.Size([2]), 8).double(), TruncatedNormal(0.3))
    torch.nn.init.normal_(law.net.layers[-1].weight, std=0.5)
    u = torch.rand(16, 2, dtype=torch.float64)
    t = dequantization.time_of(VP(), 0.05)
    noised = SMOOTH.marginal(VP(), t)
    y, log_q = law.draw(x, u, bins)
    whole = noised.log_prob(float(VP().alpha(t)) * bins.place(x, y)) - log_q
    cheap = dequantization.gained(SMOOTH.model(VP()), law, x, u, bins, 0.05)
    parameters = list(law.parameters())
    for one, two in zip(*(torch.autograd.grad(value.mean(), parameters) for value in (whole, cheap))):
        assert torch.allclose(one, two, atol=1e-10) and one.abs().max() > 0


class Forgotten(Dequantizer):
    """A planted error: the density at the lattice points themselves."""

    def __init__(self, law):
        self.law = law

    def ratio(self, bins):
        return self.law.ratio(bins)

    def draw(self, x, u, bins):
        return torch.full_like(u, 0.5), torch.zeros(len(u)).double()


def test_planted_errors_are_seen():
    """No noise at the lattice points, no log|w|, no log q: each breaks Σ P ≤ 1."""
    target = peaked(0.05)
    right = run(target, "truncated_normal", 64)
    assert float(probability(right.each).sum()) < 1.001

    def unscaled(model, x, t=0.0, **_):
        return exact(target, VP())(model, x, t) - 2 * math.log(0.5)

    class Weightless(Forgotten):
        def draw(self, x, u, bins):
            y, log_q = self.law.draw(x, u, bins)
            return y, torch.zeros_like(log_q)

    planted = [
        run(target, Forgotten(Uniform())), run(target, Forgotten(right.dequantizer)),
        run(target, right.dequantizer, 64, density=unscaled), run(target, Weightless(right.dequantizer), 64),
    ]  # fmt: skip
    assert all(float(probability(plant.each).sum()) > 1.5 for plant in planted)


def test_errors_are_what_they_say():
    """Of a value by its K draws, and of the mean over x: within 1.96 of them for 95 % of the times."""
    truth, inside, means = -masses(SMOOTH).log2() / 2, [], []
    for seed in range(60):
        got = run(SMOOTH, "uniform", 256, seed=seed)
        inside.append((got.each - truth).abs() < 1.96 * got.each_error)
        drawn = torch.multinomial(truth.mul(-2).exp2(), 100, replacement=True, generator=generator(seed))
        part = run(SMOOTH, "uniform", 64, seed=seed, levels=LEVELS[drawn])
        entropy = float((truth.mul(-2).exp2() * truth).sum() / truth.mul(-2).exp2().sum())
        means.append((part.value - entropy) / part.standard_error)
    share = float(torch.stack(inside).double().mean())
    assert abs(share - 0.95) < LIMIT * math.sqrt(0.95 * 0.05 / 960)
    assert 0.7 < float(torch.tensor(means).std()) < 1.3  # 1 ± 3.3 standard errors of 60
    alone = run(SMOOTH, "uniform", levels=LEVELS[:1])
    assert alone.standard_error == math.inf and bool((alone.each_error == math.inf).all())


@pytest.mark.parametrize("samples", [1, 5])
def test_pieces_change_nothing_and_stay_small(monkeypatch, samples):
    asked = []

    def density(model, x, **_):
        asked.append(len(x))
        return SimpleNamespace(value=SMOOTH.log_prob(x), nfe=7)

    whole = run(SMOOTH, "uniform", samples, density=density)
    assert asked == [16 * samples] and whole.nfe == 7 * samples
    for numbers in (1, 20, 70):
        monkeypatch.setattr("scoresde.likelihood.bits.NUMBERS", numbers)
        asked.clear()
        parts = run(SMOOTH, "uniform", samples, density=density)
        assert torch.equal(parts.each, whole.each) and parts.nfe == 7 * samples
        assert max(asked) <= max(1, numbers // 2)


def test_conditions_of_single_samples_stay_with_them():
    shifts = torch.linspace(-0.5, 0.5, 16).double()[:, None]

    def moved(model, x, t, shift):
        return model(x - VP().alpha(t)[:, None] * shift, t) + shift

    model = Model(SMOOTH.model(VP(), "x0").wrap(moved).net, VP(), "x0").given(shift=shifts)
    for law in ("uniform", "truncated_normal", "variational"):
        law = fit_dequantizer(model, LEVELS, 4, 2, batch_size=5, generator=generator()) if law == "variational" else law
        got = bits_per_dim(
            model, LEVELS, 4, law, 3, density=lambda model, x, **_: SMOOTH.log_prob(x - shifts), generator=generator()
        )
        assert got.each.shape == (16,)


@pytest.mark.parametrize("law", ["uniform", "truncated_normal", "variational"])
def test_global_random_numbers_are_left_alone_and_seeds_repeat(law):
    before = torch.get_rng_state()
    one, two = (run(SMOOTH, law, levels=LEVELS[:4], seed=3).each for _ in range(2))
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(one, two)


def test_the_variational_bound_serves_as_density():
    target = targets.Gaussian(torch.tensor([0.2, -0.1]).double(), 0.1)
    one = bits_per_dim(target.model(VP()), LEVELS, 4, generator=generator())
    two = run(target, "uniform", density=partial(elbo, samples=2))
    assert torch.allclose(one.each, two.each, atol=1e-3)
    bare = peaked(0.001)  # its reverse SDE is exact, so that the bound is tight at any time
    got = run(bare, "truncated_normal", density=partial(elbo, samples=128), repeat=20).each.reshape(20, 16)
    truth = run(bare, "truncated_normal", repeat=20).each.reshape(20, 16)
    gap = (got - truth).mean(0)
    assert (gap.abs() < LIMIT * (got - truth).std(0) / math.sqrt(20) + 1e-3).all()


def test_bare_levels_by_the_flow():
    """The density of x_t by the flow itself, at the small time that the truncated normal asks for."""
    target = peaked(0.001)
    got, exact = (run(target, "truncated_normal", density=density) for density in (log_prob, None))
    assert got.dequantizer == exact.dequantizer
    assert ((got.each - exact.each).abs() < 2e-3).all()  # the same draws; 3.5e-4 nats a dimension is the tolerance


def test_a_noisy_density_is_warned_of():
    def noisy(model, x, **_):
        return SimpleNamespace(value=SMOOTH.log_prob(x), standard_error=torch.full((len(x),), 0.5), nfe=1)

    assert run(SMOOTH, "uniform", 1, density=noisy).value > 0  # one draw: a bound still
    with pytest.warns(UserWarning, match=r"too low, by up to 0\.09 bits/dim"):
        run(SMOOTH, "uniform", 2, density=noisy)


X = LEVELS[:3]
GAUSSIAN = targets.Gaussian([0.0, 0.0], 1.0)
REFUSED = {
    "float": (partial(bits_per_dim, x=X / 4), TypeError, "x must be whole levels"),
    "range": (partial(bits_per_dim, x=X, levels=4, low=1.0, high=0.0), ValueError, "low must be below high"),
    "one column": (partial(bits_per_dim, x=X, low=torch.tensor([-1.0, 2.0])), ValueError, "low must be below high"),
    "infinite": (partial(bits_per_dim, x=X, high=math.inf), ValueError, "high must be finite"),
    "shape": (partial(bits_per_dim, x=X, high=torch.ones(3)), ValueError, "high must broadcast to one sample"),
    "kind": (partial(bits_per_dim, x=X, low="a"), TypeError, "low must be a number"),
    "levels": (partial(bits_per_dim, x=X, levels=1), ValueError, "levels must be at least 2"),
    "beyond": (partial(bits_per_dim, x=X + 9, levels=4), ValueError, r"x must lie in 0\.\.3"),
    "samples": (partial(bits_per_dim, x=X, samples=0), ValueError, "samples must be at least 1"),
    "name": (partial(bits_per_dim, x=X, dequantize="unifrom"), ValueError, "Did you mean 'uniform'"),
    "law": (partial(bits_per_dim, x=X, dequantize=0.5), TypeError, "dequantize must be a name"),
    "scale": (lambda model: TruncatedNormal(0.0), ValueError, "scale must be positive"),
    "density": (partial(bits_per_dim, x=X, density=None), TypeError, "density must be a function"),
    "answer": (partial(bits_per_dim, x=X, density=lambda m, x, **_: x), TypeError, r"density must return \(3,\)"),
    "no t": (
        partial(bits_per_dim, x=X, dequantize=TruncatedNormal(0.2), density=lambda m, x, generator: x[:, 0]),
        ValueError, "density must take t",
    ),
    "too fine": (partial(bits_per_dim, x=X, dequantize=TruncatedNormal(0.01)), ValueError, "use fewer levels"),
    "steps": (partial(fit_dequantizer, x=X, steps=0), ValueError, "steps must be at least 1"),
    "net": (partial(fit_dequantizer, x=X, net=torch.nn.Identity()), ValueError, "no parameters"),
    "output": (partial(fit_dequantizer, x=X, net=torch.nn.Linear(2, 2)), ValueError, r"net must return \(B, 2, \*\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(case):
    call, error, message = case
    with pytest.raises(error, match=message):
        call(model=GAUSSIAN.model(VP()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 64, 3072])
def test_continuous_data_do_not_look_discrete(dim, dtype):
    for batch in (1, 2, 3, 10, 100, 1000, 10_000):
        if batch * dim <= 2**20:
            normal = torch.randn(batch, dim, dtype=torch.float64)
            for x in (normal, 1e3 + normal, normal.sigmoid(), normal.repeat(3, 1), normal.cumsum(0)):
                assert not looks_discrete(x.to(dtype))


def test_grids_constants_and_dequantized_data_do_not_look_discrete():
    axis = torch.linspace(-4, 4, 121)
    slices = torch.zeros(121**2, 10)
    slices[:, 3:5] = torch.cartesian_prod(axis, axis)
    images = torch.randint(17, (100, 8, 8))
    for x in (
        torch.cartesian_prod(axis, axis), torch.linspace(-5, 5, 201)[:, None], slices, torch.zeros(100, 5),
        torch.tensor([[0.3], [1.7]]).repeat(100, 1), data.dequantize(images, 17), images / 16 + 0.01 * torch.rand(8, 8),
        torch.zeros(0, 4), torch.randn(100), torch.randint(4, (10, 2)).float(), images,
    ):  # fmt: skip
        assert not looks_discrete(x)


def test_discrete_data_look_discrete():
    generator().manual_seed(0)
    digits, _ = pytest.importorskip("sklearn") and data.digits()
    images = torch.randint(256, (16, 3, 32, 32))
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    for x in (
        digits / 16, digits[:1] / 16, digits.flatten(1) / 8 - 1, 2 * (digits + 0.5) / 17 - 1, digits.double(),
        images / 127.5 - 1, images.double() / 255, images[:1] / 255 * 2 - 1, (images / 255 - mean) / deviation,
        torch.randint(10, (500, 2)).float(), torch.randint(4, (200, 2)).float(), torch.randint(2, (100, 64)).float(),
        torch.randint(1000, (1000, 20)).float(), torch.randint(5, (200, 3)) / torch.tensor([1.0, 3.0, 7.0]),
    ):  # fmt: skip
        assert looks_discrete(x)
