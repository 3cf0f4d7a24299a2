"""Numbers as whole ones of 8 or 16 bits, in text that a page can hold."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from typing import Any

import numpy as np

from scoresde.explore.scene import checked

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def encode(
    values: Any, bits: int, low: float | None = None, high: float | None = None, log: bool = False, name: str = "values"
) -> dict[str, Any]:  # fmt: skip
    """Numbers as codes 0..2^bits − 1 of the range from low to high, which is theirs where it is not given.

    value = low + code · (high − low)/(2^bits − 1), within half a step; its base-10 logarithm where `log`.

    Raises:
        ValueError: a number is not finite, or not positive where `log`.
    """
    array = checked(name, values)
    if log:
        if array.min() <= 0:
            raise ValueError(f"{name} must be above 0 on a log axis, got {array.min()}")
        array = np.log10(array)
    low, high = (float(array.min()) if low is None else low), (float(array.max()) if high is None else high)
    top = 2**bits - 1
    shares = (array.clip(low, high) - low) / (high - low) if high > low else np.zeros_like(array)
    codes = np.rint(shares * top).astype(f"<u{bits // 8}")
    text = b64encode(codes.tobytes()).decode()
    return {"shape": list(array.shape), "bits": bits, "low": low, "high": high, "log": log, "data": text}


def decode(record: dict[str, Any]) -> np.ndarray:
    """The numbers that `encode` wrote, as the page reads them."""
    bits, low, high = record["bits"], record["low"], record["high"]
    codes = np.frombuffer(b64decode(record["data"]), f"<u{bits // 8}").reshape(record["shape"])
    values = low + codes * ((high - low) / (2**bits - 1))
    return 10**values if record["log"] else values


def said(value: Any, digits: int) -> str:
    """A number in text: whole ones whole, others with so many significant digits; a dash for NaN."""
    number = float(value)
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    if number == 0 or isinstance(value, (int, np.integer)):
        return f"{number:.0f}".replace("-", "−")
    mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if -4 <= power < 6:
        return f"{number:.{max(0, digits - 1 - power)}f}".replace("-", "−")
    return f"{mantissa} · 10{str(power).translate(SUPERSCRIPTS)}".replace("-", "−")
