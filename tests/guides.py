"""Every kind of guidance, on the mixture with classes."""

import torch

from scoresde import VP, guidance, targets
from tests.problems import classes

X = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
LABEL = torch.arange(40) % 2
WEIGHT = torch.linspace(0, 4, 40, dtype=torch.float64)


def weak(process, prediction="noise"):
    """A blurred version of the classes."""
    mixture = classes().mixture
    blurred = targets.GaussianMixture(mixture.weights, mixture.means, mixture.covariances + 0.3 * torch.eye(2))
    return targets.Labelled(blurred, classes().labels).model(process, prediction)


GUIDES = {
    "classifier-free": lambda model, process: guidance.classifier_free(model.given(label=LABEL), 3.0),
    "weights": lambda model, process: guidance.classifier_free(model.given(label=LABEL), WEIGHT),
    "schedule": lambda model, process: guidance.classifier_free(model.given(label=LABEL), lambda t: 1 + t),
    "interval": lambda model, process: guidance.classifier_free(
        model.given(label=LABEL), guidance.interval(3.0, 0.1 * process.t_max, 0.6 * process.t_max)
    ),
    "rescaled": lambda model, process: guidance.classifier_free(model.given(label=LABEL), 3.0, rescale=0.7),
    "compose": lambda model, process: guidance.compose(model, [{"label": 0}, {"label": LABEL}], [1.5, WEIGHT]),
    "autoguidance": lambda model, process: guidance.autoguidance(
        model.given(label=LABEL), weak(VP(), "v").given(label=LABEL), 2.0
    ),
    "classifier": lambda model, process: guidance.classifier(model, classes().classifier(process), LABEL, 2.0),
    "temperature": lambda model, process: guidance.temperature(model.given(label=LABEL), 0.5),
    "threshold": lambda model, process: guidance.threshold(model.given(label=LABEL), 0.7, 0.5),
    "all": lambda model, process: guidance.threshold(
        guidance.temperature(
            guidance.classifier_free(
                guidance.classifier(
                    guidance.autoguidance(model.given(label=LABEL), weak(process).given(label=LABEL), WEIGHT),
                    classes().classifier(process), LABEL, WEIGHT,
                ),
                lambda t: 2 + 0 * t,
            ),
            0.8,
        ),
        bound=0.5,
    ),
}  # fmt: skip
