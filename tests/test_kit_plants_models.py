"""Wrong equations, guidance and likelihoods, planted: the kit names what is wrong with each, and nothing else."""

import pytest
import torch

from scoresde import EDM, VP, Dynamics, Model, Reverse, targets
from scoresde.guidance import classifier, classifier_free
from scoresde.testing import PROPERTIES, examine, properties
from scoresde.testing.parts.guidance import CLASSES
from tests.problems import mixture
from tests.walked import walked

# --- equations -------------------------------------------------------------------------------------------------


class LoudReverse(Reverse):
    def diffusion(self, t, x):
        return 1.01 * super().diffusion(t, x)


class HalfScore(Reverse):
    """The drift of η = 1 with the score's factor of η = 0."""

    def drift(self, t, x):
        return Reverse(self.model, 0.0).drift(t, x)


class Silent(Reverse):
    noise = "none"


class Shortcut(Reverse):
    def drift(self, t, x):
        return super().drift(t, x)

    def scaled_drift(self, scale, t, x):
        return self.drift(t, x)


class Spreading(Dynamics):
    def drift(self, t, x):
        return -x

    def diffusion(self, t, x):
        return x.norm(dim=1, keepdim=True).expand_as(x)


class Additive(Dynamics):
    noise = "additive"

    def drift(self, t, x):
        return -x

    def diffusion(self, t, x):
        return 0.5 * x


class Centred(Dynamics):
    noise = "none"

    def drift(self, t, x):
        return x.mean(0) - x


class Column(Dynamics):
    noise = "none"

    def drift(self, t, x):
        return -x.sum(1)


class Tabled(Dynamics):
    """Knows the times that the kit asks, and few others."""

    noise = "none"

    def drift(self, t, x):
        return {0.0: -1.0, 0.25: -0.9, 0.5: -0.8, 0.75: -0.7, 1.0: -0.6}[t] * x


MODEL = mixture().model(VP(), "v")
EQUATIONS = {
    "as it is": (Reverse(MODEL, 1.0), (0.9, 0.1), set()),
    "1 % more noise": (LoudReverse(MODEL, 1.0), (0.9, 0.1), {"carries its law"}),
    "half of the score": (HalfScore(MODEL, 1.0), (0.9, 0.1), {"carries its law"}),
    "the wrong way": (Reverse(MODEL, 1.0), (0.1, 0.9), {"carries its law"}),
    "noise not declared": (Silent(MODEL, 1.0), (0.9, 0.1), {"has the noise that it declares"}),
    "a shortcut without its factor": (Shortcut(MODEL, 1.0), (0.9, 0.1), {"scales its drift"}),
    "entries share noise": (Spreading(), (0.0, 1.0), {"has the noise that it declares"}),
    "noise of x": (Additive(), (0.0, 1.0), {"has the noise that it declares"}),
    "a mean over the batch": (Centred(), (0.0, 1.0), {"keeps samples apart"}),
    "a table of times": (Tabled(), (0.0, 1.0), {"is solved"}),
    "a number a sample": (Column(), (0.0, 1.0), {"answers in the state's form"}),
}


@pytest.mark.parametrize("what", EQUATIONS)
def test_wrong_equations(what):
    equation, (t0, t1), named = EQUATIONS[what]
    law = (lambda t: mixture().marginal(VP(), t)) if isinstance(equation, Reverse) else None
    report = examine(equation, t0=t0, t1=t1, law=law)
    assert set(report.failed) == named, str(report)


def test_every_property_of_an_equation_can_fail():
    assert set().union(*(named for *_, named in EQUATIONS.values())) == set(map(str, PROPERTIES["dynamics"]))


# --- guidance --------------------------------------------------------------------------------------------------


def stretched(model, weight):
    return model.wrap(lambda model, x, t, **cond: weight * model(x, t, **cond))


def enclosed(model, weight):
    other = classifier_free(model, weight)
    return Model(lambda x, t: other(x, t), model.process, model.prediction, model.moments)


def normed(model, weight):
    def guide(model, x, t, **cond):
        given, free = model(x, t, **cond), model(x, t, **{**cond, "label": torch.tensor(-1)})
        step = given - free
        return given + (weight - 1) * step * (step.mean() / (step.mean() + 1)).abs()

    return model.wrap(guide)


def detached(model, weight):
    return model.wrap(lambda model, x, t, **cond: classifier_free(model, weight)(x.detach(), t, **cond))


def ho_and_salimans(model, weight):
    return classifier_free(model, 1 + weight)


def reversed_weight(model, weight):
    return classifier_free(model, 2 - weight)


def ignored_weight(model, weight):
    return classifier_free(model, 1.0)


def doubled_weight(model, weight):
    return classifier_free(model, 2 * weight - 1)


def single(model, weight):
    return model.wrap(lambda model, x, t, **cond: classifier_free(model, weight)(x.float(), t, **cond))


def on_vp(model, weight):
    return model.on(VP())


def early(model, weight):
    def guide(model, x, t, **cond):
        assert model.process.logsnr(t).min() > -6, "too much noise"
        return classifier_free(model, weight)(x, t, **cond)

    return model.wrap(guide)


class Unmapped(torch.autograd.Function):
    """The identity, with a jvp and no vmap rule."""

    @staticmethod
    def forward(y):
        return y.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


def unmapped(model, weight):
    return model.wrap(lambda model, x, t, **cond: Unmapped.apply(classifier_free(model, weight)(x, t, **cond)))


GUIDES = {
    "as it is": (classifier_free, set()),
    "not affine": (stretched, {"is the same in every prediction"}),
    "a closure": (enclosed, {"follows deepcopy"}),
    "a mean over the batch": (normed, {"is the same in every prediction", "keeps samples apart"}),
    "no gradient": (detached, {"is differentiated rightly"}),
    "a weight of another convention": (ho_and_salimans, {"is neutral where it says so"}),
    "a weight reversed": (reversed_weight, {"more weight, more guidance"}),
    "float32": (single, {"gives a model"}),
    "not from pure noise": (early, {"samples", "has a likelihood"}),
    "no vmap rule": (unmapped, {"has a likelihood"}),
    "another process": (on_vp, {"gives a model"}),
}


@pytest.mark.parametrize("what", GUIDES)
def test_wrong_guidance(what):
    guide, named = GUIDES[what]
    report = examine(guide, "guidance")
    assert set(report.failed) == named, str(report)


def formula(model, weight):
    """y of no class, and weight times what the class adds."""

    def guide(model, x, t, **cond):
        given, free = model(x, t, **cond), model(x, t, label=torch.tensor(-1))
        return free + weight * (given - free)

    return model.wrap(guide)


def by_class_one(model, weight):
    return classifier(model, CLASSES.classifier(model.process), 1, weight)


@pytest.mark.parametrize(
    ("guide", "settings", "named", "what"),
    [
        (ignored_weight, {}, "more weight", "weights change nothing"),
        (classifier_free, {"exact": formula}, "equals", ""),
        (doubled_weight, {"exact": formula}, "equals", "at weight 0.5 the noise is ["),
        (by_class_one, {"neutral": 0.0, "toward": 1}, "more weight", ""),
        (by_class_one, {"neutral": 0.0, "toward": 0}, "more weight", "away from the condition: the cosine is -0."),
    ],
)
def test_what_a_weight_is_compared_with(guide, settings, named, what):
    case = next(each for each in properties(guide, "guidance", **settings) if str(each).startswith(named))
    finding = case.find()
    assert finding.passed == (not what) and what in finding.what


def test_every_property_of_a_guidance_can_fail():
    named = {*set().union(*(named for _, named in GUIDES.values())), "equals the exact guide"}  # of which just above
    assert named == set(map(str, PROPERTIES["guidance"]))


# --- likelihoods -----------------------------------------------------------------------------------------------

NORMAL, SURE = ("is exact for a mixture",), {"has standard errors that cover"}
LIKELIHOODS = {
    "": set(),
    "unit prior": {"ends at the process's own prior"},
    "sign": {"is exact for normal data"},
    "trace": {"is exact for normal data"},
    "no volume": {"is exact for normal data"},
    "unconverted": {"is exact for normal data", "is the same in every prediction"},
    "two networks": {"integrates to one"},
    "batch": {"keeps samples apart"},
    "mean": {"keeps samples apart"},
    "float32": {"keeps shape and dtype"},
    "column": {"keeps shape and dtype"},
}
EMPTY = {"takes an empty batch"}


def normal(model, x):
    """The normal density with the moments of the data."""
    return targets.Gaussian(*model.moments).log_prob(x.flatten(1)).to(x)


def test_a_likelihood_that_knows_moments_only():
    assert examine(normal, "likelihood").failed == NORMAL


def test_an_empty_batch_masks_nothing():
    report = examine(lambda model, x: normal(model, x) + 0 * x[0].numel(), "likelihood")
    assert set(report.failed) == {*EMPTY, *NORMAL}


def test_a_bare_estimate_is_called_random():
    report = examine(lambda model, x: normal(model, x) + 0.01 * torch.randn(len(x)), "likelihood")
    assert report.failed == ("keeps samples apart",)
    assert "it is random: log p is" in str(report) and "standard_error" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", LIKELIHOODS)
def test_wrong_likelihoods(mistake):
    processes = [VP(), EDM()] if mistake == "unit prior" else [VP()]
    report = examine(lambda model, x: walked(model, x, mistake), "likelihood", tolerance=3e-3, processes=processes)
    assert set(report.failed) == LIKELIHOODS[mistake], str(report)


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "named"), [("", set()), ("too sure", SURE)])
def test_wrong_standard_errors(mistake, named):
    report = examine(
        lambda model, x: walked(model, x, mistake, probes=8), "likelihood", tolerance=3e-3, processes=[VP()]
    )
    assert set(report.failed) == named, str(report)


def test_every_property_of_a_likelihood_can_fail():
    assert SURE.union(NORMAL, EMPTY, *LIKELIHOODS.values()) == set(map(str, PROPERTIES["likelihood"]))
