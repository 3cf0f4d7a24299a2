"""Guidance where it is easily wrong: nested, at both ends of time, with conditions of several names."""

import math

import pytest
import torch

from scoresde import EDM, VE, VP, Model, RectifiedFlow, guidance, sample, targets
from scoresde.samplers import Adaptive
from tests.guides import LABEL, X, weak
from tests.problems import classes, name

MODEL = classes().model(VP(), "v")


@pytest.mark.parametrize("process", [VE(sigma_max=5000.0), EDM(sigma_max=1e5), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("prediction", ["x0", "noise", "velocity", "v"])
def test_a_classifier_at_the_noise_end(process, prediction):
    """x₀ given x_T is the class's mean but for O(|x|/σ): asked at σ/α = 1000, it is off by thousandths."""
    model = classes().model(process, prediction)
    guided = guidance.classifier(model, classes().classifier(process), LABEL)
    x = X * math.hypot(float(process.alpha(process.t_max)), float(process.sigma(process.t_max)))
    torch.testing.assert_close(
        guided(x, process.t_max) - model(x, process.t_max),
        model.given(label=LABEL)(x, process.t_max) - model(x, process.t_max),
        rtol=5e-3,
        atol=5e-3,
    )


def test_an_unconditional_weak_model_stays_so_under_other_guidance():
    strong, blurred = MODEL.given(label=LABEL), weak(VP())
    for other in (blurred.given(label=torch.tensor(-1)), blurred, MODEL.given(label=1 - LABEL)):
        guided = guidance.autoguidance(strong, other, 2.0)
        by_hand = 2 * strong.predict("v", X, 0.4) - other.predict("v", X, 0.4)
        torch.testing.assert_close(guided(X, 0.4), by_hand)
        for w in (1.0, torch.ones(40).double()):
            torch.testing.assert_close(guidance.classifier_free(guided, w)(X, 0.4), by_hand)


def test_what_both_were_given_is_dropped_in_both():
    guided = guidance.autoguidance(MODEL.given(label=LABEL), weak(VP()).given(label=LABEL), 2.0)
    free = guidance.classifier_free(guided, 0.0)(X, 0.4)
    torch.testing.assert_close(free, 2 * MODEL(X, 0.4) - weak(VP()).predict("v", X, 0.4))


def test_conditions_given_later_reach_both_models():
    later = guidance.autoguidance(MODEL, weak(VP()), 2.0).given(label=LABEL)
    early = guidance.autoguidance(MODEL.given(label=LABEL), weak(VP()).given(label=LABEL), 2.0)
    torch.testing.assert_close(later(X, 0.4), early(X, 0.4))
    assert not torch.allclose(later(X, 0.4), guidance.autoguidance(MODEL, weak(VP()), 2.0)(X, 0.4))


def test_compositions_of_different_conditions():
    """A condition left out of a part is none there."""

    def net(x, t, a, b):
        return (10.0 * a + b)[:, None].to(x.dtype) + 0 * x

    x = torch.zeros(3, 2)
    y = guidance.compose(Model(net, VP()), [{"a": 4}, {"b": torch.tensor([1, 2, 3])}], [2.0, 3.0])(x, 0.5)
    none, first = -11.0, 10 * 4 - 1.0
    second = torch.tensor([-10 + 1.0, -10 + 2.0, -10 + 3.0])
    torch.testing.assert_close(y[:, 0], none + 2 * (first - none) + 3 * (second - none))


def test_the_law_of_a_classifier_is_its_softmax():
    """Logits moved by the same for all classes, sample by sample, say the same."""
    exact = classes().classifier(VP())

    def moved(x, t):
        return exact(x, t) + x.sum(1, keepdim=True) ** 2

    one, other = (guidance.classifier(MODEL, net, LABEL, 2.0)(X, 0.4) for net in (exact, moved))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_interval_is_closed_and_what_is_outside_is_chosen():
    at = torch.tensor([0.1, 0.2, 0.6, 0.7])
    assert guidance.interval(3.0, 0.2, 0.6)(at).tolist() == pytest.approx([1, 3, 3, 1])
    schedule = guidance.interval(3.0, 0.5, 0.9, outside=0.0)
    guided = guidance.classifier(MODEL, classes().classifier(VP()), 1, schedule)
    assert torch.equal(guided(X, 0.2), MODEL(X, 0.2)) and not torch.allclose(guided(X, 0.7), MODEL(X, 0.7))


def test_rescaled_samples_do_not_depend_on_each_other():
    weight = torch.tensor([0.0, 1.0, 2.0, 4.0]).double().repeat(10)
    given, t = MODEL.given(label=LABEL), 0.4
    together = guidance.classifier_free(given, weight, rescale=0.7)(X, t)
    for i in range(4):
        alone = guidance.classifier_free(given, float(weight[i]), rescale=0.7)(X, t)
        torch.testing.assert_close(together[i], alone[i], rtol=1e-12, atol=1e-12)
    guided = guidance.classifier_free(given, lambda t: torch.where(t > 0.5, 0.0, 3.0), rescale=0.7)
    some = guidance.classifier_free(MODEL.given(label=LABEL[:4]), lambda t: torch.where(t > 0.5, 0.0, 3.0), rescale=0.7)
    ends = [sample(m, x=X[:n], sampler=Adaptive(rtol=1e-3)) for m, n in ((guided, 40), (some, 4))]
    torch.testing.assert_close(ends[0][:4], ends[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("prediction", ["x0", "noise", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_time_have_an_answer_wherever_the_model_has(process, prediction, dtype):
    model, x = classes().model(process, prediction).given(label=LABEL), X.to(dtype)
    for t in (0.0, process.t_max):
        assert torch.isfinite(model(x, t)).all()
        for guided in (
            guidance.threshold(model, 0.5, 0.1),
            guidance.classifier_free(model, 3.0, rescale=0.7),
            guidance.temperature(model, 0.5),
        ):
            assert torch.isfinite(guided(x, t)).all()


@pytest.mark.parametrize("percentile, n, rank", [(0.07, 100, 7), (0.55, 100, 55), (0.28, 25, 7), (0.5, 3, 2)])
def test_the_percentile_is_the_nearest_rank(percentile, n, rank):
    model = Model(lambda x, t: x, VP(), "x0")
    x = torch.arange(1.0, n + 1)[None]
    y = guidance.threshold(model, percentile, 0.5)(x, 0.5)
    torch.testing.assert_close(y, x.clamp(max=rank) * 0.5 / rank)


def test_temperature_tempers_the_moments():
    model = classes().mixture.model(VP())
    mean, covariance = guidance.temperature(model, 0.3).moments
    assert torch.equal(mean, model.moments[0]) and torch.allclose(covariance, 0.3 * model.moments[1])
    images = Model(lambda x, t: x, VP(), "noise", (torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.5)))
    assert torch.allclose(guidance.temperature(images, 0.25).moments[1], torch.full((1, 2, 2), 0.25).double())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda m: guidance.classifier_free(m, lambda t: t * math.nan), "weight must be a finite number"),
        (lambda m: guidance.classifier_free(m, lambda t: torch.where(t > 2, t, math.inf)), "weight must be a finite"),
        (lambda m: guidance.classifier_free(m, 2.0, null={}), "null must name a condition"),
        (lambda m: guidance.classifier_free(m, 2.0, null={"label": -0.6}), r"null\['label'\] must be whole"),
        (lambda m: guidance.classifier_free(m, 2.0, null={"label": [1, 2]}), r"null\['label'\] must broadcast"),
        (lambda m: guidance.classifier_free(m.given(size=torch.zeros(77, 5)), 2.0, null={"label": -1}), "'size' must"),
    ],
)
def test_more_that_does_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(MODEL.given(label=LABEL))(X, 0.4)


def test_a_tilted_law_far_from_the_modes():
    """Equal variances: −w of one mode and 1 + w of the other is normal again, with the mean beyond."""
    far = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-5.0], [5.0]], 0.16), [0, 1])
    mean, covariance = far.tilted(1, -1.0).moments
    assert abs(mean + 15) < 1e-6 and abs(covariance - 0.16) < 1e-6
    axis = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    assert abs(far.tilted(1, -1.0).log_prob(axis).exp().sum() * 1e-3 - 1) < 1e-9
    wide = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 0.04]), [0, 1])
    with pytest.raises(ValueError, match="leaves a law without an end"):
        wide.tilted(1, -0.5).log_prob(axis)
    narrow = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-1.0] * 2, [1.0] * 2], [1e-5, 1.0]), [0, 1])
    with pytest.raises(ValueError, match=r"too narrow for a grid of .*; use sample"):
        narrow.tilted(1, 0.5).log_prob(torch.zeros(1, 2))
    x = narrow.given(0).sample(5, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(narrow.tilted(0, 1.0).log_prob(x), narrow.given(0).log_prob(x))
