import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scoresde import EDM, VE, VP, Cosine, Discrete, Process, RectifiedFlow, Sigmoid, SubVP, ddpm
from tests.problems import PROCESSES, name

every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)


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
    assert float(process.alpha(0.0)) == 1.0
    expected = {VE: 0.01}.get(type(process), 0.0)
    assert float(process.sigma(0.0)) == pytest.approx(expected, abs=1e-15)
    ratio = process.sigma(inside(process)) / process.alpha(inside(process))
    assert (ratio.diff() > 0).all()
    assert 0 <= process.t_min < process.t_max


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
    cosine = ddpm(500, "cosine")
    at = torch.arange(1, 450, dtype=torch.float64) / 500  # before the clip at 0.999
    assert torch.allclose(cosine.alpha(at), Cosine().alpha(at), rtol=1e-9)
    assert max(cosine.betas) == 0.999
    assert torch.allclose(ddpm(500, "sigmoid").alpha(at), Sigmoid().alpha(at), rtol=1e-9)


def test_ddpm_approaches_vp():
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    assert torch.allclose(ddpm(100_000).logsnr(t), VP().logsnr(t), atol=2e-3)  # O(1/T)


def test_your_own_process_takes_six_lines():
    class Trigonometric(Process):
        def alpha(self, t):
            return torch.cos(t * torch.pi / 2)

        def sigma(self, t):
            return torch.sin(t * torch.pi / 2)

    mine, known = Trigonometric(), Cosine(s=0.0)
    t = inside(known, 60)[3:-3]
    for coefficient in ("alpha", "sigma", "alpha_dot", "sigma_dot", "drift", "diffusion", "logsnr"):
        assert torch.allclose(getattr(mine, coefficient)(t), getattr(known, coefficient)(t), rtol=1e-8), coefficient
    assert (mine.time(mine.logsnr(t)) - t).abs().max() < 1e-9
    assert mine.t_min == pytest.approx(known.t_min, rel=1e-9)


def test_limits_at_the_ends_are_finite_where_the_mathematics_is():
    assert float(VP().diffusion(0.0)) ** 2 == pytest.approx(0.1)
    for process in PROCESSES:
        assert math.isfinite(process.drift(0.0)) and math.isfinite(process.diffusion(0.0))
        assert float(process.logsnr(0.0)) > 9
        assert not math.isnan(process.diffusion(process.t_max)) and not math.isnan(process.sigma_dot(0.0))
    assert float(RectifiedFlow().drift(1.0)) == -math.inf


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
