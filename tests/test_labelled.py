"""Mixtures with classes: conditional models, classifiers and tilted laws, against Bayes' rule and quadrature."""

import math

import pytest
import torch

from scoresde import VP, RectifiedFlow, targets
from tests.problems import MAIN, NAMES, classes, name

X = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("process", MAIN, ids=name)
@pytest.mark.parametrize("prediction", NAMES)
def test_the_model_is_that_of_each_class(process, prediction):
    model, t = classes().model(process, prediction), 0.4 * process.t_max
    label = torch.arange(50) % 3 - 1
    given = model.given(label=label)(X, t)
    for k in (-1, 0, 1):
        alone = classes().mixture if k < 0 else classes().given(k)
        truth = alone.model(process, prediction)(X, t)
        torch.testing.assert_close(given[label == k], truth[label == k], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.given(label=torch.tensor(k))(X, t), truth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(X, t), classes().mixture.model(process, prediction)(X, t))


@pytest.mark.parametrize("process", MAIN, ids=name)
@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
def test_the_classifier_is_bayes_rule_on_noised_densities(process, share):
    t = share * process.t_max
    logits = classes().classifier(process)(X, torch.full((50,), t, dtype=torch.float64))
    joint = torch.stack(
        [classes().given(k).marginal(process, t).log_prob(X) + classes().prior[k].log() for k in (0, 1)], 1
    )
    torch.testing.assert_close(logits, joint.log_softmax(1), rtol=1e-9, atol=1e-9)


def test_samples_have_the_classes_they_came_from():
    target, n = classes(), 40_000
    x, label = target.sample(n, torch.Generator().manual_seed(0))
    share = target.prior[0].item()
    assert abs((label == 0).double().mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    for k in (0, 1):
        mean, covariance = target.given(k).moments
        mine = x[label == k]
        deviations = (mine.double().mean(0) - mean) / (covariance.diagonal() / len(mine)).sqrt()
        assert deviations.abs().max() < 4  # 1 in 4,000 by chance
    other = target.mixture.moments[0]
    assert (
        (x[label == 1].double().mean(0) - other) / (target.given(1).moments[1].diagonal() / n).sqrt()
    ).abs().max() > 20


@pytest.mark.parametrize("label", [0, 1])
def test_tilted_laws_at_weights_one_and_zero(label):
    torch.testing.assert_close(classes().tilted(label, 1.0).log_prob(X), classes().given(label).log_prob(X))
    torch.testing.assert_close(classes().tilted(label, 0.0).log_prob(X), classes().mixture.log_prob(X))


@pytest.mark.parametrize("weight", [-0.5, 0.5, 3.0])
def test_a_tilted_law_is_normalised_and_proportional_to_what_it_says(weight):
    tilted = classes().tilted(1, weight)
    axis = torch.linspace(-7, 7, 701, dtype=torch.float64)  # another grid than its own
    points = torch.cartesian_prod(axis, axis)
    assert abs(tilted.log_prob(points).exp().sum() * 0.02**2 - 1) < 1e-6
    direct = weight * classes().given(1).log_prob(X) + (1 - weight) * classes().mixture.log_prob(X)
    assert (tilted.log_prob(X) - direct).std() < 1e-9


@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
def test_samples_of_a_tilted_law_have_its_moments(weight):
    tilted, n = classes().tilted(1, weight), 20_000
    x = tilted.sample(n, torch.Generator().manual_seed(2)).double()
    mean, covariance = tilted.moments
    assert x.shape == (n, 2)
    assert ((x.mean(0) - mean) / (covariance.diagonal() / n).sqrt()).abs().max() < 4
    second = (x - mean).square()
    assert ((second.mean(0) - covariance.diagonal()) / (second.std(0) / math.sqrt(n))).abs().max() < 4
    away = classes().tilted(1, weight / 4).moments[0]  # that of a quarter of the weight is told apart
    assert ((x.mean(0) - away) / (covariance.diagonal() / n).sqrt()).abs().max() > 5


def test_what_does_not_fit_is_refused():
    mixture = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1)
    with pytest.raises(ValueError, match=r"labels must be whole numbers of shape \(2,\)"):
        targets.Labelled(mixture, [0, 1, 0])
    with pytest.raises(ValueError, match="no class left out"):
        targets.Labelled(mixture, [0, 2])
    with pytest.raises(TypeError, match="mixture must be a GaussianMixture"):
        targets.Labelled([0.5], [0])
    target = targets.Labelled(mixture, [0, 1])
    with pytest.raises(ValueError, match="label must be below 2"):
        target.given(2)
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="label must be below 2"):
        target.model(VP()).given(label=torch.tensor(2))(x, 0.5)
    with pytest.raises(ValueError, match=r"label must be whole numbers \(\) or \(3,\)"):
        target.model(VP()).given(label=torch.tensor([0, 1]))(x, 0.5)
    with pytest.raises(ValueError, match="at least 0 to sample by rejection"):
        target.tilted(0, -1.0).sample(3)
    with pytest.raises(ValueError, match=r"keeps \d+ of \d+ draws"):
        far = targets.Labelled(targets.GaussianMixture([1.0, 1e-3], [[0.0], [0.1]], 1.0), [0, 1])
        far.tilted(1, 40.0).sample(10, torch.Generator().manual_seed(0))
    wide = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-1.0] * 3, [1.0] * 3], 0.1), [0, 1])
    with pytest.raises(ValueError, match="in 1 or 2 dimensions, got 3"):
        wide.tilted(0, 2.0).log_prob(torch.zeros(1, 3))
    assert wide.tilted(0, 2.0).sample(5).shape == (5, 3)


def test_pure_noise_knows_no_class():
    logits = classes().classifier(RectifiedFlow())(X, torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(logits, classes().prior.log().expand(50, 2))
