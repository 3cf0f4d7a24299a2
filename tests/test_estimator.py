"""ScoreDensity: scikit-learn's own checks, densities against exact ones, and what it is compared with."""

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from scoresde import VE, VP, RectifiedFlow, fit, targets
from scoresde.estimator import SPREAD, Committee, ScoreDensity, Whitening, bound
from tests.problems import LIMIT, deviations, mixture, worst

QUICK = {"max_iter": 3, "width": 4, "blocks": 1, "shares": 2, "members": 1, "batch_size": 8, "steps": 4}


def normal(n=200, dim=3, seed=0):
    """Correlated normal rows, far from the origin and of unequal scales, and their exact log-density."""
    chance = np.random.RandomState(seed)
    mix = np.tril(chance.randn(dim, dim)) + 2 * np.eye(dim)
    return 50 + chance.randn(n, dim) @ mix.T * [1, 100, 0.01][:dim]


@parametrize_with_checks([ScoreDensity(**QUICK)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_before_training_it_is_the_gaussian_of_the_rows():
    """With no correction and no shrinkage needed: the mean of the groups' Gaussian scores, close to all rows' own."""
    X = normal(4000)
    density = ScoreDensity(max_iter=1, learning_rate=1e-12, random_state=0).fit(X)
    gaussian = GaussianMixture(1, reg_covar=0).fit(X).score_samples(X[:100])
    assert density.whitening_.shrinkage <= 0.01
    assert np.abs(density.score_samples(X[:100]) - gaussian).max() < 0.05
    assert density.validation_scores_[0][1] == pytest.approx(gaussian.mean(), abs=0.3)  # 100 of 4000 rows


def test_the_density_integrates_to_one():
    chance = np.random.RandomState(0)
    X = np.r_[chance.randn(150, 1), 5 + 0.3 * chance.randn(150, 1)] * 1000
    density = ScoreDensity(max_iter=150, width=8, n_iter_no_change=50, random_state=0).fit(X)
    grid = np.linspace(-12000, 15000, 901)
    assert density.n_iter_ > 10  # no Gaussian
    assert np.trapezoid(np.exp(density.score_samples(grid[:, None])), grid) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_change_of_units_is_a_constant(scale):
    X = mixture().sample(150, torch.Generator().manual_seed(0)).numpy()
    options = {**QUICK, "max_iter": 30, "steps": 32, "random_state": 0}
    one, two = ScoreDensity(**options).fit(X), ScoreDensity(**options).fit(3 + scale * X)
    moved = two.score_samples(3 + scale * X) + 2 * math.log(scale)
    assert np.allclose(one.score_samples(X), moved, atol=1e-3)


def test_whitening_is_that_of_the_covariance_and_shrinks_where_rows_are_few():
    X = normal(5000)
    whitening = Whitening.of(X, 5)
    z = (X - whitening.mean) @ whitening.matrix
    assert np.allclose(z.mean(0), 0, atol=1e-9) and np.allclose(np.cov(z.T) / SPREAD**2, np.eye(3), atol=2e-2)
    rest = np.delete(z, slice(2, None, 5), axis=0)
    assert np.allclose(whitening.means[2], rest.mean(0), atol=1e-9)
    assert np.allclose(whitening.covariances[2], np.cov(rest.T), atol=2e-2 * SPREAD**2)
    assert Whitening.of(np.random.RandomState(0).randn(12, 8), 4).shrinkage >= 0.1
    flat = Whitening.of(np.c_[X, X[:, :1], np.ones(len(X))], 5)  # a copy and a constant: degenerate, but finite
    assert np.isfinite(flat.matrix).all() and np.isfinite(flat.covariances).all()


def test_no_network_is_shown_the_rows_that_judge_it(monkeypatch):
    """Row i of a batch is for network i mod 6, of group i mod 3; the rows of its own share never come, others alike."""
    X, batches = normal(23, 2), []

    def spy(model, draw, *args, **options):
        batches.append(draw(6000, torch.Generator().manual_seed(0)))
        return fit(model, draw, *args, **options)

    monkeypatch.setattr("scoresde.estimator.BLUR", 0.0)
    monkeypatch.setattr("scoresde.estimator.fit", spy)
    density = ScoreDensity(**{**QUICK, "shares": 3, "members": 2}, random_state=0).fit(X)
    order = np.random.RandomState(0).permutation(23)
    z = torch.from_numpy((X[order] - density.whitening_.mean) @ density.whitening_.matrix).float()
    distance, row = torch.cdist(batches[0], z, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert float(distance.max()) < 1e-5
    for group in range(3):
        counts = torch.bincount(row[group::3], minlength=23)
        assert not counts[group::3].any()
        counts = counts[torch.arange(23) % 3 != group].double()
        expected = 2000 / len(counts)
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected) + 0.1 * expected  # shares of 7 and 8 rows


def test_networks_answer_for_their_own_rows_alone():
    net = Committee(torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1), VP(), "v", members=2, width=4, blocks=1)
    torch.nn.init.normal_(net.leave)
    x, t = torch.randn(12, 2), torch.rand(12)
    alone = torch.stack([_only(net, k)(x, t) for k in range(6)])  # k = group + 3 member
    rows = torch.arange(12)
    assert torch.allclose(net.train()(x, t), alone[rows % 6, rows], atol=1e-6)
    assert torch.allclose(net.eval()(x, t), alone.mean(0), atol=1e-6)
    net.apart = True
    assert torch.allclose(net(x, t), alone.unflatten(0, (2, 3)).mean(0)[rows % 3, rows], atol=1e-6)


def _only(net, k):
    """A committee of network k alone."""
    one = Committee(torch.zeros(1, 2), torch.eye(2)[None], net.process, net.prediction, members=1, width=4, blocks=1)
    with torch.no_grad():
        for mine, theirs in zip(one.parameters(), net.parameters()):
            mine.copy_(theirs[k : k + 1])
    return one.eval()


@pytest.mark.parametrize("process, prediction", [(VP(), "v"), (VE(), "noise"), (RectifiedFlow(), "velocity")], ids=repr)
def test_the_held_out_bound_is_one_and_tight_for_the_exact_model(process, prediction):
    """For exact models the bound is the density, to the chance of its noise; a wrong model's is below its density."""
    small = mixture()
    target = targets.GaussianMixture(small.weights, 3 * small.means, 9 * small.covariances)
    z = target.sample(8000, torch.Generator().manual_seed(0))
    exact, model = float(target.log_prob(z).mean()), target.model(process, prediction)
    assert bound(model, z) == pytest.approx(exact, abs=0.1)
    other = targets.GaussianMixture(target.weights, target.means + 0.6, target.covariances)
    density = float(other.log_prob(z).mean())
    assert bound(other.model(process, prediction), z) < density + 0.1 < exact


def test_it_is_the_same_for_the_same_seed_and_leaves_torchs_generator_alone():
    X, state = normal(60), torch.get_rng_state()
    one, two, three = (ScoreDensity(**QUICK, random_state=seed).fit(X) for seed in (0, 0, 1))
    assert np.array_equal(one.score_samples(X), two.score_samples(X))
    assert not np.array_equal(one.score_samples(X), three.score_samples(X))
    assert np.array_equal(one.sample(5, random_state=3), two.sample(5, random_state=3))
    assert not np.array_equal(one.sample(5, random_state=3), one.sample(5, random_state=4))
    assert torch.equal(state, torch.get_rng_state())


def test_it_is_cloned_and_pickled():
    X = normal(60)
    density = ScoreDensity(**QUICK, process=VE(), prediction="noise", random_state=0).fit(X)
    again = pickle.loads(pickle.dumps(density))
    assert np.array_equal(again.score_samples(X), density.score_samples(X))
    fresh = clone(density)
    assert fresh.get_params() == density.get_params() and not hasattr(fresh, "model_")
    assert fresh.set_params(width=6).width == 6


@pytest.mark.parametrize("process, prediction", [(VE(), "noise"), (RectifiedFlow(), "velocity")], ids=repr)
def test_every_process_and_prediction_begins_at_the_gaussian(process, prediction):
    X = normal(500)
    one = ScoreDensity(max_iter=1, learning_rate=1e-12, random_state=0)
    other = clone(one).set_params(process=process, prediction=prediction)
    assert np.allclose(one.fit(X).score_samples(X[:50]), other.fit(X).score_samples(X[:50]), atol=2e-3)


def test_it_drops_in_beside_scikit_learns_densities():
    X = normal(80)
    search = GridSearchCV(ScoreDensity(**QUICK, random_state=0), {"width": [2, 4]}, cv=2).fit(X)
    assert search.best_params_["width"] in (2, 4)
    piped = make_pipeline(StandardScaler(), ScoreDensity(**QUICK, random_state=0)).fit(X)
    plain = ScoreDensity(**QUICK, random_state=0).fit(X)
    volume = np.log(X.std(0)).sum()  # a pipeline's density is of the scaled rows
    assert np.allclose(piped.score_samples(X) - volume, plain.score_samples(X), atol=1e-3)
    assert plain.score(X) == pytest.approx(plain.score_samples(X).mean())


def test_wrong_input_is_named():
    X = normal(20)
    with pytest.raises(NotFittedError):
        ScoreDensity().score_samples(X)
    for name in ("max_iter", "shares", "members", "width", "blocks", "batch_size", "n_iter_no_change"):
        with pytest.raises(ValueError, match=name):
            ScoreDensity(**{**QUICK, name: 0}).fit(X)
    with pytest.raises(TypeError, match="process"):
        ScoreDensity("VP").fit(X)
    with pytest.raises(ValueError, match="prediction"):
        ScoreDensity(**QUICK, prediction="eps").fit(X)
    with pytest.raises(ValueError, match="n_samples"):
        ScoreDensity(**QUICK).fit(X).sample(0)
    with pytest.raises(ValueError, match="minimum of 2"):
        ScoreDensity().fit(X[:1])


def test_without_scikit_learn_the_extra_is_named():
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['sklearn.base'] = None\n"
        "import scoresde\n"
        "try: import scoresde.estimator\n"
        "except ImportError as error: assert 'scoresde[experiments]' in str(error), error\n"
        "else: raise SystemExit('no ImportError')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_mixture_is_learned_better_than_by_kernels():
    """On held-out rows of an exact mixture, within 0.05 nats of the truth and better than the best bandwidth's kernels;
    samples have the modes' weights, means and covariances to the accuracy that 3000 rows allow."""
    target = mixture()
    X, Y = (target.sample(n, torch.Generator().manual_seed(n)) for n in (3000, 1000))
    density = ScoreDensity(random_state=0).fit(X.numpy())
    kernels = GridSearchCV(KernelDensity(), {"bandwidth": np.logspace(-1.3, 0, 12)}, cv=5).fit(X.numpy())
    truth, ours, theirs = target.log_prob(Y).numpy(), density.score_samples(Y.numpy()), kernels.best_estimator_
    theirs = theirs.score_samples(Y.numpy())
    assert (truth - ours).mean() < 0.05
    gain = ours - theirs
    assert gain.mean() > 2 * gain.std() / math.sqrt(len(gain))
    drawn = torch.from_numpy(density.sample(3000, random_state=0))
    assert worst(deviations(drawn, target)) < 2 * LIMIT  # √2 of it is the chance of the rows, the rest the fit's
