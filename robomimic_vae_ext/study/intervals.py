"""Means and ratios over training seeds, with 95 % bootstrap intervals and paired tests.

What is compared is paired: a resample draws the same seeds (and the same episodes) for both arms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.stats

RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
MIN_SEEDS: Final = 3  # with fewer, resampling seeds says nothing about other seeds: no interval


class Estimate(NamedTuple):
    """A statistic over seeds; `low` and `high` are None with fewer than `MIN_SEEDS` seeds."""

    value: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> Estimate:
        """In another unit."""
        low, high = (None if x is None else factor * x for x in (self.low, self.high))
        return Estimate(factor * self.value, low, high)


def mean(values: Sequence[float]) -> Estimate:
    """Mean over seeds: values (S,)."""
    return _bootstrap([np.asarray(values, dtype=float)], lambda x, axis: x.mean(axis=axis))


def ratio(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Ratio of the two means, both (S,), of the same seeds in the same order.

    Not the mean of ratios, which a single seed with a small reference would dominate.
    """
    data = [np.asarray(x, dtype=float) for x in (values, reference)]
    return _bootstrap(data, lambda x, y, axis: _divide(x.mean(axis=axis), y.mean(axis=axis)))


def success(outcomes: np.ndarray) -> Estimate:
    """Success rate: outcomes (S, E), 0 or 1, of seeds and episodes.

    Two levels: a resample draws seeds, then episodes. All seeds share the initial states, so one
    draw of episodes holds for all of them; independent draws would hide what the states share.
    """
    x = np.asarray(outcomes, dtype=float)
    return _percentiles(float(x.mean()), _two_levels(x), len(x))


def success_ratio(outcomes: np.ndarray, reference: np.ndarray) -> Estimate:
    """Ratio of two success rates, both (S, E): the same seeds and episodes in both."""
    x, y = (np.asarray(z, dtype=float) for z in (outcomes, reference))
    assert x.shape == y.shape, "paired by seed and episode"
    value = float(_divide(x.mean(), y.mean()))
    return _percentiles(value, _divide(_two_levels(x), _two_levels(y)), len(x))


def p_value(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Two-sided paired t test over seeds, both (S,); None where it is not defined."""
    if len(values) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal differences, as in a tiny study
        p = float(scipy.stats.ttest_rel(values, reference).pvalue)
    return p if np.isfinite(p) else None


def _bootstrap(data: list[np.ndarray], statistic: Callable[..., Any]) -> Estimate:
    seeds, value = len(data[0]), float(statistic(*data, axis=0))
    if seeds < MIN_SEEDS or not np.isfinite(data).all() or not np.isfinite(value):
        return Estimate(value, None, None)
    result = scipy.stats.bootstrap(
        data, statistic, paired=True, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, confidence_level=LEVEL, random_state=np.random.default_rng(0),
    )  # fmt: skip
    low, high = result.confidence_interval
    return Estimate(value, float(low), float(high))


def _divide(x: Any, y: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(x) / np.asarray(y)


def _two_levels(x: np.ndarray) -> np.ndarray:
    """Means (RESAMPLES,) of (S, E) under draws of seeds and episodes, the same for every call."""
    of_seeds, of_episodes = _weights(*x.shape)
    return ((of_seeds @ x) * of_episodes).sum(axis=1)


@lru_cache
def _weights(*sizes: int) -> list[np.ndarray]:
    """How often every resample holds each seed and each episode, as shares: (RESAMPLES, n)."""
    rng = np.random.default_rng(0)
    return [rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in sizes]


def _percentiles(value: float, samples: np.ndarray, seeds: int) -> Estimate:
    known = samples[~np.isnan(samples)]  # 0/0: a resample without any success in either arm
    if seeds < MIN_SEEDS or not len(known):
        return Estimate(value, None, None)
    tail = (1 - LEVEL) / 2
    # Without interpolation, since samples may be infinite.
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    return Estimate(value, float(low), float(high))
