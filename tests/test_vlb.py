"""vlb against dense linear algebra and quadrature of linear chains, whose every term is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from scoresde import VP, Discrete, Model, RectifiedFlow, ddpm, networks, targets
from scoresde.likelihood import chain as module
from scoresde.likelihood.chain import vlb
from scoresde.model import Count
from tests.problems import LIMIT, NAMES, mixture

BETAS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4]
CHAIN = Discrete(BETAS)
VARIANCES = ["posterior", "beta"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def line(m=0.3, s=0.6, chain=CHAIN, prediction="noise"):
    return targets.Gaussian(torch.tensor([m], dtype=torch.float64), s**2).model(chain, prediction)


class LinearChain:
    """The chain of a model that is exact for N(m, s²), in one dimension, by Bayes' rule and dense matrices.

    x_1..x_T of the noising given x₀, and of the ancestral sampler, from β alone.
    """

    def __init__(self, variance, m=0.3, s=0.6, betas=BETAS, prior=None):
        self.betas = np.array(betas)
        self.kept = np.cumprod(1 - self.betas)
        self.m, self.s, count = m, s, len(betas)
        self.steps = [self.reverse(k, variance) for k in range(1, count)]
        first, last = 1 - self.kept[0], math.sqrt(self.kept[-1])
        mean, var = prior or (last * m, last**2 * s**2 + 1 - last**2)
        self.mean, self.covariance = np.zeros(count), np.zeros((count, count))
        self.mean[-1], self.covariance[-1, -1] = mean, var
        for k in range(count - 2, -1, -1):
            gain, offset, var = self.steps[k][:3]
            self.mean[k] = gain * self.mean[k + 1] + offset
            self.covariance[k, k + 1 :] = self.covariance[k + 1 :, k] = gain * self.covariance[k + 1, k + 1 :]
            self.covariance[k, k] = gain**2 * self.covariance[k + 1, k + 1] + var
        self.guess = self.denoise(0)
        self.deviation = math.sqrt(betas[0] if variance == "beta" else betas[1] * first / (1 - self.kept[1]))

    def denoise(self, k):
        """E[x₀ | x] of N(m, s²) as (gain, offset) at the chain's step k."""
        root, var = math.sqrt(self.kept[k]), 1 - self.kept[k]
        gain = self.s**2 * root / (self.s**2 * root**2 + var)
        return gain, self.m * (1 - gain * root)

    def reverse(self, k, variance):
        """x_{k−1} given x_k: gain, offset and variance of the model; a, b, variance of the posterior a x_k + b x₀."""
        before, beta = self.kept[k - 1], self.betas[k]
        precision = 1 / (1 - before) + (1 - beta) / beta
        a, b = math.sqrt(1 - beta) / beta / precision, math.sqrt(before) / (1 - before) / precision
        gain, offset = self.denoise(k)
        return a + b * gain, b * offset, 1 / precision if variance == "posterior" else beta, a, b, 1 / precision

    def noising(self, x):
        """Mean and covariance of x_1..x_T given x₀ = x: Cov(x_j, x_k) = √(ᾱ_k/ᾱ_j) (1 − ᾱ_j), j ≤ k."""
        low, high = np.minimum.outer(self.kept, self.kept), np.maximum.outer(self.kept, self.kept)
        return np.sqrt(self.kept) * x, np.sqrt(low / high) * (1 - high)

    def divergence(self, x):
        """KL(q(x_1..x_T | x) ‖ p(x_1..x_T))."""
        mean, covariance = self.noising(x)
        inverse, apart = np.linalg.inv(self.covariance), self.mean - mean
        log_ratio = np.linalg.slogdet(self.covariance)[1] - np.linalg.slogdet(covariance)[1]
        return 0.5 * (np.trace(inverse @ covariance) + apart @ inverse @ apart - len(apart) + log_ratio)

    def step(self, k, x):
        """L of the step from k to k − 1: the mean over x_k of the divergence of two normal distributions."""
        gain, offset, var, a, b, exact = self.steps[k - 1]
        mean, spread = math.sqrt(self.kept[k]) * x, 1 - self.kept[k]
        apart = ((a - gain) * mean + b * x - offset) ** 2 + (a - gain) ** 2 * spread
        return 0.5 * (exact / var - 1 - math.log(exact / var) + apart / var)

    def decoder(self, bin_, x):
        """−E log P(bin | x_1), by the trapezoidal rule."""
        z = np.linspace(-12, 12, 4801)
        mean = self.guess[0] * (math.sqrt(self.kept[0]) * x + math.sqrt(1 - self.kept[0]) * z) + self.guess[1]
        cost = -np.log(mass(bin_, mean, self.deviation))
        return np.trapezoid(np.where(np.isfinite(cost), cost, 0.0) * norm.pdf(z), z)

    def log_mass(self, bin_):
        """log P of a bin under the chain's own law, which is normal before the bins."""
        var = self.guess[0] ** 2 * self.covariance[0, 0] + self.deviation**2
        return math.log(mass(bin_, self.guess[0] * self.mean[0] + self.guess[1], math.sqrt(var)))


def mass(bin_, mean, deviation):
    (low, high), sign = bin_, np.where(np.asarray(mean) < bin_[0], -1, 1)
    ends = norm.cdf(sign * (high - mean) / deviation), norm.cdf(sign * (low - mean) / deviation)
    return np.abs(ends[0] - ends[1])


def bins(levels=16, low=-1.0, high=1.0):
    width = (high - low) / levels
    for k in range(levels):
        edges = (low + k * width if k else -math.inf, low + (k + 1) * width if k < levels - 1 else math.inf)
        yield edges, low + (k + 0.5) * width


@pytest.mark.parametrize("moments", [True, False], ids=["moments", "N(0, 1)"])
@pytest.mark.parametrize("variance", VARIANCES)
def test_every_term_of_a_gaussian_chain_is_the_closed_form(variance, moments):
    """All levels of 16; without moments the prior is N(0, 1), and noise is left: within 4 standard errors."""
    model, chain = line(), LinearChain(variance, prior=None if moments else (0.0, 1.0))
    if not moments:
        model = replace(model, moments=None)
    levels = torch.arange(16)[:, None]
    repeat = 1 if moments else 3000
    result = vlb(model, levels.repeat(repeat, 1), 16, variance=variance, generator=generator())
    for i, (bin_, x) in enumerate(bins()):
        steps = [chain.step(k, x) for k in range(1, len(BETAS))]
        assert sum(steps) + float(result.prior[i]) == pytest.approx(chain.divergence(x), abs=1e-10)
        wanted = [(result.diffusion, sum(steps)), (result.decoder, chain.decoder(bin_, x))]
        wanted += [(result.steps[:, k], steps[k]) for k in range(len(steps))]
        wanted += [(result.value, -chain.divergence(x) - chain.decoder(bin_, x))]
        for got, value in wanted:
            got = got.reshape(repeat, 16)[:, i]
            error = 1e-7 if moments else LIMIT * float(got.std()) / math.sqrt(repeat)
            assert abs(float(got.mean()) - value) < error + 1e-7
    assert result.nfe == 2 * (len(BETAS) - 1) + 8
    assert not moments or (result.standard_error < 1e-8).all()


@pytest.mark.parametrize("variance", VARIANCES)
def test_it_is_below_the_probability_under_the_chains_own_law(variance):
    """The gap is KL(q(x_1..x_T | x) ‖ p(x_1..x_T | x)); the probabilities sum to one."""
    chain = LinearChain(variance)
    exact = np.array([chain.log_mass(bin_) for bin_, _ in bins()])
    assert np.exp(exact).sum() == pytest.approx(1.0)
    value = vlb(line(), torch.arange(16)[:, None], 16, variance=variance, generator=generator()).value.numpy()
    assert (value < exact).all()


def test_the_gap_of_a_chain_of_one_step_by_quadrature():
    """KL(q(x₁ | x) ‖ p(x₁ | x)), whose second law is normal times the decoder's mass, on a grid."""
    betas, grid = [0.3], np.linspace(-8, 8, 16001)
    model = line(chain=Discrete(betas))
    values = vlb(model, torch.arange(16)[:, None], 16, generator=generator()).value
    kept, total = 0.7, 0.7 * 0.36 + 0.3
    for (bin_, x), value in zip(bins(), values.tolist()):
        gain = 0.36 * math.sqrt(kept) / total
        decoder = mass(bin_, 0.3 + gain * (grid - math.sqrt(kept) * 0.3), math.sqrt(0.3))
        joint = norm.logpdf(grid, math.sqrt(kept) * 0.3, math.sqrt(total)) + np.log(decoder)
        exact = math.log(np.trapezoid(np.exp(joint), grid))
        noising = norm.logpdf(grid, math.sqrt(kept) * x, math.sqrt(0.3))
        gap = np.trapezoid(np.exp(noising) * (noising - joint + exact), grid)
        assert gap > 0 and exact - gap == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("variance", VARIANCES)
def test_chosen_steps_agree_with_all_and_the_interval_covers(variance):
    """2000 repetitions of one image, without moments so that there is noise; 95 % intervals."""
    chain = ddpm(200)
    target = targets.Gaussian(torch.tensor([0.3, -0.2], dtype=torch.float64), 0.1)
    whole, model = target.model(chain), replace(target.model(chain), moments=None)
    x = torch.tensor([[150, 90]])
    exact = vlb(whole, x, variance=variance).value - float(prior_excess(whole, x))
    for samples, rows in ((128, 2000), (None, 300)):
        result = vlb(model, x.expand(rows, 2), samples=samples, variance=variance, generator=generator())
        low, high = result.interval()
        covered = float(((low < exact) & (exact < high)).double().mean())
        assert abs(covered - 0.95) < 0.02 + (LIMIT * math.sqrt(0.95 * 0.05 / rows) if rows < 2000 else 0)
        off = result.value - exact
        assert abs(float(off.mean())) < LIMIT * float(off.std()) / math.sqrt(rows)
        assert float(result.standard_error.square().mean()) == pytest.approx(float(off.square().mean()), rel=0.25)
        assert (result.steps is None) == (samples is not None)
    assert result.nfe == 2 * 199 + module.calls_of_decoder(398)


def prior_excess(model, x):
    """What N(0, 1) costs beyond the moments' own prior at T."""
    with_moments = vlb(model, x, samples=2).prior
    return vlb(replace(model, moments=None), x, samples=2).prior - with_moments


def test_the_sum_of_steps_approaches_the_integral_as_steps_grow():
    """½ Σ expm1(Δλ) E‖ε − ε̂‖² over VP's own levels tends to ½ ∫ E‖ε − ε̂‖² dλ, at first order in 1/T."""
    m, s, x = 0.3, 0.6, -1 + 41.5 / 32
    errors = []
    for count in (100, 1000):
        t = torch.linspace(0.05, 1.0, count, dtype=torch.float64)
        kept = VP().alpha(t) ** 2
        chain = Discrete([float(1 - kept[0]), *(1 - kept[1:] / kept[:-1]).tolist()])
        got = vlb(line(m, s, chain), torch.tensor([[41]]), 64, samples=2)
        low, high = ((1 - k) / k for k in (float(kept[0]), float(kept[-1])))

        def integral(u):
            return math.log(u / (s**2 + u)) + (s**2 - (x - m) ** 2) / (s**2 + u)

        errors.append(float(got.diffusion) / (0.5 * (integral(high) - integral(low))) - 1)
    assert 0 < errors[1] < 1e-2 and errors[0] / errors[1] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("prediction", NAMES)
def test_it_does_not_depend_on_the_prediction(prediction):
    x = torch.randint(64, (20, 2), generator=generator())
    options = {"levels": 64, "low": -3.0, "high": 3.0, "samples": 20}
    one, two = (
        vlb(mixture().model(ddpm(100), p), x, generator=generator(1), **options).value for p in (prediction, "v")
    )
    assert torch.allclose(one, two, atol=1e-8)


def test_correlated_pixels_are_exact_too():
    """A full covariance: what normal data would cost the decoder is known pixel by pixel, so that nothing is noisy."""
    root = torch.randn(4, 4, generator=generator(), dtype=torch.float64) / 4
    target = targets.Gaussian(torch.zeros(4, dtype=torch.float64), root @ root.mT + 0.05 * torch.eye(4).double())
    x = torch.randint(16, (5, 2, 2), generator=generator())
    result = vlb(target.model(CHAIN), x, 16)
    assert (result.standard_error < 1e-8).all()
    plain = replace(target.model(CHAIN), moments=(0.0, 0.5))
    rough = vlb(plain, x.repeat(500, 1, 1), 16, generator=generator(1))
    for term in ("diffusion", "decoder"):
        many = getattr(rough, term).reshape(500, 5)
        error = many.std(0) / math.sqrt(500)
        assert ((many.mean(0) - getattr(result, term)).abs() < LIMIT * error).all() and (error > 1e-4).all()


def test_the_scale_is_tracked():
    """DDPM's x/127.5 − 1 stands at the centres of bins from −256/255 to 256/255: the network is shown those."""
    seen = []

    def watch(model, x, t):
        seen.append((x / model.process.alpha(t)[:, None]).mean())
        return model(x, t)

    model = line(0.0, 0.5, ddpm(1000))
    levels = torch.tensor([[0], [37], [255]])
    one = vlb(model.wrap(watch), levels.repeat(3000, 1), low=-256 / 255, high=256 / 255, samples=2)
    error = float(seen[-1]) - float((levels / 127.5 - 1).mean())  # the decoder's call: σ/α = 0.01
    assert abs(error) < LIMIT * 0.01 / math.sqrt(9000)
    low, high = torch.full((1,), -256 / 255), torch.full((1,), 256 / 255)
    three = vlb(model, levels, low=low, high=high, samples=2)
    assert torch.allclose(three.value, one.value[:3], atol=1e-6)
    assert torch.allclose(three.bits_per_dim, -three.value / math.log(2))
    assert torch.allclose(three.value, -three.prior - three.diffusion - three.decoder)


def test_the_mass_of_bins_sums_to_one_far_away_and_when_narrow():
    for levels, mean, deviation in ((4, 0.1, 0.3), (256, -0.99, 0.01), (65536, 0.3, 0.01), (256, 30.0, 0.01)):
        x = torch.arange(levels)[:, None]
        each = module.log_mass(x, torch.full((1,), mean), module.Bins.of(x, levels, -1.0, 1.0), deviation)
        assert not each.isnan().any() and float(each.exp().sum()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("plant", ["step_weights", "decoder_deviation", "share"])
def test_planted_errors_fail_the_tests_above(plant, monkeypatch):
    """Continuous weights in place of the chain's, √β for the posterior's decoder, a draw's own say in its control."""
    weights = lambda chain, t, variance: (0.5 * -chain.logsnr(t).diff(), torch.zeros(len(t) - 1).double())  # noqa: E731
    plants = {
        "step_weights": weights,
        "decoder_deviation": lambda chain, variance: math.sqrt(chain.betas[0]),
        "share": lambda squares, control: (squares / control).clamp(0, 1),
    }
    monkeypatch.setattr(module, plant, plants[plant])
    with pytest.raises(AssertionError):
        test_every_term_of_a_gaussian_chain_is_the_closed_form("posterior", plant != "share")


def test_pieces_shapes_and_counts():
    net = networks.Scaled(networks.MLP((2, 3), width=16), ddpm(50))
    count = Count()
    model = Model(net, ddpm(50), "v").wrap(count)
    x, before = torch.randint(8, (4, 2, 3)), torch.get_rng_state()
    for samples, least in ((None, 2 * 49), (9, 10)):
        count.calls = 0
        whole = vlb(model, x, 8, samples, generator=generator(), chunk=10**6)
        assert count.calls == 2 and whole.nfe == least + module.calls_of_decoder(least)
        pieces = vlb(model, x, 8, samples, generator=generator(), chunk=9)
        assert count.calls == 2 + least // 2 + math.ceil(module.calls_of_decoder(least) / 2)
        assert torch.allclose(pieces.value, whole.value, rtol=1e-5)
        assert not whole.value.requires_grad and whole.value.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), before)


def test_conditions_of_single_samples_stay_with_them():
    shifts = torch.linspace(-0.5, 0.5, 8, dtype=torch.float64)[:, None]
    base, chain = line(0.0, 0.3), CHAIN

    def moved(model, x, t, shift):
        return model(x - chain.alpha(t)[:, None] * shift, t)

    model = replace(base.wrap(moved).given(shift=shifts), moments=None)
    x = torch.arange(8)[:, None]
    result = vlb(model, x, 8, generator=generator())
    for i in range(8):
        alone = vlb(replace(line(float(shifts[i]), 0.3), moments=None), x[i : i + 1], 8, generator=generator())
        difference = float(result.value[i] - alone.value[0])
        assert abs(difference) < LIMIT * math.hypot(float(result.standard_error[i]), float(alone.standard_error[0]))


LEVELS = torch.zeros(3, 1, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vlb(None, LEVELS), r"model must.*ddpm\(\)"),
        (lambda: vlb(line(chain=RectifiedFlow()), LEVELS), r"model: vlb needs a Discrete process.*elbo\(model, x\)"),
        (lambda: vlb(line(), LEVELS.double()), r"x must hold the levels.*x.long\(\).*elbo\(model, x\)"),
        (lambda: vlb(line(), [[1]]), "x must be a torch.Tensor"),
        (lambda: vlb(line(), LEVELS > 0), "x must be whole levels"),
        (lambda: vlb(line(), LEVELS - 1), r"x must lie in 0\.\.255"),
        (lambda: vlb(line(), LEVELS + 8, 8), r"x must lie in 0\.\.7"),
        (lambda: vlb(line(), LEVELS[0]), "x must have shape"),
        (lambda: vlb(line(), LEVELS[:0]), "x must have shape"),
        (lambda: vlb(line(), LEVELS, 1), "levels must be at least 2"),
        (lambda: vlb(line(), LEVELS, samples=0), "samples must be at least 1"),
        (lambda: vlb(line(), LEVELS, samples="all"), "samples must be a whole number"),
        (lambda: vlb(line(), LEVELS, variance="bet"), "Did you mean 'beta'"),
        (lambda: vlb(line(), LEVELS, low=1.0), "low must be below high"),
        (lambda: vlb(line(), LEVELS, chunk=0), "chunk"),
        (lambda: vlb(line(), LEVELS, generator=3), "generator"),
        (lambda: vlb(line(), torch.zeros(3, 2, dtype=torch.long)), "numbers a sample|moments"),
        (lambda: vlb(Model(lambda x, t: x * math.nan, CHAIN), LEVELS), "not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
