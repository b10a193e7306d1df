"""Means, ratios and steps over training seeds, with intervals. Knows numpy only.

All intervals are percentile bootstraps: 10,000 resamples from a fixed generator, 95 %. What is
compared is paired: one resample draws the same seeds (and the same episodes) for both arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
MIN_SEEDS = 3  # below, resampling seeds says nothing about other seeds: no interval
STAY = 3  # checkpoints in a row at or below the level that was to be reached


class Estimate(NamedTuple):
    """A statistic over seeds; `low` and `high` are None with fewer than `MIN_SEEDS` seeds."""

    value: float
    low: float | None
    high: float | None
    seeds: int


class Level(NamedTuple):
    """The smallest held-out critic error of a run, and the step at which it first stood there."""

    error: float
    step: int


def mean(values: Sequence[float]) -> Estimate:
    """Mean over seeds: values (S,)."""
    x = _row(values)
    return _estimate(float(x.mean()), x[_draws(len(x))].mean(axis=1), len(x))


def median(values: Sequence[float]) -> Estimate:
    """Median over seeds: values (S,), infinity where something was never reached."""
    x = _row(values)
    return _estimate(float(_median(x[None])[0]), _median(x[_draws(len(x))]), len(x))


def median_speed(values: Sequence[float]) -> Estimate:
    """Median over seeds of how many times faster, (S,), 0 where a level was never reached.

    The median of the inverses, inverted: between "never" and a number stands "never", as it does
    for steps, and not half of the number.
    """
    with np.errstate(divide="ignore"):
        inverse = median((1 / _row(values)).tolist())
        value, low, high = (
            None if x is None else float(1 / np.float64(x))
            for x in (inverse.value, inverse.high, inverse.low)
        )
    assert value is not None
    return Estimate(value, low, high, inverse.seeds)


def difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Mean of `values - reference`, both (S,), of the same seeds in the same order."""
    return mean(_row(values) - _same_length(reference, len(values)))


def ratio(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Ratio of the two means, both (S,) and not negative, of the same seeds in the same order.

    Differs: not the mean of ratios, which one seed with a small reference would decide alone.
    """
    x, y = _row(values), _same_length(reference, len(values))
    draws = _draws(len(x))
    return _ratio(x.mean(), y.mean(), x[draws].mean(axis=1), y[draws].mean(axis=1), len(x))


def success(outcomes: np.ndarray) -> Estimate:
    """Success rate: outcomes (S, E), 0 or 1, of seeds and episodes.

    Two levels: a resample draws seeds, then episodes. All seeds meet the same initial states, so
    one draw of episodes holds for all of them; independent draws would hide what the states share.
    """
    x = np.asarray(outcomes, dtype=float)
    return _estimate(float(x.mean()), _two_levels(x), len(x))


def success_difference(outcomes: np.ndarray, reference: np.ndarray) -> Estimate:
    """Difference of two success rates, both (S, E): the same seeds and episodes in both."""
    x, y = _outcomes(outcomes, reference)
    return _estimate(float(x.mean() - y.mean()), _two_levels(x - y), len(x))


def success_ratio(outcomes: np.ndarray, reference: np.ndarray) -> Estimate:
    """Ratio of two success rates, both (S, E): the same seeds and episodes in both."""
    x, y = _outcomes(outcomes, reference)
    return _ratio(x.mean(), y.mean(), _two_levels(x), _two_levels(y), len(x))


def best(steps: Sequence[int], errors: Sequence[float]) -> Level:
    """Smallest error of a run and the first step that has it."""
    index = int(np.argmin(errors))
    return Level(float(errors[index]), int(steps[index]))


def settled(errors: Sequence[float]) -> float:
    """Smallest level at or below which `STAY` checkpoints in a row are: `steps_to` it is finite.

    Args:
        errors: (C,) held-out critic error of each checkpoint, C at least `STAY`.
    """
    x = np.asarray(errors, dtype=float)
    windows = np.lib.stride_tricks.sliding_window_view(x, STAY)
    return float(windows.max(axis=1).min())


def steps_to(steps: Sequence[int], errors: Sequence[float], level: float) -> float:
    """First step from which on `STAY` checkpoints in a row are at or below `level`.

    The whole `STAY` checkpoints must be there. A run that goes below at its last checkpoint only
    has not shown that it stays, so no checkpoint counts for more because nothing comes after it.

    Args:
        steps: (C,) gradient steps of the checkpoints, rising.
        errors: (C,) held-out critic error of each.
        level: of the reference run, from `best`.

    Returns:
        Gradient steps; infinity if the level is never reached.
    """
    below = np.asarray(errors, dtype=float) <= level  # never true of NaN
    for index in range(len(below) - STAY + 1):
        if below[index : index + STAY].all():
            return float(steps[index])
    return math.inf


def _row(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    assert x.ndim == 1 and x.size, "one value a seed, at least one seed"
    return x


def _same_length(values: Sequence[float], length: int) -> np.ndarray:
    x = _row(values)
    assert len(x) == length, "paired by seed"
    return x


def _outcomes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    assert x.shape == y.shape and x.ndim == 2, "paired by seed and episode"
    return x, y


@lru_cache
def _draws(seeds: int) -> np.ndarray:
    """Which seeds every resample holds: (RESAMPLES, S); the same for every call."""
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))


def _two_levels(x: np.ndarray) -> np.ndarray:
    """Means (RESAMPLES,) of (S, E) under draws of seeds and episodes, the same for every call."""
    of_seeds, of_episodes = _weights(*x.shape)
    return ((of_seeds @ x) * of_episodes).sum(axis=1)


@lru_cache
def _weights(*sizes: int) -> list[np.ndarray]:
    """How often every resample holds each seed and each episode, as shares: (RESAMPLES, n)."""
    rng = np.random.default_rng(0)
    return [rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in sizes]


def _median(x: np.ndarray) -> np.ndarray:
    """Median of every row; between a number and infinity it is infinity, without a warning."""
    ordered = np.sort(x, axis=1)
    count = x.shape[1]
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


def _ratio(
    value: float, reference: float, values: np.ndarray, references: np.ndarray, seeds: int
) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = float(np.float64(value) / reference)
        estimate = _estimate(middle, values / references, seeds)
    # No ratio of what cannot be negative is below 0.
    return estimate if estimate.low is None else estimate._replace(low=max(0.0, estimate.low))


def _estimate(value: float, samples: np.ndarray, seeds: int) -> Estimate:
    """Percentiles without interpolation, since samples may be infinite.

    A resample that is 0/0 says nothing, so it counts as lowest for `low` and highest for `high`.
    """
    if seeds < MIN_SEEDS:
        return Estimate(value, None, None, seeds)
    unknown = np.isnan(samples)
    rank = (1 - LEVEL) / 2 * (len(samples) - 1)
    low = np.sort(np.where(unknown, -np.inf, samples))[math.floor(rank)]
    high = np.sort(np.where(unknown, np.inf, samples))[math.ceil(len(samples) - 1 - rank)]
    return Estimate(value, float(low), float(high), seeds)


def evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` values, both ends among them: (min(count, most),)."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)
