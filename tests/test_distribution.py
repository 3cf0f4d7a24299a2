"""The torch.distributions view: shapes, densities, gradients and conventions, against targets that are exact."""

import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch.distributions import AffineTransform, Independent, TransformedDistribution, constraints

from scoresde import VE, VP, Model, RectifiedFlow, log_prob, sample, targets
from scoresde.distribution import ModelDistribution, distribution
from scoresde.samplers import DDPM, ODE, Adaptive, Euler
from tests.problems import LIMIT, deviations, gaussian, mixture, name, worst

PROCESSES = [VP(), VE(), RectifiedFlow()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Small(torch.nn.Module):
    """A network that says something, without normalisation: torch's LayerNorm has no right second derivatives."""

    def __init__(self, dim):
        super().__init__()
        self.enter, self.leave = torch.nn.Linear(dim + 1, 8), torch.nn.Linear(8, dim)

    def forward(self, x, t):
        return self.leave(torch.tanh(self.enter(torch.cat([x, t[:, None]], 1))))


def small(dim=2):
    torch.manual_seed(1)
    return Model(Small(dim).double(), VP(), "v")


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_the_density_is_the_targets(process):
    target = mixture()
    d = distribution(target.model(process), 2)
    x = target.sample(60, seeded()).reshape(3, 20, 2)
    value = d.log_prob(x)
    assert value.shape == (3, 20) and (value.flatten() - target.log_prob(x.reshape(-1, 2))).abs().max() < 1e-3
    assert d.log_prob(x[0, 0]).shape == () and torch.allclose(d.log_prob(x[0, 0]), value[0, 0], atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_samples_have_the_targets_weights_means_and_covariances(process):
    target = mixture()
    x = distribution(target.model(process), 2, generator=seeded(), sample_steps=40).sample((100, 200))
    assert x.shape == (100, 200, 2) and not x.requires_grad
    assert worst(deviations(x.reshape(-1, 2), target)) < LIMIT
    assert worst(deviations(1.03 * x.reshape(-1, 2), target)) > LIMIT  # a scale off by 3 % is seen


def test_entropy_by_samples_is_that_of_a_gaussian():
    """−mean log p of n draws: standard error √(D/(2n)) for a Gaussian."""
    target = gaussian()
    d = distribution(target.model(VP()), 2, generator=seeded(), sample_steps=8, steps=4)
    exact = 1 + math.log(2 * math.pi) + 0.5 * float(torch.logdet(target.moments[1]))
    assert abs(-float(d.log_prob(d.sample((4000,))).mean()) - exact) < LIMIT * math.sqrt(2 / (2 * 4000))


def test_every_event_shape():
    target = targets.Empirical(torch.rand(30, 12, generator=seeded()).double(), 0.3)
    flat = distribution(target.model(VP()), 12, steps=20)
    image = distribution(target.model(VP()), (3, 4), steps=20)
    x = target.sample(4, seeded())
    assert torch.allclose(image.log_prob(x.reshape(2, 2, 3, 4)), flat.log_prob(x.reshape(2, 2, 12)), atol=1e-10)
    assert image.sample((5,)).shape == (5, 3, 4) and image.sample().shape == (3, 4) and image.sample((0,)).numel() == 0
    assert image.log_prob(x.reshape(4, 3, 4)[:0]).shape == (0,)
    column = targets.Gaussian([1.0], 4.0).model(VP())
    number = distribution(column.wrap(lambda model, x, t: model(x[:, None], t)[:, 0]), ())
    value = torch.linspace(-3, 3, 6)
    assert torch.allclose(number.log_prob(value), torch.distributions.Normal(1.0, 2.0).log_prob(value), atol=1e-4)
    assert number.sample((3, 2)).shape == (3, 2) and number.support is constraints.real
    assert number.log_prob(torch.tensor(0.3)).shape == ()


def test_moments_are_given_where_they_are_known():
    target = gaussian()
    d = distribution(target.model(VP()), 2)
    mean, covariance = target.moments
    assert torch.allclose(d.mean, mean) and torch.allclose(d.variance, covariance.diagonal())
    assert torch.allclose(d.stddev, covariance.diagonal().sqrt()) and torch.allclose(d.covariance_matrix, covariance)
    plain = replace(target.model(VP()), moments=(0.5, torch.full((2, 1), 3.0)))
    image = distribution(plain, (2, 2)).expand((5,))
    assert image.mean.shape == image.variance.shape == (5, 2, 2)
    assert float(image.mean.mean()) == 0.5 and float(image.variance.mean()) == 9.0
    with pytest.raises(NotImplementedError, match="standard deviations"):
        _ = image.covariance_matrix
    for unknown in (replace(plain, moments=None), plain.given(label=1)):
        with pytest.raises(NotImplementedError, match="moments"):
            _ = distribution(unknown, (2, 2)).mean


@pytest.mark.parametrize("sampler", [None, Euler(), DDPM()], ids=name)
def test_draws_are_reparameterised(sampler):
    """d mean(f(x))/dθ by autograd is the finite difference of two draws from the same seed."""
    model, options = small(), {} if sampler is None else {"sampler": sampler}
    weight = model.net.leave.weight

    def value():
        x = distribution(model, 2, generator=seeded(), sample_steps=10, **options).rsample((50,))
        return (x.sin() + x.square()).mean()

    (grad,) = torch.autograd.grad(value(), weight)
    direction, h = torch.randn(weight.shape, dtype=weight.dtype, generator=seeded(3)), 1e-5
    with torch.no_grad():
        weight += h * direction
        above = value()
        weight -= 2 * h * direction
        below = value()
    slope = float((above - below) / (2 * h))
    assert abs(slope) > 1e-3
    assert float((grad * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_sample_is_rsample_without_gradients_and_what_scoresde_samples():
    for process in (VP(), RectifiedFlow()):  # pure noise, α = 0, at the end of the second
        model = mixture().model(process)
        d = [distribution(model, 2, generator=seeded(5)) for _ in range(2)]
        x, y = d[0].rsample((7,)), d[1].sample((7,))
        assert x.requires_grad and not y.requires_grad and torch.equal(x, y)
    model = small()
    y = distribution(model, 2, generator=seeded(5)).sample((7,))
    assert torch.allclose(y, sample(model, (7, 2), generator=seeded(5)), atol=1e-12)


def test_the_gradient_in_value_is_the_score():
    target = gaussian()
    x = target.sample(6, seeded()).reshape(2, 3, 2).requires_grad_()
    (grad,) = torch.autograd.grad(distribution(target.model(VP()), 2, steps=8).log_prob(x).sum(), x)
    (score,) = torch.autograd.grad(target.log_prob(x.reshape(-1, 2)).sum(), x)
    assert torch.allclose(grad, score, atol=1e-8)


def test_the_density_is_differentiable_in_the_networks_parameters():
    """A step of maximum likelihood: the gradient of the mean log-density is its finite difference."""
    model, x = small(), torch.randn(3, 2, dtype=torch.float64)
    d, weight = distribution(model, 2, solver=ODE("rk4"), steps=12), model.net.leave.weight
    (grad,) = torch.autograd.grad(d.log_prob(x).mean(), weight)
    direction, h, values = torch.randn(weight.shape, dtype=weight.dtype, generator=seeded(3)), 1e-5, []
    for sign in (1, -2):
        with torch.no_grad():
            weight += sign * h * direction
            values.append(float(d.log_prob(x).mean()))
    assert float((grad * direction).sum()) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6)


def test_options_are_passed_on():
    model, x = small(dim=3), torch.randn(5, 3, dtype=torch.float64)
    d = distribution(model, 3, steps=12, divergence="hutchinson", probes=4, generator=seeded(2))
    same = log_prob(model, x, 12, divergence="hutchinson", probes=4, generator=seeded(2)).value
    assert torch.equal(d.log_prob(x), same)
    fine = distribution(mixture().model(VP()), 2, sampler=Adaptive(rtol=1e-6), generator=seeded())
    rough = distribution(mixture().model(VP()), 2, sample_steps=160, generator=seeded())
    assert torch.allclose(fine.sample((20,)), rough.sample((20,)), atol=1e-3)


def test_the_global_generator_is_used_unless_one_is_given():
    d = distribution(small(), 2)
    torch.manual_seed(4)
    first = d.sample((3,))
    torch.manual_seed(4)
    assert torch.equal(first, d.sample((3,))) and not torch.equal(first, d.sample((3,)))
    state = torch.get_rng_state()
    own = distribution(mixture().model(VP()), 2, generator=seeded())
    own.log_prob(own.sample((3,)).detach())
    assert torch.equal(state, torch.get_rng_state())


def test_it_expands_and_composes_as_torchs_own_do():
    target = mixture()
    d = distribution(target.model(VP()), 2)
    wide = d.expand((4, 3))
    assert wide.batch_shape == (4, 3) and wide.event_shape == (2,) and d.batch_shape == ()
    x = wide.sample((2,))
    assert x.shape == (2, 4, 3, 2) and wide.log_prob(x).shape == (2, 4, 3)
    assert wide.log_prob(x[0, 0, 0]).shape == (4, 3)  # a value broadcasts against the batch
    assert torch.equal(wide.log_prob(x[0, 0, 0])[1, 1], d.log_prob(x[0, 0, 0]))
    with pytest.raises(ValueError, match="value"):
        wide.log_prob(x[0, :3])
    joint = Independent(wide, 1)
    assert joint.batch_shape == (4,) and joint.log_prob(x[0]).shape == (4,)
    assert torch.allclose(joint.log_prob(x[0]), wide.log_prob(x[0]).sum(-1))
    moved = TransformedDistribution(d, [AffineTransform(1.0, 3.0, event_dim=1)])
    y = 1 + 3 * target.sample(10, seeded())
    assert torch.allclose(moved.log_prob(y), target.log_prob((y - 1) / 3) - 2 * math.log(3), atol=2e-3)


def test_it_is_copied_and_pickled_with_its_network():
    model, x = small(), torch.randn(4, 2, dtype=torch.float64)
    d = distribution(model, 2, steps=8, generator=seeded(7))
    twins = [copy.deepcopy(d), pickle.loads(pickle.dumps(d))]
    value, drawn = d.log_prob(x), d.sample((2,))
    with torch.no_grad():
        model.net.leave.weight.mul_(2)
    for twin in twins:  # each keeps the old weights, and its generator where it was
        assert isinstance(twin, ModelDistribution) and twin.event_shape == (2,)
        assert torch.equal(twin.log_prob(x), value) and torch.equal(twin.sample((2,)), drawn)
    assert not torch.equal(d.log_prob(x), value)


def test_what_it_says_of_itself():
    d = distribution(mixture().model(VP()), (1, 2))
    assert d.has_rsample and d.arg_constraints == {} and repr(d) == f"ModelDistribution({VP()!r}, event_shape=(1, 2))"
    assert d.support.event_dim == 2 and bool(d.support.check(torch.zeros(5, 1, 2)).all())
    assert "batch_shape=(3,)" in repr(d.expand((3,)))


MODEL = mixture().model(VP())
BAD = {
    "model": (lambda: distribution(None, 2), TypeError, "model"),
    "event_shape": (lambda: distribution(MODEL, (0,)), ValueError, "event_shape"),
    "event_shape text": (lambda: distribution(MODEL, "a"), TypeError, "event_shape"),
    "event_shape beside moments": (lambda: distribution(MODEL, 3), ValueError, "moments"),
    "sampler": (lambda: distribution(MODEL, 2, sampler="ode"), TypeError, "sampler"),
    "sample_steps": (lambda: distribution(MODEL, 2, sample_steps=0), ValueError, "sample_steps"),
    "steps": (lambda: distribution(MODEL, 2, steps=0.5), TypeError, "steps"),
    "generator": (lambda: distribution(MODEL, 2, generator=3), TypeError, "generator"),
    "option": (lambda: distribution(MODEL, 2, probs=3), ValueError, "Did you mean 'probes'"),
    "NaN": (lambda: distribution(MODEL, 2).log_prob(torch.full((2,), math.nan)), ValueError, "value"),
    "NaN unchecked": (
        lambda: distribution(MODEL, 2, validate_args=False).log_prob(torch.full((2,), math.nan)), ValueError, "value"
    ),
    "infinite": (lambda: distribution(MODEL, 2).log_prob(torch.full((2,), math.inf)), ValueError, "value"),
    "shape": (lambda: distribution(MODEL, 2).log_prob(torch.zeros(2, 3)), ValueError, r"value must have shape \(\*, 2"),
    "broadcasting an event": (lambda: distribution(MODEL, 2).log_prob(torch.zeros(4, 1)), ValueError, "value"),
    "number": (lambda: distribution(MODEL, 2).log_prob(torch.tensor(0.0)), ValueError, "value"),
    "integers": (lambda: distribution(MODEL, 2).log_prob(torch.zeros(2, dtype=torch.long)), TypeError, "value"),
    "expand": (lambda: distribution(MODEL, 2).expand((3,)).expand((4,)), ValueError, "batch_shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_named(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()
