"""Guidance as algebra: the same in every prediction, one call, and what its parts do by hand."""

import math
from copy import deepcopy

import pytest
import torch

from scoresde import EDM, PREDICTIONS, VP, Model, RectifiedFlow, guidance
from scoresde._fingerprint import fingerprint
from tests.guides import GUIDES, LABEL, WEIGHT, X
from tests.problems import MAIN, NAMES, classes, name


def mine(process, t):
    return 1.0, -0.5


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("process", MAIN, ids=name)
def test_the_same_in_every_prediction(process, guide):
    """To 1e-12 of the noise's size; a quotient of deviations, as in "rescaled", loses a digit where both are small."""
    for share in (0.1, 0.5, 0.9):
        t = float(process.time(torch.tensor(2 * math.log((1 - share) / share), dtype=torch.float64)))
        x = X * float(torch.hypot(process.alpha(t), process.sigma(t)))
        answers = [GUIDES[guide](classes().model(process, p), process).predict("noise", x, t) for p in (*NAMES, mine)]
        size = float(answers[0].abs().max()) + 1
        for other in answers[1:]:
            torch.testing.assert_close(other, answers[0], rtol=0, atol=(1e-11 if guide == "rescaled" else 1e-12) * size)


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_weights_one_and_zero_are_the_model_with_and_without_its_condition(process):
    model, t = classes().model(process), 0.3 * process.t_max
    given, free = model.given(label=LABEL)(X, t), model(X, t)

    def guided(weight):
        return guidance.classifier_free(model.given(label=LABEL), weight)(X, t)

    assert torch.equal(guided(1.0), given) and torch.equal(guided(0.0), free)
    torch.testing.assert_close(guided(2.5), free + 2.5 * (given - free), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(guided(WEIGHT), free + WEIGHT[:, None] * (given - free), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(guided(lambda t: 1 + t), free + (1 + t) * (given - free), rtol=1e-12, atol=1e-12)
    late = guidance.classifier_free(model, 2.5)
    torch.testing.assert_close(late(X, t, label=LABEL), guided(2.5))
    torch.testing.assert_close(late.given(label=LABEL)(X, t), guided(2.5))


class Seen:
    """A network that notes the rows of every call; `size` is a condition that is not to be dropped."""

    def __init__(self):
        self.rows, self.sizes = [], []

    def __call__(self, x, t, label=None, size=None):
        self.rows.append(len(x))
        self.sizes.append(size)
        return label.to(x.dtype)[:, None] + 0 * x


def test_both_halves_are_one_call_and_the_needless_one_is_none():
    net = Seen()
    model = Model(net, VP()).given(label=LABEL)
    for weight, rows in ((3.0, 80), (1.0, 40), (0.0, 40), (guidance.interval(3.0, 0.4, 0.6), 40), (WEIGHT, 80)):
        guidance.classifier_free(model, weight)(X, 0.3)
        assert net.rows.pop() == rows and not net.rows
    guidance.classifier_free(model, guidance.interval(3.0, 0.2, 0.6))(X, 0.3)
    guidance.compose(Model(net, VP()), [{"label": 0}, {"label": 1}, {"label": LABEL}], 2.0)(X, 0.3)
    guidance.compose(Model(net, VP()), [{"label": 0}, {"label": 1}], 0.5)(X, 0.3)
    assert net.rows == [80, 160, 80]  # weights of sum one need no unconditional rows


def test_what_stands_for_no_condition():
    net = Seen()
    model, x = Model(net, VP()).given(label=LABEL, size=torch.arange(40.0)), torch.zeros(40, 2)
    y = guidance.classifier_free(model, 3.0)(x, 0.3)
    assert torch.equal(y[:, 0], -1 + 3.0 * (LABEL + 1))
    assert torch.equal(net.sizes[-1], torch.cat([torch.zeros(40), torch.arange(40.0)]))
    y = guidance.classifier_free(model, 3.0, null={"label": 10})(x, 0.3)
    assert torch.equal(y[:, 0], 10 + 3.0 * (LABEL - 10.0))
    assert torch.equal(net.sizes[-1], torch.arange(40.0).repeat(2))  # not named, so kept
    y = guidance.compose(model, [{"label": 7}], 2.0, null={"label": 10})(x, 0.3)
    assert torch.equal(y[:, 0], torch.full((40,), 10 + 2.0 * (7 - 10)))


@pytest.mark.parametrize("process", MAIN, ids=name)
@pytest.mark.parametrize("prediction", NAMES)
def test_a_classifier_of_weight_one_makes_the_conditional_model(process, prediction):
    model = classes().model(process, prediction)
    guided = guidance.classifier(model, classes().classifier(process), LABEL)
    for share in (0.02, 0.5, 0.95):
        t = share * process.t_max
        torch.testing.assert_close(guided(X, t), model.given(label=LABEL)(X, t), rtol=1e-8, atol=1e-8)


def test_a_classifier_at_pure_noise():
    """x₀ given x_T is the class's mean; asked where σ/α is 1000, it is off by O(|x|/1000)."""
    model = classes().model(RectifiedFlow(), "velocity")
    guided = guidance.classifier(model, classes().classifier(RectifiedFlow()), LABEL)
    means = torch.stack([classes().given(k).moments[0] for k in (0, 1)])
    assert (guided.predict("x0", X, 1.0) - means[LABEL]).abs().max() < 5e-3


def test_a_classifier_on_top_of_a_conditional_model_and_weights_that_add_up():
    """w of one and 1 − w of the other is the conditional again: both add w ∇log p_t(y | x)."""
    model = classes().model(VP())
    partly = guidance.classifier_free(model.given(label=LABEL), 0.4)
    guided = guidance.classifier(partly, classes().classifier(VP()), LABEL, 0.6)
    torch.testing.assert_close(guided(X, 0.4), model.given(label=LABEL)(X, 0.4), rtol=1e-8, atol=1e-8)


def test_temperature_of_images_and_of_models_without_moments():
    """Standard deviations that broadcast, and s = 1."""
    for moments, s in ((None, 1.0), ((0.0, 0.5), 0.5), ((torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.5)), 0.5)):
        level = float(VP().sigma(0.5) / (s**2 * VP().alpha(0.5) ** 2 + VP().sigma(0.5) ** 2))
        model = Model(lambda x, t, level=level: level * x, VP(), "noise", moments)
        x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
        cold = guidance.temperature(model, 0.25)
        truth = x / (0.25 * s**2 * VP().alpha(0.5) ** 2 + VP().sigma(0.5) ** 2) * VP().sigma(0.5)
        torch.testing.assert_close(cold(x, 0.5), truth, rtol=1e-10, atol=1e-10)


def test_threshold_by_hand():
    """Sample by sample, in numbers: the k-th smallest |x₀| is s, at least the bound."""
    model = Model(lambda x, t: 2 * x, VP(), "x0")
    x = torch.tensor([[0.1, -0.2, 0.3, 4.0], [3.0, -2.0, 1.0, -0.5]])
    y = guidance.threshold(model, 0.75, 1.0)(x, 0.5)
    torch.testing.assert_close(y[0], torch.tensor([0.2, -0.4, 0.6, 1.0]))  # s = 0.6, below the bound
    torch.testing.assert_close(y[1], torch.tensor([4.0, -4.0, 2.0, -1.0]) / 4)
    static = guidance.threshold(model, 0.0, 1.0)(x, 0.5)
    torch.testing.assert_close(static, (2 * x).clamp(-1, 1))
    noisy = Model(lambda x, t: x, VP(), "noise")  # at t = 0 noise says nothing of x₀ = x, which is within the bound
    assert torch.equal(guidance.threshold(noisy, bound=5.0)(x, 0.0), x)


def test_rescale_brings_back_the_deviation_of_v():
    model = classes().model(VP())
    wide = torch.randn(6, 2, dtype=torch.float64)
    given = model.given(label=torch.tensor(0))
    for share in (0.0, 0.4, 1.0):
        v, plain, want = (
            m.predict("v", wide, 0.4).std(1, correction=0)
            for m in (
                guidance.classifier_free(given, 4.0, rescale=share), guidance.classifier_free(given, 4.0), given,
            )
        )  # fmt: skip
        torch.testing.assert_close(v, share * want + (1 - share) * plain, rtol=1e-10, atol=1e-10)


def test_guided_models_follow_deepcopy_processes_and_inference_mode():
    model = GUIDES["all"](classes().model(VP()), VP())
    copy = deepcopy(model)
    assert torch.equal(copy(X, 0.4), model(X, 0.4))
    other = model.on(EDM())
    t = float(EDM().time(VP().logsnr(0.4)))
    x = X * math.hypot(1.0, t)
    torch.testing.assert_close(other.predict("x0", x, t), model.predict("x0", X, 0.4), rtol=1e-9, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(model(X, 0.4), copy(X, 0.4))
    assert all(p.shape for p in model.net.buffers())


def test_a_guided_model_made_again_is_the_same_to_whoever_goes_on_with_it():
    """As files of samples do, in another process."""
    for guide in GUIDES.values():
        one, two = (fingerprint(guide(classes().model(VP()), VP())) for _ in range(2))
        assert one == two
    three, four = (
        fingerprint(guidance.classifier_free(classes().model(VP()).given(label=LABEL), w)) for w in (3.0, 4.0)
    )
    assert three != four


def test_the_other_convention():
    schedule = guidance.from_ho_salimans(lambda t: 2 * t)
    assert schedule(torch.tensor(1.5)) == 4.0 and guidance.to_ho_salimans(schedule)(torch.tensor(1.5)) == 3.0
    w, s = 3.5, guidance.to_ho_salimans(3.5)
    given, free = classes().model(VP()).given(label=LABEL)(X, 0.3), classes().model(VP())(X, 0.3)
    guided = guidance.classifier_free(classes().model(VP()).given(label=LABEL), w)(X, 0.3)
    torch.testing.assert_close(guided, (1 + s) * given - s * free)


def test_predictions_table_is_not_touched():
    assert list(PREDICTIONS) == NAMES
