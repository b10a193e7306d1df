"""Numbers and intervals as the study's tables write them."""

from __future__ import annotations

import math

from robomimic_vae_ext.study.statistics import Estimate

NOTHING = "–"  # what cannot be known, or not yet


def number(value: float | None, digits: int = 3) -> str:
    """A number with some significant digits; a dash if there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e-12:  # means of successes that cancel leave 1e-17
        return "0"
    text = f"{value:.{digits}g}"
    # Python writes 1200 with three digits as 1.2e+03.
    return f"{value:,.0f}" if "e+" in text else text


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """Bounds of an estimate; a dash if there are too few seeds for any."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return NOTHING
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def with_interval(estimate: Estimate | None, digits: int = 3) -> str:
    """Value and, in brackets, its interval."""
    if estimate is None:
        return NOTHING
    return in_brackets(number(estimate.value, digits), interval(estimate, digits))


def in_brackets(text: str, bounds: str) -> str:
    """A value and, in brackets, its bounds where there are any."""
    return text if bounds == NOTHING else f"{text} ({bounds})"
