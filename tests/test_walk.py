"""What `log_prob` does at both ends of its path: the stretch below t_min, the prior, and the errors of both."""

import math

import pytest
import torch

from scoresde import EDM, VE, VP, Model, RectifiedFlow, log_prob, targets
from scoresde.adaptation import Path
from scoresde.density import LogProb, Walk, carry, gauss, normal, suggested
from scoresde.divergence import Probes
from scoresde.flow import Flow, place, ratio
from scoresde.samplers import ODE, Adams
from tests.problems import mixture, slope

EXACT = {"rtol": 1e-11, "atol": 1e-13}


def walk(model, size=5, probes=None):
    return Walk(Flow.of(model, torch.zeros(size, 2, dtype=torch.float64)), probes or Probes(2), size)


def test_the_tolerance_of_forty_steps_is_that_of_the_docs():
    assert suggested(40, 3) == pytest.approx(3 * 3.5e-4, rel=1e-14)
    assert suggested(80, 2) == pytest.approx(2 * 3.5e-4 / 2**7, rel=1e-14)


def test_normal_is_the_log_density():
    z = torch.randn(4, 3, dtype=torch.float64)
    law = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3).double(), 1.0), 1)
    assert torch.allclose(normal(z), law.log_prob(z), **EXACT) and normal(z.float()).dtype == torch.float64


def test_the_interval_is_students_and_the_solvers_error():
    value, zero = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    deviation, error = torch.tensor([[0.3, 0.0], [0.01, 0.02]], dtype=torch.float64)

    def result(probes, deviation=deviation):
        return LogProb(value, deviation, error, 1, value, 1, value > 0, "moments", zero, zero, probes)

    low, high = result(2).interval(0.5)  # with one degree of freedom Student's law is Cauchy's: its quartiles are ∓1
    assert torch.allclose(high, torch.tensor([1.31, 2.02], dtype=torch.float64)) and torch.allclose(
        low + high, 2 * value
    )
    _, high = result(3).interval()  # with two, t at p = 0.975 is (2p − 1)/√(2p(1 − p))
    assert float(high[0]) == pytest.approx(1.01 + 0.3 * 0.95 / math.sqrt(2 * 0.975 * 0.025))
    low, high = result(1, torch.tensor([math.inf, 0.0]).double()).interval()
    assert high.tolist() == [math.inf, 2.02] and low[0] == -math.inf
    for level in (0.0, 1.0, -0.5, 1.5):
        with pytest.raises(ValueError, match="level"):
            result(3).interval(level)


@pytest.mark.parametrize("start", [0.0, 0.3])
@pytest.mark.parametrize("fine", [False, True])
def test_the_stretch_below_t_min_is_exact_for_its_two_terms(fine, start):
    """Slopes c w² + d w⁵ of z and of two estimates of log p, with d = 0 where one call is to find them."""
    mine = walk(mixture().model(VP()), probes=Probes(2, torch.ones(2, 5, 2)))
    first, start = mine.least, start * mine.least
    c, d, score = (torch.randn(5, n, dtype=torch.float64) for n in (4, 4, 2))
    d = d / first**3 if fine else 0 * d
    asked = []

    def at(state, w):
        asked.append((w, state))
        return c * w**2 + d * w**5, score

    mine.at, state = at, torch.randn(5, 4, dtype=torch.float64)
    history, change, share, error = mine.stretch(state, start, fine)
    exact = c * (first**3 - start**3) / 3 + d * (first**6 - start**6) / 6
    assert torch.allclose(change, exact, **EXACT)
    assert torch.allclose(share, (score * exact[:, :2]).sum(1) + exact[:, 2:].mean(1), **EXACT)
    where = [first - (first - start) * i / (3 if start == 0.0 else 4) for i in range(4)]
    assert [w for w, _ in history] == pytest.approx(where, abs=1e-15)
    for w, found in history:
        assert torch.allclose(found, c * w**2 + d * w**5, rtol=1e-9, atol=1e-14 * float(c.abs().max()))
    squares = ((score * exact[:, :2]) ** 2).sum(1) + exact[:, 2:].mean(1) ** 2 / 2
    if fine:
        last = d * (first**6 - start**6) / 6
        squares = (((score * last[:, :2]) ** 2).sum(1) + last[:, 2:].mean(1) ** 2 / 2) / squares.sqrt()
    assert torch.allclose(error, squares, rtol=1e-9)
    # each further call is made where the slopes so far lead
    assert [w for w, _ in asked] == pytest.approx([first, first, 1.4 * first] if fine else [first])
    assert torch.equal(asked[0][1], state)
    for (w, found), before in zip(asked[1:], (first, first)):
        assert torch.allclose(found, state + (c + d * before**3) * w**3 / 3, **EXACT)


def shifted(process, mean=(0.6, -0.4), variances=(0.5, 0.2), moments=((0.5, -0.2), 0.7)):
    """A Gaussian whose model has somewhat wrong moments: log p in z at t_max is known, and not N(0, I)."""
    mean, variances = torch.tensor(mean).double(), torch.tensor(variances).double()
    target = targets.Gaussian(mean, variances.diag())
    thought, spread = torch.tensor(moments[0]).double(), moments[1]
    model = Model(target.model(process).net, process, "noise", (thought, torch.full((2,), spread).double()))
    alpha, sigma = process.at("alpha", process.t_max), process.at("sigma", process.t_max)
    level = math.hypot(alpha * spread, sigma)
    centre, width = alpha * (mean - thought) / level, (alpha**2 * variances + sigma**2) / level**2
    return model, centre, width


@pytest.mark.parametrize("process", [VP(0.1, 10.0), VE(0.01, 20.0), EDM(sigma_max=30.0)], ids=repr)
def test_the_mismatch_is_a_third_of_what_it_says(process):
    """|z·g − tr H|/3 for log p_T − log N(z; 0, I) with gradient g and Hessian H, here −(1/width − 1)."""
    model, centre, width = shifted(process)
    mine, z = walk(model), torch.randn(5, 2, dtype=torch.float64)
    found, _ = mine.at(torch.cat([z, torch.zeros(5, 1)], 1), mine.end)
    g = z - (z - centre) / width
    share = {"rtol": 2 * (0.7 / ratio(process, process.t_max)) ** 2}  # the trace is taken for ρ far above s
    assert torch.allclose(mine.mismatch(z, found), ((z * g).sum(1) - (1 - 1 / width).sum()).abs() / 3, **share)
    assert torch.allclose(mine.mismatch(z, found[:, :2]), (z * g).sum(1).abs() / 3, rtol=1e-8)
    double = torch.cat([found, found[:, 2:] + 0.5, found[:, 2:] - 0.5], 1)  # several estimates count by their mean
    assert torch.allclose(mine.mismatch(z, double), mine.mismatch(z, found), rtol=1e-7)


@pytest.mark.parametrize("kind", ["moments", "standard", "model"])
def test_priors_in_z_and_their_gap(kind):
    """Of N(z; 0, I), of N(x_T; 0, α² + σ²) and of the model's score: the last is right to third order in α."""
    errors = []
    for beta in (6.0, 8.77):  # α at the end: 0.2 and 0.1
        process = VP(0.1, beta)
        target = targets.GaussianMixture([0.3, 0.7], torch.tensor([[0.9, 0.2], [-0.4, 0.1]]).double(), 0.1)
        thought = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
        model = Model(target.model(process).net, process, "noise", thought)
        mine, z = walk(model), torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        alpha, sigma = process.at("alpha", 1.0), process.at("sigma", 1.0)
        spread = math.hypot(thought[1] * alpha, sigma)
        x = 0.1 * alpha + spread * z
        value, gap = mine.prior(z, kind, Probes(2))
        truth = target.marginal(process, 1.0).log_prob(x) + 2 * math.log(spread)
        naive = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1) + 2 * math.log(spread)
        assert torch.allclose(gap, value - naive, **EXACT)
        if kind == "standard":
            assert torch.allclose(value, naive, **EXACT) and (gap == 0).all()
        elif kind == "moments":
            assert torch.allclose(value, normal(z), **EXACT)
        errors.append(float((value - truth).square().mean().sqrt()))
        assert (mine.calls, mine.divergences) == ((20, 20) if kind == "model" else (0, 0))
    order = slope(errors, (1 / 0.2, 1 / 0.1))
    assert order > 3.6 if kind == "model" else order < 1.5, errors


@pytest.mark.parametrize("process", [VE(0.01, 20.0), EDM(sigma_max=5.0)], ids=repr)
def test_the_standard_prior_has_the_variance_of_both_parts(process):
    """N(x_T; 0, α² + σ²), also where that is not 1."""
    mine, z = walk(mixture().model(process)), torch.randn(5, 2, dtype=torch.float64)
    x, end = mine.flow.back(z, process.t_max), process.t_max
    level = math.sqrt(1 + process.at("sigma", end) ** 2)
    exact = torch.distributions.Normal(0.0, torch.tensor(level).double()).log_prob(x).sum(1)
    assert torch.allclose(mine.prior(z, "standard", Probes(2))[0], exact + mine.flow.log_volume(end, 2), rtol=1e-7)


def test_at_pure_noise_the_prior_is_the_normal_law():
    model = mixture().model(RectifiedFlow())
    mine, z = walk(model), torch.randn(5, 2, dtype=torch.float64)
    assert mine.end == 1.0
    value, gap = mine.prior(z, "model", Probes(2))
    assert torch.allclose(value, normal(z), **EXACT) and gap.abs().max() < 1e-12 and mine.calls == 0
    state = torch.cat([z, torch.zeros(5, 1)], 1)
    found, score = mine.at(state, 1.0)
    assert (found == 0).all() and torch.equal(score, -z) and mine.calls == 0
    places, rows = torch.tensor([0.5, 1.0, 0.7, 1.0, 0.2]).double(), torch.arange(5)  # some there, some not
    found, score = mine(state, places, rows)
    alone = mine.ask(z[[0, 2, 4]], places[[0, 2, 4]], rows[[0, 2, 4]])
    assert torch.allclose(found[[0, 2, 4]], alone[0]) and torch.allclose(score[[0, 2, 4]], alone[1])
    assert (found[[1, 3]] == 0).all() and torch.equal(score[[1, 3]], -z[[1, 3]]) and mine.calls == 6


@pytest.mark.parametrize("process", [VP(), EDM()], ids=repr)
def test_the_walk_goes_from_t_min_to_t_max(process):
    model = mixture().model(process)
    mine = walk(model)
    scale = mine.flow.frame.scale
    assert mine.least == place(ratio(process, process.t_min), scale) and mine.end == place(
        ratio(process, process.t_max), scale
    )


def test_the_gap_and_the_truncation_are_parts_of_the_value():
    """Of a Gaussian, whose flow is exact: the solver's error is told as none, the prior's as the third order's."""
    process = VP(0.1, 10.0)
    model, centre, width = shifted(process)
    x = torch.randn(6, 2, dtype=torch.float64)
    result = log_prob(model, x, tolerance=1e-8)
    z = Flow.of(model, x).into(result.latent, 1.0)
    g = z - (z - centre) / width
    told = ((z * g).sum(1) - (1 - 1 / width).sum()).abs() / 3
    assert ((result.error - told).abs() < 1.5e-8 + 1e-3 * told).all() and result.converged.all()


class Reached(Exception):  # noqa: N818
    """`log_prob` has come to where the path is to be followed."""


def test_arguments_are_passed_on_as_documented(monkeypatch):
    """Four calls a step without a tolerance and 32 to reach one; the tolerance of `suggested`, or the one given."""
    found = []

    def fake(model, x, probes, tolerance, budget, **settings):
        found.append((probes, tolerance, budget, settings, torch.is_grad_enabled()))
        raise Reached

    monkeypatch.setattr("scoresde.likelihood.ode.carry", fake)
    model, x = mixture().model(VP()), mixture().sample(3)

    def passed(x=x, **given):
        with pytest.raises(Reached):
            log_prob(model, x, **given)
        return found[-1]

    probes, tolerance, budget, settings, follows = passed()
    assert (tolerance, budget, follows) == (suggested(40, 2), 160, False) and probes == Probes(2)
    assert settings == {"t": 0.0, "prior": "auto", "nodes": None}
    assert passed(steps=10)[1:3] == (suggested(10, 2), 40) and passed(steps=10, tolerance=0.1)[1:3] == (0.1, 320)
    given = {"t": 0.4, "prior": "standard", "nodes": 8}
    assert passed(**given, solver=Adams(3))[3] == given | {"highest": 3} and passed(**given, solver=Adams())[3] == given
    assert set(passed(solver=ODE("rk4"))[3]) == {"t", "prior", "nodes", "method"}
    assert passed(gradient="direct")[4] and passed(x=x.clone().requires_grad_())[4]
    with torch.no_grad():
        assert not passed(gradient="direct")[4]
    one = passed(divergence="gaussian", probes=4, chunk=7, generator=torch.Generator().manual_seed(0))[0]
    assert torch.equal(one.vectors, Probes.draw("gaussian", 4, x, torch.Generator().manual_seed(0)).vectors)
    assert one.chunk == 7
    last = VP().t_max * (1 - 1e-6)
    assert passed(t=last)[3]["t"] == last
    for t in (-1e-9, 1.0):
        with pytest.raises(ValueError, match="t must be"):
            log_prob(model, x, t=t)
    assert passed(nodes=8, chunk=1, probes=1, steps=1)[3]["nodes"] == 8
    for name in ("steps", "probes", "chunk"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            log_prob(model, x, **{name: 0})
    for name, value in (("model", VP()), ("x", x.long()), ("generator", 3), ("solver", Adams)):
        with pytest.raises(TypeError, match=f"{name} must"):
            log_prob(**{"model": model, "x": x, name: value})


@pytest.mark.parametrize("least, tolerance, fine", [(0.01, 1.9e-5, True), (0.03, 1.0, True), (0.02, 2e-5, False)])
def test_the_stretch_takes_three_calls_where_it_counts(monkeypatch, least, tolerance, fine):
    """If t_min is beyond the place 0.02, or the tolerance below 1e-5 a dimension."""
    found = []

    def stretch(self, state, start, fine):
        found.append((start, fine))
        raise Reached

    monkeypatch.setattr(Walk, "stretch", stretch)
    monkeypatch.setattr("scoresde.density.place", lambda rho, scale: least)
    with pytest.raises(Reached):
        log_prob(mixture().model(VP()), mixture().sample(3), tolerance=tolerance)
    assert found == [(0.0, fine)]


@pytest.mark.parametrize(
    "solver, other", [(ODE("rk4"), 6), (ODE("bosh3", 1e-4, 1e-5), ODE("bosh3", 1e-3, 1e-4))], ids=repr
)
def test_other_solvers_estimate_their_error_by_half_the_steps_or_ten_times_the_tolerance(solver, other):
    target = mixture()
    x, model = target.sample(6, torch.Generator().manual_seed(0)), target.model(EDM(sigma_max=5.0))
    fine = log_prob(model, x, 12, solver=solver, tolerance=100.0)
    coarse = log_prob(
        model, x, **({"steps": other, "solver": solver} if other == 6 else {"solver": other}), tolerance=100.0
    )
    told = log_prob(
        model, x, 1, solver=ODE("euler"), tolerance=100.0
    )  # the same prior's error, and that of the stretch
    assert fine.prior == "moments" and told.error.shape == (6,)
    process, frame = model.process, Flow.of(model, x)
    mine = Walk(frame, Probes(2), 6)
    state = torch.cat([frame.into(fine.latent, process.t_max), torch.zeros(6, 1)], 1)
    mismatch = mine.mismatch(state[:, :2], mine.at(state, mine.end)[0])
    rest = fine.error - 1.5 * (fine.value - coarse.value).abs()
    assert (rest - mismatch).abs().max() < 1e-3 * float(mismatch.max()) + 1e-5
    with pytest.raises(ValueError, match="nodes must be None"):
        log_prob(model, x, solver=solver, nodes=8)


def test_a_miss_is_told_of_the_first_sixteen():
    model, x = mixture().model(VP()), mixture().sample(18)
    with pytest.warns(UserWarning, match=r"for samples \[0, 1, .*, 14, 15\] and 2 more$"):
        log_prob(model, x, 1, tolerance=1e-12)
    with pytest.warns(UserWarning, match=r"for samples \[0, 1, .*, 14, 15\]$"):
        log_prob(model, x[:16], 1, tolerance=1e-12)


def carried(t, tolerance, errors, nodes=None, prior="moments"):
    """What `carry` makes of a path that a method of ours returns, and what the method was given."""
    target, given = mixture(), {}
    model, x = target.model(VP()), target.sample(4, torch.Generator().manual_seed(0))
    columns = 2 if nodes else 3
    state, slope = torch.randn(2, 4, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at = torch.randn(nodes or 0, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def method(tolerance, walk, state_, history, end, dim, highest, budget, where=None):
        given.update(tolerance=tolerance, walk=walk, state=state_, history=history, end=end, dim=dim, where=where)
        return Path(state, slope, errors, torch.zeros(4), at)

    result, data = carry(model, x, Probes(2), tolerance, 9, t=t, nodes=nodes, prior=prior, method=method)
    return result, data, model, x, state, slope, at, given


def test_the_parts_of_a_likelihood_add_up():
    """From t = 0.4, with nothing below: the prior, the path's trace and the volume; the path's error with a margin."""
    errors = torch.tensor([0.1, 0.2, 0.200001, 0.0], dtype=torch.float64)
    result, data, model, x, state, slope, _, given = carried(0.4, 0.2, errors)
    flow, mine = Flow.of(model, x), walk(model, 4)
    start = place(ratio(model.process, 0.4), flow.frame.scale)
    assert torch.equal(given["state"], torch.cat([flow.into(x, 0.4), torch.zeros(4, 1)], 1)) and data is x
    ((where, first),) = given["history"]
    assert where == start and torch.equal(first, mine.at(given["state"], start)[0])
    assert (given["tolerance"], given["end"], given["dim"], given["where"]) == (0.2, mine.end, 2, None)
    volume = flow.log_volume(0.4, 2)
    assert torch.allclose(result.value, normal(state[:, :2]) + state[:, 2] - volume, **EXACT)
    assert result.converged.tolist() == [True, True, False, True] and (result.truncation == 0).all()
    assert torch.allclose(result.error, 1.5 * errors + mine.mismatch(state[:, :2], slope), **EXACT)
    assert torch.allclose(result.latent, flow.back(state[:, :2], 1.0), **EXACT) and (
        result.nfe,
        result.divergences,
    ) == (1, 1)
    standard = carried(0.4, 0.2, errors, prior="standard")[0]
    assert torch.allclose(standard.error, 1.5 * errors, **EXACT) and standard.prior == "standard"
    assert torch.allclose(result.value - standard.value, result.prior_gap, **EXACT)


def test_nodes_take_the_trace_by_gausss_rule_and_judge_it_by_two_coarser_ones():
    errors = torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=torch.float64)
    result, _, model, x, state, slope, at, given = carried(0.4, 0.2, errors, nodes=8)
    mine = walk(model, 4)
    start = place(ratio(model.process, 0.4), mine.flow.frame.scale)
    where, weights, coarser = gauss(8, start, mine.end)
    trace = torch.stack([mine.at(z, float(w))[0][:, 2] for z, w in zip(at, where)])
    assert given["tolerance"] == 0.1 and given["state"].shape == (4, 2) and torch.equal(given["where"], where)
    assert given["walk"].probes is None and given["history"][0][1].shape == (4, 2)
    whole, half, quarter = (w @ trace for w in (weights, *coarser))
    volume = Flow.of(model, x).log_volume(0.4, 2)
    assert torch.allclose(result.value, normal(state) + whole - volume, **EXACT)
    apart, before = (whole - half).abs(), (half - quarter).abs()
    rest = torch.where(apart < before, apart * (apart / before).sqrt(), apart)
    assert (apart > before).any() and (apart < before).any()
    assert torch.allclose(result.error, 1.5 * (errors + rest) + mine.mismatch(state, slope), **EXACT)
    assert (result.nfe, result.divergences) == (9, 9)  # one where the path begins


@pytest.mark.parametrize("inwards", [False, True])
def test_the_stretch_is_part_of_the_path_the_value_and_the_error(monkeypatch, inwards):
    target, noise = mixture(), torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = target.model(VP())
    flow, mine, found = Flow.of(model, noise), walk(model, 4), []
    change, share, floor = (
        0.1 * torch.ones(4, 3).double(),
        torch.full((4,), 0.3).double(),
        torch.full((4,), 0.25).double(),
    )

    def stretch(self, state, start, fine):
        found.append((state, start))
        return [(self.least, change)], change, share, floor

    def method(tolerance, walk, state, history, end, *rest):
        return Path(state + 1.0, state, torch.zeros(4).double(), torch.zeros(4), state.new_zeros(0))

    monkeypatch.setattr(Walk, "stretch", stretch)
    result, data = carry(model, noise, Probes(2), 0.25, 9, inwards=inwards, prior="standard", method=method)
    z = flow.into(noise, 1.0) if inwards else flow.standard(noise)
    before = torch.cat([z + 1.0 if inwards else z, torch.ones(4, 1) if inwards else torch.zeros(4, 1)], 1)
    assert [start for _, start in found] == [0.0] and torch.allclose(found[0][0], before, **EXACT)
    end = z if inwards else z + 1.1
    trace = -0.9 if inwards else 1.1
    volume = flow.log_volume(0.0, 2)
    expected = mine.prior(end, "standard", Probes(2))[0] + trace - volume
    assert torch.allclose(result.value, expected, **EXACT)
    assert torch.allclose(result.latent, noise if inwards else flow.back(end, 1.0), **EXACT)
    assert torch.allclose(data, flow.back(z + 0.9, 0.0) if inwards else noise, **EXACT)
    assert result.converged.all() and torch.equal(result.error, floor) and torch.equal(result.truncation, share)
    tight, _ = carry(model, noise, Probes(2), 0.2499, 9, inwards=inwards, method=method)
    assert not tight.converged.any()


def test_times_below_t_min_begin_within_the_stretch():
    target, process = targets.Gaussian([0.3, 0.1], torch.tensor([[1e-4, 0.0], [0.0, 1e-2]]).double()), VP()
    x = target.sample(5)
    for t in (process.t_min / 2, process.t_min):
        marginal = target.marginal(process, t)
        found = log_prob(target.model(process), x, t=t).value
        assert (found - marginal.log_prob(x)).abs().max() < 1e-4


def test_no_samples_take_no_calls():
    result = log_prob(mixture().model(VP()), torch.zeros(0, 2))
    assert (result.nfe, result.divergences, result.prior) == (0, 0, "auto")
    assert result.converged.dtype == torch.bool and result.latent.shape == (0, 2) and result.error.shape == (0,)
