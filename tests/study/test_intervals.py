"""Intervals and tests over seeds: known values, coverage, and pairing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robomimic_vae_ext.study import intervals


def test_mean_and_its_interval() -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, 400)
    found = intervals.mean(values.tolist())
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0], [1.0, np.inf, 2.0], [1.0, np.nan, 2.0]])
def test_no_interval_of_few_or_broken_seeds(values: list[float]) -> None:
    assert intervals.mean(values)[1:] == (None, None)


def test_a_ratio_is_paired_and_of_means() -> None:
    reference = np.random.default_rng(1).uniform(1, 100, 20)
    found = intervals.ratio((0.3 * reference).tolist(), reference.tolist())
    # Every resample has the same seeds in both, so the interval has no width.
    assert found == pytest.approx((0.3, 0.3, 0.3))
    assert intervals.ratio([1, 1, 4], [1, 1, 2]).value == pytest.approx(1.5)
    assert intervals.ratio([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])[1:] == (None, None)


def test_success_covers_the_truth_over_seeds_and_states() -> None:
    """Seeds differ, and so do initial states, which all seeds share."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(60):
        logit = rng.normal(0, 1, (15, 1)) + rng.normal(0, 1, (1, 60))
        outcomes = rng.random((15, 60)) < 1 / (1 + np.exp(-logit))
        found = intervals.success(outcomes)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high  # by symmetry
    assert covered >= 50


def test_success_ratio_is_paired() -> None:
    outcomes = np.random.default_rng(3).random((5, 40)) < 0.5
    assert intervals.success_ratio(outcomes, outcomes) == pytest.approx((1.0, 1.0, 1.0))
    none = np.zeros((5, 40))
    assert intervals.success_ratio(outcomes, none).value == np.inf
    assert np.isnan(intervals.success_ratio(none, none).value)


def test_p_values_are_of_the_paired_test() -> None:
    a, b = [1.0, 2.0, 3.5, 4.0], [0.5, 1.0, 3.0, 3.9]
    assert intervals.p_value(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert intervals.p_value(a, a) is None  # no difference varies
    assert intervals.p_value([1.0], [2.0]) is None


def test_another_unit() -> None:
    assert intervals.Estimate(0.5, 0.25, None).times(100) == (50.0, 25.0, None)
