"""Guidance and wrong input; a classifier trained beside the exact one."""

import math

import pytest
import torch

from scoresde import VP, Model, RectifiedFlow, guidance, networks, sample
from tests.problems import apart, classes

MODEL = classes().model(VP())
X = torch.zeros(4, 2)


def net(x, t):
    return x


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (lambda: guidance.classifier_free(net, 2.0), TypeError, "model must be a Model"),
        (lambda: guidance.classifier_free(MODEL, "3"), TypeError, "weight must be a number, got '3'"),
        (lambda: guidance.classifier_free(MODEL, math.nan), ValueError, "weight must be a finite number"),
        (
            lambda: guidance.classifier_free(MODEL, torch.ones(2, 2)),
            ValueError,
            r"a number or a tensor \(B,\), got shape",
        ),
        (lambda: guidance.classifier_free(MODEL, torch.tensor([1.0, math.inf])), ValueError, "weight must be finite"),
        (lambda: guidance.classifier_free(MODEL, 2.0, rescale=2.0), ValueError, r"rescale must be .* in \[0, 1\]"),
        (lambda: guidance.classifier_free(MODEL, 2.0, null=-1), TypeError, "null must be a dict"),
        (
            lambda: guidance.classifier_free(MODEL, 2.0)(X, 0.5),
            ValueError,
            r"needs a model with a condition; write model.given",
        ),
        (
            lambda: guidance.classifier_free(MODEL.given(label=1), 2.0, null={"labels": -1})(X, 0.5),
            ValueError,
            "null names 'labels', which is not a condition of the model: label",
        ),
        (
            lambda: guidance.classifier_free(MODEL.given(label="dog"), 2.0)(X, 0.5),
            TypeError,
            r"the condition 'label' must be a number or a tensor \(B, \*\), got str",
        ),
        (
            lambda: guidance.classifier_free(MODEL.given(label=torch.tensor([0, 1])), 2.0)(X, 0.5),
            ValueError,
            r"the condition 'label' must have shape \(\) or \(4, \*\) for 4 samples, got \(2,\)",
        ),
        (
            lambda: guidance.classifier_free(MODEL.given(label=torch.ones(4, dtype=torch.uint8)), 2.0)(X, 0.5),
            TypeError,
            "'label' of torch.uint8 has no number for its absence; write null=",
        ),
        (
            lambda: guidance.classifier_free(MODEL.given(label=1), torch.ones(3))(X, 0.5),
            ValueError,
            r"weight must have shape \(\) or \(4,\) for 4 samples, got \(3,\)",
        ),
        (
            lambda: guidance.classifier_free(MODEL.given(label=1), lambda t: "two")(X, 0.5),
            TypeError,
            "weight must be a number, got 'two'",
        ),
        (
            lambda: guidance.compose(MODEL, {"label": 1}, 2.0),
            ValueError,
            "conditions must be a list of one dict a part",
        ),
        (lambda: guidance.compose(MODEL, [], 2.0), ValueError, "conditions must be a list of one dict a part"),
        (
            lambda: guidance.compose(MODEL, [{"label": 1}], [1.0, 2.0]),
            ValueError,
            "one for each of 1 conditions, got 2",
        ),
        (
            lambda: guidance.compose(MODEL, [{"label": 1}, {"style": 2}], 1.0, null={"label": -1}),
            ValueError,
            "null must name every condition of the parts, 'style' is missing",
        ),
        (lambda: guidance.interval(2.0, 0.5, 0.1), ValueError, "low must not be above high, got low=0.5 and high=0.1"),
        (lambda: guidance.autoguidance(MODEL, net, 2.0), TypeError, "weak must be a Model"),
        (lambda: guidance.classifier(MODEL, 3, 1), TypeError, "net must be callable as net"),
        (lambda: guidance.classifier(MODEL, net, 0.5), TypeError, "label must be of whole numbers"),
        (lambda: guidance.classifier(MODEL, net, -1), ValueError, "label must be of classes from 0, got -1"),
        (
            lambda: guidance.classifier(MODEL, net, 2)(X, 0.5),
            ValueError,
            "label must be below 2, the number of classes",
        ),
        (
            lambda: guidance.classifier(MODEL, net, torch.tensor([0, 1]))(X, 0.5),
            ValueError,
            r"label must have shape \(\) or \(4,\), got \(2,\)",
        ),
        (
            lambda: guidance.classifier(MODEL, lambda x, t: x.sum(1), 0)(X, 0.5),
            ValueError,
            r"net must return logits \(4, classes\), got \(4,\)",
        ),
        (lambda: guidance.temperature(MODEL, 0.0), ValueError, "value must be positive"),
        (lambda: guidance.threshold(MODEL, 95), ValueError, r"percentile must be .* in \[0, 1\]"),
        (lambda: guidance.threshold(MODEL, bound=-1), ValueError, "bound must be positive"),
        (
            lambda: guidance.fit_classifier(VP(), X, torch.zeros(3)),
            ValueError,
            r"labels must be int64 of shape \(4,\), one for each row of x, got torch.float32 \(3,\)",
        ),
        (lambda: guidance.fit_classifier(VP(), X, torch.tensor([0, 1, 0, -1])), ValueError, "classes from 0, got -1"),
        (lambda: guidance.fit_classifier("VP", X, torch.zeros(4).long()), TypeError, "process must be a Process"),
        (
            lambda: guidance.fit_classifier(VP(), X, torch.zeros(4).long(), net=torch.nn.Identity()),
            ValueError,
            "net has no parameters to train",
        ),
    ],
)
def test_what_does_not_fit_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    x, label = X[:batch], torch.zeros(batch).long()
    model = guidance.classifier_free(MODEL.given(label=label), 2.0)
    for guided in (
        model, guidance.classifier(model, classes().classifier(VP()), label), guidance.temperature(model, 0.5),
        guidance.threshold(model), guidance.autoguidance(model, model, 3.0),
    ):  # fmt: skip
        assert guided(x, 0.5).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_any_dtype(dtype):
    classifier = networks.Classifier((1, 4, 4), classes=3).to(dtype)
    model = Model(
        lambda x, t, label=None: x * (1 if label is None else label[:, None, None, None]), RectifiedFlow(), "v"
    )
    guided = guidance.classifier_free(model.given(label=torch.tensor([0, 1, 2])), torch.tensor([1.0, 2.0, 3.0]))
    guided = guidance.temperature(guidance.classifier(guided, classifier, torch.tensor([0, 1, 2])), 0.9)
    y = guidance.threshold(guided)(torch.randn(3, 1, 4, 4, dtype=dtype), 0.5)
    assert y.dtype == dtype and y.shape == (3, 1, 4, 4)


@pytest.mark.slow
def test_a_trained_classifier_guides_to_its_class():
    """Cross entropy within 0.01 nats of the exact classifier's, which is the least there is; samples of the class."""
    generator = torch.Generator().manual_seed(0)
    x, label = apart().sample(20_000, generator)
    x, state = x.float(), torch.get_rng_state()
    learned = guidance.fit_classifier(VP(), x, label, steps=2000, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    x, label = apart().sample(20_000, generator)
    t = torch.rand(20_000, generator=generator).clamp_min(1e-3)
    noisy, _ = VP().perturb(x.float(), t, generator=generator)
    exact = apart().classifier(VP())(noisy, t)
    gap = torch.nn.functional.cross_entropy(learned(noisy, t), label) - torch.nn.functional.cross_entropy(exact, label)
    assert gap < 0.01
    guided = guidance.classifier(apart().model(VP()), learned, 1)
    drawn = sample(guided, (4000, 2), steps=30, generator=generator)
    assert apart().mixture.responsibilities(drawn)[:, 1].mean() > 0.99
    off = (drawn.mean(0) - apart().given(1).moments[0]).abs().max()
    assert off < 0.1  # cross entropy hardly sees the gradient; the unguided mean is 1 away


def test_training_a_classifier_again_gives_the_same_bits():
    x, label = classes().sample(200, torch.Generator().manual_seed(1))
    nets = [
        guidance.fit_classifier(VP(), x.float(), label, 5, generator=torch.Generator().manual_seed(2)) for _ in range(2)
    ]
    weights = [[*net.state_dict().values()] for net in nets]
    assert all(torch.equal(a, b) for a, b in zip(*weights)) and not any(p.requires_grad for p in nets[0].parameters())
