"""Mutants that live, and why: what `mutate` cannot hold against the tests."""

EQUIVALENT: dict[tuple[str, str], str] = {
    # (file, the changed line): why nobody can tell
    (
        "process/continuous.py",
        "integral = integral.clamp(0.0, (1.5) * (self.beta_min + self.beta_max)) # those of t = 0 and 1",
    ): "times beyond 1 are brought back to 1 on the next line; this clamp is there for ∞",
    (
        "process/base.py",
        'rounding = coefficient == "alpha" and t >= self.t_max and (abs(value) <= ROUNDING) # cos(π/2) is 6e-17',
    ): "no α is 1e-15 exactly",
    (
        "samplers/exponential.py",
        "history = (*history, ask(model, prediction, x, t))[-max(self.order, self.corrector, (3)) :]",
    ): "one more prediction is kept than any step takes",
    (
        "prediction.py",
        "if all(isinstance(value, float) and (abs(value) <= UNBOUNDED) for value in pair):",
    ): "no number is 1e100 exactly",
    (
        "samplers/exponential.py",
        "gain, factor, prediction = self.end(model, t, s) if ends else ((1.0), 0.0, self.prediction)",
    ): "without an end nothing reads it",
    (
        "adaptation.py",
        "_ROOTS, _WEIGHTS = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(HIGHEST // 2 + (0)))",
    ): "four nodes are exact to degree 7 as well, the highest there is",
    (
        "likelihood/ode.py",
        "return Path(found[1], slope, error, torch.zeros_like(error), found[(0)].new_zeros(0, *state.shape))",
    ): "both solutions have the same dtype and device",
}
TUNING: dict[tuple[str, str], str] = {
    # (file, the changed line): what the constant trades
    ("process/base.py", "if len(known) > (49999):"): "how many numbers are remembered",
    ("process/base.py", "if len(known) > (50001):"): "how many numbers are remembered",
    (
        "process/chain.py",
        "if not _checks.traced(w) and bool(((w - before).abs() <= (3)**-52).all()):",
    ): "when Newton's method stops: one round later than needed",
    (
        "prediction.py",
        "UNBOUNDED = (2e+100)",
    ): "what counts as infinite, where limits are taken at t = 1e-300",
    ("samplers/quadrature.py", "if abs(z) < (1):"): "where the series gives way: both are right to 13 digits there",
}
