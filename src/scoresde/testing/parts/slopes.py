"""What must hold of what follows from a process's α and σ: their slopes, f, g and log-SNR."""

from __future__ import annotations

import math

import torch

from scoresde.process import Process
from scoresde.testing.kit import short, stating
from scoresde.testing.parts.coefficients import (
    COEFFICIENTS,
    answers,
    each,
    each_end,
    falls,
    inside,
    rises,
    times,
)


@stating(
    "derivatives are those",
    "alpha_dot and sigma_dot are dα/dt and dσ/dt, where the class overrides them too.",
    proof="differences of five values around t, 1e-6 of the way to the nearer end apart; to 1e-4, their rounding, and "
    "how much they differ; where they are not overridden, also that of σ = √(1 − α²)",
    change="Correct the closed form, or leave it out: automatic differentiation then takes the derivative.",
    examples=each(("alpha", "sigma"), where=("inside",)),
    needs=(answers, rises),
)
def derivatives(process: Process, asked: tuple[str, float]) -> str | None:
    name, t = asked
    step = 1e-6 * min(t, process.t_max - t)
    points = t + step * torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    a, b, here, c, d = getattr(process, name)(points).tolist()
    step = float(points[3] - points[1]) / 2
    found, given = (a - 8 * b + 8 * c - d) / (12 * step), process.at(f"{name}_dot", t)
    eps = 20 * torch.finfo(torch.float64).eps / step
    slack = 1e-4 * abs(found) + eps * abs(b) + abs(c - 2 * here + b) / step
    if name == "sigma" and type(process).sigma_dot is Process.sigma_dot:
        slack += eps / abs(b)  # not the derivative's fault: σ² has the rounding of 1
    if abs(given - found) <= slack:
        return None
    noise = max(abs(c - 3 * here + 3 * b - a), abs(d - 3 * c + 3 * here - b))  # of a smooth function, 1e-18
    lost = noise > 0 and abs(given - found) <= 20 * noise / step
    digits = f"; {name} has only {math.floor(-math.log10(noise / abs(here)))} digits there" if lost and here else ""
    hint = ": write 1 − α² as −expm1(2 log α)" if digits and name == "sigma" else ""
    return f"{name}_dot is {short(given)}, differences give {short(found)}{digits}{hint}"


@stating(
    "drift and diffusion follow",
    "dx = f x dt + g dw has the law of α x₀ + σ ε just if f = α̇/α and g² = 2σ(σ̇ − fσ).",
    proof="drift and diffusion against that, of alpha_dot and sigma_dot; to 1e-6",
    change="Correct the closed form of drift or diffusion (g, not g²), or leave it out.",
    examples=inside,
    needs=(answers, falls, rises, derivatives),
)
def equation(process: Process, t: float) -> str | None:
    alpha, sigma, alpha_dot, sigma_dot, f, g = (process.at(name, t) for name in COEFFICIENTS[:6])
    right = alpha_dot / alpha
    if not abs(f - right) <= 1e-6 * (abs(right) + 1e-6 / process.t_max):
        return f"drift is {short(f)}, α̇/α is {short(right)}"
    square, scale = 2 * sigma * (sigma_dot - right * sigma), 2 * sigma * (abs(sigma_dot) + abs(right) * sigma)
    if not abs(g * g - square) <= 1e-6 * scale:
        return f"diffusion is {short(g)}, so g² = {short(g * g)}, but 2σ(σ̇ − fσ) is {short(square)}"
    return None


@stating(
    "noise is never taken away",
    "g² = 2σ(σ̇ − fσ) is a variance added in unit time: it is never negative, and diffusion never NaN or negative.",
    proof="from alpha_dot and sigma_dot, to their rounding",
    change="σ/α must rise; check sigma_dot and drift if it does. NaN: override diffusion by its closed form.",
    examples=inside,
    needs=(answers, falls, rises, derivatives, equation),
)
def variance(process: Process, t: float) -> str | None:
    alpha, sigma, alpha_dot, sigma_dot = (process.at(name, t) for name in COEFFICIENTS[:4])
    square, scale = sigma_dot - alpha_dot / alpha * sigma, abs(sigma_dot) + abs(alpha_dot / alpha) * sigma
    if not square >= -1e-9 * scale:
        return f"2σ(σ̇ − fσ) is {short(2 * sigma * square)}"
    g = process.at("diffusion", t)
    return None if g >= 0 else f"diffusion is {short(g)}"


@stating(
    "has both ends",
    "At t = 0 and t_max whatever is finite in mathematics is finite: α and σ at both, f and g at 0; nothing is NaN.",
    proof="asked there",
    change="0·∞ hides in a formula: override diffusion and sigma_dot by closed forms, write 1 − α² as −expm1(2 log α).",
    examples=each_end,
    needs=(answers, falls, rises),
)
def both_ends(process: Process, asked: tuple[str, float]) -> str | None:
    name, t = asked
    value = process.at(name, t)
    must = name in ("alpha", "sigma") or (name in ("drift", "diffusion") and t == 0.0)
    return f"is {value}" if math.isnan(value) or (must and math.isinf(value)) else None


@stating(
    "time inverts logsnr",
    "logsnr is log(α²/σ²), and time finds the t that belongs to it; beyond what the process reaches, the nearer end.",
    proof="logsnr to 1e-9 (where α and σ have the digits), time(logsnr(t)) to 1e-6 of t_max or 1e-9 in log-SNR",
    change="Correct the closed form of logsnr or time, or leave it out.",
    examples=lambda p: [*times(p), ("logsnr 1e4 and −1e4", math.inf)],
    needs=(answers, falls, rises),
)
def inverse(process: Process, t: float) -> str | None:
    if math.isinf(t):
        ends, reach = (0.0, process.t_max), (process.at("logsnr", 0.0), process.at("logsnr", process.t_max))
        for value, reached, end in zip((1e4, -1e4), reach, ends):
            if abs(reached) < 1e4 and (found := float(process.time(value))) != end:
                return f"time({value:g}) is {short(found)}, not {short(end)}"
        return None
    alpha, sigma, value = (process.at(name, t) for name in ("alpha", "sigma", "logsnr"))
    right = (2 * math.log(abs(alpha / sigma)) if alpha else -math.inf) if sigma else math.inf
    if value != right and not abs(value - right) <= 1e-9 * (1 + abs(right)):
        return f"logsnr is {short(value)}, 2 log(α/σ) is {short(right)}"
    back = float(process.time(value))
    near = abs(back - t) <= 1e-6 * process.t_max or abs(process.at("logsnr", back) - value) <= 1e-9 * (1 + abs(value))
    return None if near else f"time(logsnr({t!r})) is {back!r}"


PROPERTIES = (derivatives, equation, variance, both_ends, inverse)
