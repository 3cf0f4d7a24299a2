import math
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scoresde import EDM, VE, VP, Cosine, Discrete, Process, RectifiedFlow, Sigmoid, SubVP, ddpm
from tests.problems import PROCESSES, name

OTHERS = [
    VP(0.2, 15.0), SubVP(0.3, 12.0), VE(0.02, 30.0), EDM(0.01, 20.0), Cosine(0.05), Sigmoid(-2.0, 3.0, 0.7),
    Sigmoid(0.0, 3.0, 0.3), Discrete([0.3]), Discrete([0.5, 0.01, 0.3]), ddpm(50, "sigmoid"),
]  # fmt: skip
"""Of every kind one whose numbers are not the usual ones."""

every_process = pytest.mark.parametrize("process", [*PROCESSES, *OTHERS], ids=name)


def inside(process, n=400):
    """Times over the whole interval, crowded at both ends, without the ends."""
    u = torch.linspace(-9, 9, n, dtype=torch.float64).sigmoid()
    return u * process.t_max


@every_process
def test_time_inverts_logsnr(process):
    t = torch.cat([inside(process), torch.tensor([0.0, process.t_max], dtype=torch.float64)])
    assert (process.time(process.logsnr(t)) - t).abs().max() < 1e-9 * process.t_max


@given(st.sampled_from(PROCESSES), st.floats(0, 1))
def test_time_inverts_logsnr_anywhere(process, u):
    t = u * process.t_max
    assert abs(float(process.time(process.logsnr(t))) - t) < 1e-9 * process.t_max


@every_process
def test_data_at_zero_and_noise_at_the_end(process):
    assert float(process.alpha(0.0)) == pytest.approx(1.0, abs=3e-16)
    expected = process.sigma_min if isinstance(process, VE) else 0.0
    assert float(process.sigma(0.0)) == pytest.approx(expected, abs=1e-15)
    ratio = process.sigma(inside(process)) / process.alpha(inside(process))
    assert (ratio.diff() > 0).all()
    assert 0 <= process.t_min <= process.t_max / getattr(process, "steps", 1.1)  # a chain's is its first step


@pytest.mark.parametrize("process", [VP(), VP(0.2, 15.0), SubVP()], ids=name)
def test_diffusion_has_the_closed_form(process):
    t = inside(process)
    beta = process.beta_min + (process.beta_max - process.beta_min) * t
    integral = process.beta_min * t + (process.beta_max - process.beta_min) * t**2 / 2
    g2 = beta if isinstance(process, VP) else beta * -torch.expm1(-2 * integral)
    derived = Process.diffusion(process, t) ** 2  # from α, σ and their derivatives alone
    for value in (derived, process.diffusion(t) ** 2):
        assert ((value - g2) / g2).abs().max() < 1e-12


@every_process
def test_closed_forms_agree_with_the_definitions(process):
    t = inside(process, 50)[2:-2]
    for coefficient in ("alpha_dot", "sigma_dot", "drift", "diffusion", "logsnr"):
        mine, derived = getattr(process, coefficient)(t), getattr(Process, coefficient)(process, t)
        # conditioning: σ̇ and g divide differences that are small against α² near the ends
        assert torch.allclose(mine, derived, rtol=1e-7, atol=1e-12), coefficient
    central = (process.alpha(t + 1e-6 * t) - process.alpha(t - 1e-6 * t)) / (2e-6 * t)
    assert torch.allclose(process.alpha_dot(t), central, rtol=1e-4, atol=1e-6)  # α rounds at 1e-16 over 2e-6 t


def test_known_values():
    assert float(VE().sigma(0.5)) == pytest.approx(math.sqrt(0.01 * 50), rel=1e-14)
    assert float(EDM().sigma(3.0)) == 3.0
    assert float(RectifiedFlow().diffusion(0.5)) == pytest.approx(math.sqrt(2), rel=1e-14)
    theta = (0.3 + 0.008) / 1.008 * math.pi / 2
    assert float(Cosine().alpha(0.3)) == pytest.approx(math.cos(theta) / math.cos(0.008 / 1.008 * math.pi / 2))

    def logistic(u):
        return 1 / (1 + math.exp(-u))

    share = (logistic(3) - logistic(-3 + 6 * 0.3)) / (logistic(3) - logistic(-3))
    assert float(Sigmoid().alpha(0.3)) ** 2 == pytest.approx(share, rel=1e-12)


def test_discrete_is_the_chain_at_its_indices():
    betas = torch.tensor([0.1, 0.05, 0.4, 0.2], dtype=torch.float64)
    chain = Discrete(betas)
    at = torch.arange(1, 5, dtype=torch.float64) / 4
    assert torch.allclose(chain.alpha(at) ** 2, (1 - betas).cumprod(0), rtol=1e-14)
    assert torch.allclose(chain.alpha(at) ** 2 + chain.sigma(at) ** 2, torch.ones(4, dtype=torch.float64), rtol=1e-14)
    assert chain.index(at).tolist() == [0, 1, 2, 3] and chain.index(0.5) == 1
    between = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for coefficient in (chain.alpha, chain.drift, chain.diffusion):  # continuous: no jump above its own slope
        assert coefficient(between).diff().abs().max() < 0.02
    assert (chain.alpha(between).diff() < 0).all()


def test_ddpm_tables():
    assert ddpm().betas[0] == pytest.approx(1e-4) and ddpm().betas[-1] == pytest.approx(0.02)
    assert ddpm(100).betas == pytest.approx([(0.1 + 19.9 * k / 99) / 100 for k in range(100)], rel=1e-14)
    assert ddpm(21).steps == 21
    with pytest.raises(ValueError, match="more than 20 steps"):
        ddpm(20)
    cosine = ddpm(500, "cosine")
    at = torch.arange(1, 450, dtype=torch.float64) / 500  # before the clip at 0.999
    assert torch.allclose(cosine.alpha(at), Cosine().alpha(at), rtol=1e-9)
    assert max(cosine.betas) == 0.999
    assert torch.allclose(ddpm(500, "sigmoid").alpha(at), Sigmoid().alpha(at), rtol=1e-9)


def test_ddpm_approaches_vp():
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    assert torch.allclose(ddpm(100_000).logsnr(t), VP().logsnr(t), atol=2e-3)  # O(1/T)


class Trigonometric(Process):
    def alpha(self, t):
        return torch.cos(t * torch.pi / 2)

    def sigma(self, t):
        return torch.sin(t * torch.pi / 2)


class Noisy(Process):
    """Not pure data at t = 0, and not pure noise at its end, which is not 1."""

    t_max = 2.0

    def alpha(self, t):
        return torch.exp(-t)

    def sigma(self, t):
        return 0.1 + t


def test_your_own_process_takes_six_lines():
    mine, known = Trigonometric(), Cosine(s=0.0)
    t = inside(known, 60)[3:-3]
    for coefficient in ("alpha", "sigma", "alpha_dot", "sigma_dot", "drift", "diffusion", "logsnr"):
        assert torch.allclose(getattr(mine, coefficient)(t), getattr(known, coefficient)(t), rtol=1e-8), coefficient
    assert (mine.time(mine.logsnr(t)) - t).abs().max() < 1e-9
    assert mine.t_min == pytest.approx(2 / math.pi * math.atan(1e-3), rel=1e-9)
    assert mine.at("alpha", 1.0) == 0.0 < float(mine.alpha(1.0))  # cos(π/2) is 6e-17 in float64
    assert mine.at("alpha", 1 - 1e-15) > 0 and mine.at("sigma", 1e-20) > 0


@pytest.mark.parametrize("process", [*PROCESSES, *OTHERS, Trigonometric(), Noisy()], ids=name)
def test_beyond_what_it_reaches_a_process_is_at_its_nearest_end(process):
    first, last = float(process.logsnr(0.0)), float(process.logsnr(process.t_max))
    for value in (math.inf, first + 1.0, first):
        assert float(process.time(value)) == pytest.approx(0.0, abs=1e-15 * process.t_max)
    for value in (-math.inf, last - 1.0, last):
        assert float(process.time(value)) == pytest.approx(process.t_max, rel=1e-9)
    assert process.time(torch.tensor([1.0, -1.0])).dtype == torch.float32  # a tensor's own dtype; of numbers float64
    assert process.time(1).dtype == process.time(torch.tensor([1, -1])).dtype == torch.float64
    with pytest.raises(ValueError, match="logsnr must be a number, got NaN"):
        process.time(math.nan)


def test_no_rounding_takes_a_time_out_of_its_interval():
    ends = torch.linspace(0.01, 30.0, 200, dtype=torch.float64).tolist()
    for process in [kind(low, high) for kind in (VP, SubVP) for low, high in pairwise(ends)]:
        for value in (-math.inf, float(process.logsnr(1.0))):
            assert float(process.time(value)) <= 1.0


def test_t_min_is_where_noise_is_a_thousandth_of_the_data():
    for process in (VP(), SubVP(), Cosine(), Sigmoid(), RectifiedFlow(), Trigonometric()):
        ratio = process.sigma(process.t_min) / process.alpha(process.t_min)
        assert float(ratio) == pytest.approx(1e-3, rel=1e-9)
    assert VE().t_min == Noisy().t_min == 0.0 and EDM(0.01, 20.0).t_min == 0.01
    assert Discrete([0.1, 0.2, 0.3]).t_min == pytest.approx(1 / 3)


def test_numbers_of_built_in_processes_are_computed_once_and_of_others_never_stale():
    process, calls = VP(), []
    for _ in range(3):
        value = process.remember("key", 0.5, lambda: calls.append(1) or 7.0)
    assert value == 7.0 and len(calls) == 1
    assert process.remember("key", 0.6, lambda: 8.0) == 8.0 and process.remember("other", 0.5, lambda: 9.0) == 9.0
    again = pickle.loads(pickle.dumps(process))
    assert again == process and process.at("alpha", 0.5) == float(process.alpha(0.5)) and "_known" not in vars(again)

    class Scaled(Noisy):
        factor = 1.0

        def sigma(self, t):
            return self.factor * super().sigma(t)

    mine = Scaled()
    one, mine.factor = mine.at("sigma", 0.5), 2.0
    assert mine.at("sigma", 0.5) == 2 * one


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("end", [80.1, 79.9, 0.3])
def test_the_last_time_is_inside_in_its_own_dtype_and_the_next_one_is_not(dtype, end):
    process, last = EDM(sigma_max=end), torch.tensor([0.1, end], dtype=dtype)
    assert float(process.sigma(last)[1]) == float(torch.tensor(end, dtype=dtype))
    outside = torch.tensor([0.1, end * (1 + 4 * torch.finfo(dtype).eps), -1.0], dtype=dtype)
    for t in (outside[:2], outside[[0, 2]], torch.tensor([math.nan, 0.1], dtype=dtype)):
        with pytest.raises(ValueError, match="t must lie in"):
            process.sigma(t)
    with pytest.raises(ValueError, match=rf"t must lie in \[0, {end:g}\] for EDM\(.*\), got -1"):
        process.sigma(torch.tensor([0.1, -1.0, -2.0], dtype=dtype))
    with pytest.raises(ValueError, match="t must lie in"):
        process.sigma(end * (1 + 1e-11))
    assert float(process.sigma(end * (1 + 1e-13))) == end and process.sigma(last[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_two_roundings_beyond_the_last_time_are_forgiven_and_the_first_time_outside_is_named(dtype):
    eps = torch.finfo(dtype).eps
    last, beyond = torch.tensor([[0.0, 1 + 2 * eps], [0.0, 1 + 3 * eps]], dtype=dtype)
    assert float(VP().alpha(last)[1]) == float(VP().alpha(1.0).to(dtype))
    with pytest.raises(ValueError, match="t must lie in"):
        VP().alpha(beyond)
    with pytest.raises(ValueError, match=r"got -1$"):
        VP().alpha(torch.cat([last, torch.tensor([-1.0, -2.0], dtype=dtype)]))


def test_the_defaults_are_the_published_ones():
    assert (VP(), VE(), EDM()) == (VP(0.1, 20.0), VE(0.01, 50.0), EDM(0.002, 80.0))
    assert (SubVP(), Cosine(), Sigmoid()) == (SubVP(0.1, 20.0), Cosine(0.008), Sigmoid(-3.0, 3.0, 1.0))
    assert ddpm() == ddpm(1000, "linear")
    assert EDM().t_max == 80.0 and {p.t_max for p in PROCESSES if not isinstance(p, EDM)} == {1.0}


def test_times_fit_their_batch():
    x = torch.ones(3, 2, dtype=torch.float64)
    assert VP().times_of(1 + 1e-13, x) == 1.0 and VP().times_of(torch.tensor(0.5), x) == 0.5
    for shape in ((2,), (3, 1), (1,), (1, 3)):
        with pytest.raises(ValueError, match=r"t must have shape \(\) or \(3,\)"):
            VP().perturb(x, torch.full(shape, 0.5))
    with pytest.raises(ValueError, match="noise must have the shape of x0"):
        VP().perturb(x, 0.5, x[:2])
    with pytest.raises(ValueError, match="t must lie in"):
        VP().perturb(x, torch.tensor([0.5, 0.2, 1.5]))


def test_a_chain_of_one_step_has_a_constant_rate():
    chain, t = Discrete([0.3]), torch.linspace(0, 1, 5, dtype=torch.float64)
    assert torch.allclose(chain.alpha(t) ** 2, 0.7**t, rtol=1e-14)
    assert torch.allclose(chain.diffusion(t) ** 2, torch.full_like(t, -math.log(0.7)), rtol=1e-14)
    for betas in ([], [[0.1]], 0.1):
        with pytest.raises(ValueError, match="betas must be a table"):
            Discrete(betas)
    for betas in ([0.1, 0.0], [0.1, 1.0], [-0.1, 0.2], [0.5, 1.1]):
        with pytest.raises(ValueError, match=r"betas must lie in \(0, 1\)"):
            Discrete(betas)


def test_a_chains_rate_is_above_zero_at_its_start():
    """The monotone cubic may have slope 0 there; ours has at least half of the first step's rise."""
    for betas in ([0.01, 0.5, 0.5], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]):
        rise = -math.log1p(-betas[0])
        assert float(Discrete(betas).diffusion(0.0)) ** 2 >= rise / 2 * 3 * (1 - 1e-12)
    assert float(Discrete([0.01, 0.5, 0.5]).diffusion(0.0)) ** 2 == pytest.approx(-math.log(0.99) / 2 * 3)


def test_the_chains_index_is_the_nearest():
    chain = ddpm(100)
    assert [chain.index(t) for t in (0.0, 0.004, 0.01, 0.0149, 0.0151, 0.5, 1.0)] == [0, 0, 0, 0, 1, 49, 99]
    found = chain.index(torch.tensor([[0.0, 1.0]]))
    assert found.tolist() == [[0, 99]] and found.dtype == torch.long


def test_limits_at_the_ends_are_finite_where_the_mathematics_is():
    assert float(VP().diffusion(0.0)) ** 2 == pytest.approx(0.1)
    for process in PROCESSES:
        assert math.isfinite(process.drift(0.0)) and math.isfinite(process.diffusion(0.0))
        assert float(process.logsnr(0.0)) > 9
        assert not math.isnan(process.diffusion(process.t_max)) and not math.isnan(process.sigma_dot(0.0))
    assert float(RectifiedFlow().drift(1.0)) == -math.inf
    assert float(Cosine(s=0.0).sigma_dot(0.0)) == pytest.approx(math.pi / 2)  # σ = sin(πt/2)
    assert float(Sigmoid(tau=0.01).alpha(0.5)) ** 2 == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"tau must be at least 0\.01, got 0\.0099"):
        Sigmoid(tau=0.0099)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_coefficients_are_computed_in_float64_and_returned_in_the_times_dtype(dtype):
    t = torch.tensor([1e-3, 0.5], dtype=dtype)
    value = VP().sigma(t)
    assert value.dtype == dtype
    assert torch.equal(value, VP().sigma(t.double()).to(dtype))


@every_process
def test_perturb_and_prior(process):
    x0, noise = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    t = torch.rand(6, dtype=torch.float64) * process.t_max
    x, same = process.perturb(x0, t, noise)
    assert same is noise
    for i in range(6):
        expected = float(process.alpha(t[i])) * x0[i] + float(process.sigma(t[i])) * noise[i]
        assert torch.allclose(x[i], expected, rtol=1e-14)
    generator = torch.Generator().manual_seed(1)
    x, drawn = process.perturb(x0, 0.3, generator=generator)
    assert torch.equal(drawn, torch.randn(x0.shape, dtype=x0.dtype, generator=torch.Generator().manual_seed(1)))
    big = process.prior((20_000, 2), torch.Generator().manual_seed(2))
    assert big.std() == pytest.approx(float(process.sigma(process.t_max)), rel=4 / math.sqrt(2 * 40_000))
