"""What guided models sample and how likely they find it, against exact conditional laws and closed forms."""

import math

import pytest
import torch

from scoresde import EDM, VE, VP, Model, RectifiedFlow, ddpm, encode, guidance, log_prob, sample, samplers, targets
from tests.guides import LABEL, WEIGHT, X
from tests.problems import LIMIT, MAIN, apart, classes, deviations, gaussian, name, worst

SAMPLERS = [
    samplers.Adams(), samplers.DDIM(), samplers.DDIM(0.5), samplers.DDPM(), samplers.Euler(), samplers.Heun(),
    samplers.Heun(churn=2.0), samplers.DPMSolver(2), samplers.DPMSolverPP(3), samplers.DEIS(3), samplers.UniPC(),
    samplers.PNDM(), samplers.SASolver(), samplers.FlowSDE(), samplers.EulerMaruyama(), samplers.AnnealedLangevin(),
    samplers.PredictorCorrector(), samplers.SDE("euler"), samplers.ODE(), samplers.Adaptive(), samplers.Restart(),
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: repr(s)[:40])
def test_every_sampler_draws_from_a_guided_model_as_from_the_conditional_one(sampler):
    """The same seeds give the same samples; the moments of the mixture are not those of a class, in both."""
    model = classes().model(VP())
    given = sample(model.given(label=LABEL), (40, 2), sampler, 12, seeds=range(40))
    for guided in (
        guidance.classifier_free(model.given(label=LABEL), torch.ones(40).double()),
        guidance.classifier(model, classes().classifier(VP()), LABEL),
    ):
        torch.testing.assert_close(sample(guided, (40, 2), sampler, 12, seeds=range(40)), given, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("kind", ["classifier-free", "classifier"])
def test_weight_one_samples_the_exact_conditional(process, kind):
    """Weights, means and variances of the class's modes within 4 standard errors; at w = 1.3 they are not."""
    target, n, label = apart().given(0), 20_000, torch.tensor(0)
    model = apart().model(process, "v")

    def guided(weight):
        if kind == "classifier":
            return guidance.classifier(model, apart().classifier(process), label, weight)
        return guidance.classifier_free(model.given(label=label), lambda t: weight + 0 * t)

    def judged(weight):
        generator = torch.Generator().manual_seed(11)
        return worst(deviations(sample(guided(weight), (n, 2), steps=40, generator=generator), target))

    assert judged(1.0) < LIMIT
    assert judged(1.3) > 2 * LIMIT


@pytest.mark.parametrize("weight", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
def test_the_normal_case_has_a_closed_form(process, weight):
    """The flow guided between N(0, S²) and N(m, s²) is linear: deviation s (s/S)^(w−1) (docs/theory, eq. 65)."""
    m, s, S = 1.0, 0.5, 1.0
    wide, narrow = targets.Gaussian([0.0], S**2), targets.Gaussian([m], s**2)

    def net(x, t, label):
        both = [part.model(process, "velocity")(x, t) for part in (wide, narrow)]
        return torch.where((label < 0)[:, None], *both)

    model = guidance.classifier_free(Model(net, process, "velocity").given(label=torch.tensor(0)), weight)
    start = torch.tensor([[-2.0], [0.0], [2.0]], dtype=torch.float64)
    end = sample(model, x=start, steps=400)[:, 0]
    slope = (end[2] - end[0]) / 4
    reach = float(process.sigma(1.0)) / float(process.alpha(1.0)) if process.at("alpha", 1.0) else math.inf
    growth = s * (s / S) ** (weight - 1)
    if math.isfinite(reach):  # VP stops at ρ = 150: eq. 64 from there, in units of x = αy
        top = (s**2 + reach**2) ** (weight / 2) * (S**2 + reach**2) ** ((1 - weight) / 2)
        growth = growth / top / float(process.alpha(1.0))
    assert abs(slope / growth - 1) < 3e-6  # no network is asked below σ/α = 1/1000, (1/125)² of the deviation squared
    if weight == 3.0 and math.isinf(reach):
        assert abs(end[1] / (m * (1 + 2 * s**2 / S**2)) - 1) < 1e-5
        tilted = 1 / math.sqrt(weight / s**2 - (weight - 1) / S**2)
        assert abs(slope / tilted - 1) > 0.5  # not the deviation of p(x | y)^w p(x)^(1−w)


@pytest.mark.parametrize("kind", ["classifier-free", "classifier", "weights"])
def test_log_prob_of_guided_models(kind):
    """At weight 1 the class's own density, within the solver's error; labels and weights follow their samples."""
    model = classes().model(VP(), "v")
    if kind == "classifier":
        guided = guidance.classifier(model, classes().classifier(VP()), LABEL)
    else:
        weight = torch.ones(40).double() if kind == "weights" else (lambda t: 1 + 0 * t)
        guided = guidance.classifier_free(model.given(label=LABEL), weight)
    x = torch.stack(
        [classes().given(int(k)).sample(1, torch.Generator().manual_seed(i))[0] for i, k in enumerate(LABEL)]
    )
    truth = torch.stack([classes().given(int(k)).log_prob(x[i : i + 1])[0] for i, k in enumerate(LABEL)])
    result = log_prob(guided, x, tolerance=1e-4)
    assert (result.value - truth).abs().max() < 2e-4  # the tolerance, and VP's prior
    wrong = log_prob(guidance.classifier_free(model.given(label=1 - LABEL), 1.0), x, tolerance=1e-3)
    assert (wrong.value - truth).abs().mean() > 1


def test_log_prob_and_samples_of_a_guided_law_fit_each_other():
    """At w = 2 no closed form: the density along the flow must integrate to one, and encode must invert sample."""
    mixture = targets.GaussianMixture(torch.tensor([0.5, 0.5]).double(), [[-1.0], [1.0]], 0.2)
    model = targets.Labelled(mixture, [0, 1]).model(VP(), "v").given(label=torch.tensor(1))
    guided = guidance.classifier_free(model, 2.0)
    x = torch.linspace(-1.5, 4.0, 300, dtype=torch.float64)[:, None]
    density = log_prob(guided, x, tolerance=1e-4).value.exp()
    assert abs(torch.trapezoid(density, x[:, 0]) - 1) < 2e-3
    assert (sample(guided, x=encode(guided, x[80:220], steps=200), steps=200) - x[80:220]).abs().max() < 1e-4


@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=name)
def test_autoguidance_in_closed_form(process):
    """Scores −x/(α²s² + σ²) of two normal laws, extrapolated; the weak model on another process and prediction."""
    strong, other = targets.Gaussian([0.0], 0.25), targets.Gaussian([0.0], 1.0).model(EDM(), "velocity")
    guided = guidance.autoguidance(strong.model(process, "v"), other, 2.5)
    t = 0.4 * process.t_max
    alpha2, sigma2 = float(process.alpha(t)) ** 2, float(process.sigma(t)) ** 2
    x = X[:, :1]
    truth = -x * (2.5 / (0.25 * alpha2 + sigma2) - 1.5 / (alpha2 + sigma2))
    torch.testing.assert_close(guided.predict("score", x, t), truth, rtol=1e-9, atol=1e-9)
    model = strong.model(process)
    assert torch.equal(guidance.autoguidance(model, other, 1.0)(x, t), model(x, t))


@pytest.mark.parametrize("process", [*MAIN, ddpm()], ids=name)
def test_temperature_is_exact_for_normal_data(process):
    target = gaussian()
    cold = targets.Gaussian(target.moments[0], 0.3 * target.moments[1])
    model = guidance.temperature(target.model(process, "v"), 0.3)
    for share in (0.0, 0.1, 0.7, 1.0):
        t = share * process.t_max
        torch.testing.assert_close(model(X, t), cold.model(process, "v")(X, t), rtol=1e-9, atol=1e-9)
    x = cold.sample(5)
    torch.testing.assert_close(
        log_prob(model, x, tolerance=1e-5).value, log_prob(cold.model(process, "v"), x).value, rtol=0, atol=1e-4
    )
    if process == VP():
        moved = sample(model, (4000, 2), generator=torch.Generator().manual_seed(0))
        assert worst(deviations(moved, cold)) < LIMIT


def test_a_sample_does_not_depend_on_its_batch():
    """Labels and weights of single samples stay with them, in the adaptive likelihood too."""
    guided = guidance.classifier_free(classes().model(VP(), "v").given(label=LABEL), WEIGHT)
    alone = guidance.classifier_free(classes().model(VP(), "v").given(label=LABEL[7:8]), WEIGHT[7:8])
    together = log_prob(guided, X, tolerance=1e-3).value[7]
    assert abs(together - log_prob(alone, X[7:8], tolerance=1e-3).value[0]) < 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
def test_guided_models_on_an_accelerator(process):
    """The same as on the CPU, to rounding; weights and labels follow from wherever they are."""
    cpu = classes().model(process, "v").given(label=LABEL)
    gpu = classes().cuda().model(process, "v").given(label=LABEL)
    for guide in (
        lambda model: guidance.classifier_free(model, WEIGHT),
        lambda model: guidance.threshold(guidance.temperature(guidance.classifier_free(model, lambda t: 1 + t), 0.5)),
        lambda model: guidance.autoguidance(model, model, 2.0),
    ):
        end = [sample(guide(model), x=X.to(device), steps=10).cpu() for model, device in ((cpu, "cpu"), (gpu, "cuda"))]
        torch.testing.assert_close(*end, rtol=1e-9, atol=1e-9)
    guided = guidance.classifier(gpu, classes().cuda().classifier(process), LABEL, WEIGHT)
    other = guidance.classifier(cpu, classes().classifier(process), LABEL, WEIGHT)
    torch.testing.assert_close(guided(X.cuda(), 0.5).cpu(), other(X, 0.5), rtol=1e-9, atol=1e-9)
