"""Intervals and steps to a level, against closed forms and known truths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robomimic_vae_ext.study import statistics


def test_a_constant_has_no_width() -> None:
    assert statistics.mean([2.0] * 5) == (2.0, 2.0, 2.0, 5)
    assert statistics.ratio([3.0] * 4, [2.0] * 4) == (1.5, 1.5, 1.5, 4)
    assert statistics.difference([3.0, 5.0, 9.0], [2.0, 4.0, 8.0]) == (1.0, 1.0, 1.0, 3)


def test_pairing_removes_what_the_seeds_share() -> None:
    shared = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    paired = statistics.difference(shared + 1, shared)
    crossed = statistics.difference(shared + 1, shared[::-1])
    assert paired == (1.0, 1.0, 1.0, 5)
    assert crossed.value == 1.0 and crossed.low is not None and crossed.low < -10


def test_percentiles_of_a_mean_of_two_values_are_those_of_the_binomial() -> None:
    """The mean of n draws from {0, 1} is a binomial count over n: its percentiles are known."""
    found = statistics.mean([0.0, 1.0] * 8)
    assert found.value == 0.5
    # Binomial(16, 1/2): P(X <= 3) = 0.0106, P(X <= 4) = 0.0384, so the 2.5 % point is 4.
    assert (found.low, found.high) == (4 / 16, 12 / 16)


def test_intervals_cover_a_known_truth_as_often_as_the_page_says() -> None:
    """Normal values: a t interval would cover 95 %; percentiles of 5 seeds cover about 84 %."""
    rng = np.random.default_rng(1)
    for seeds, expected in ((5, 0.84), (20, 0.93)):
        covered = []
        for _ in range(300):
            found = statistics.mean(rng.normal(3.0, 1.0, seeds))
            assert found.low is not None and found.high is not None
            covered.append(found.low <= 3.0 <= found.high)
        assert np.mean(covered) == pytest.approx(expected, abs=0.06), seeds


def test_success_knows_both_levels() -> None:
    """All variation between seeds, or all between episodes: the interval sees either."""
    seeds_differ = np.repeat([[0.0], [1.0], [0.0], [1.0]], 50, axis=1)
    states_differ = np.repeat([[0.0, 1.0]], 25, axis=1).repeat(4, axis=0).reshape(4, 50)
    for outcomes in (seeds_differ, states_differ):
        found = statistics.success(outcomes)
        assert found.value == 0.5 and found.low is not None and found.high is not None
        assert found.high - found.low > 0.2
    # 50 shared states with rate 1/2: the standard error is 1/sqrt(200), whatever the seeds.
    found = statistics.success(states_differ)
    assert found.high == pytest.approx(0.5 + 1.96 * math.sqrt(0.25 / 50), abs=0.03)


def test_two_equal_arms_differ_by_nothing() -> None:
    outcomes = np.random.default_rng(0).integers(0, 2, (5, 20))
    assert statistics.success_difference(outcomes, outcomes) == (0.0, 0.0, 0.0, 5)
    assert statistics.success_ratio(outcomes, outcomes) == (1.0, 1.0, 1.0, 5)


def test_success_intervals_cover_a_known_difference() -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(100):
        a, b = (rng.uniform(size=(8, 40)) < rate for rate in (0.8, 0.6))
        found = statistics.success_difference(a, b)
        assert found.low is not None and found.high is not None
        covered.append(found.low <= 0.2 <= found.high)
    assert np.mean(covered) > 0.9


def test_a_reference_without_success_bounds_the_ratio_from_below_only() -> None:
    never, sometimes = np.zeros((4, 10)), np.ones((4, 10))
    assert statistics.success_ratio(sometimes, never) == (math.inf, math.inf, math.inf, 4)
    nothing = statistics.success_ratio(never, never)
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (0.0, math.inf)


def test_two_seeds_give_no_interval() -> None:
    assert statistics.mean([1.0, 2.0]) == (1.5, None, None, 2)


def test_medians_keep_what_was_never_reached() -> None:
    assert statistics.median([100.0, math.inf, 300.0]).value == 300.0
    assert statistics.median([100.0, math.inf, math.inf]).value == math.inf
    assert statistics.median([100.0, 300.0, math.inf, math.inf]).value == math.inf
    found = statistics.median([100.0, 200.0, 300.0, 400.0, math.inf])
    assert (found.value, found.low, found.high) == (300.0, 100.0, math.inf)


def test_between_never_and_a_number_of_times_faster_is_never() -> None:
    assert statistics.median_speed([0.0, 0.0, 2.0, 4.0]).value == 0.0
    assert statistics.median_speed([0.0, 2.0, 4.0]).value == 2.0
    # 2 and 4 times faster are 1/2 and 1/4 of the steps: the middle is 3/8 of them.
    assert statistics.median_speed([2.0, 4.0, 4.0, 2.0]).value == pytest.approx(8 / 3)
    found = statistics.median_speed([0.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.low, found.high) == (3.0, 0.0, 5.0)


STEPS = (100, 200, 300, 400, 500)


def test_the_level_is_the_smallest_error_at_its_first_step() -> None:
    assert statistics.best(STEPS, (0.5, 0.2, 0.3, 0.2, 0.4)) == (0.2, 200)


@pytest.mark.parametrize(
    ("errors", "step"),
    [
        ((0.5, 0.2, 0.2, 0.2, 0.9), 200.0),  # what comes after three does not matter
        ((0.2, 0.2, 0.5, 0.1, 0.1), math.inf),  # two at the end are not three
        ((0.2, 0.5, 0.1, 0.1, 0.1), 300.0),  # a single dip does not count
        ((0.1, 0.1, 0.1, 0.1, 0.1), 100.0),
        ((0.5, 0.5, 0.5, 0.5, 0.1), math.inf),
        ((math.nan, 0.1, 0.1, 0.1, 0.1), 200.0),
        ((0.1, 0.1, math.nan, 0.1, 0.1), math.inf),
    ],
)
def test_a_level_is_reached_when_three_checkpoints_in_a_row_stay(
    errors: tuple[float, ...], step: float
) -> None:
    assert statistics.steps_to(STEPS, errors, 0.2) == step


def test_a_run_settles_at_the_smallest_level_at_which_it_stays() -> None:
    errors = [9.0, 4.0, 5.0, 6.0, 2.0, 8.0, 7.0]
    assert statistics.settled(errors) == 6.0  # 4, 5, 6; the 2 stands alone
    assert statistics.settled([9.0, math.inf, 4.0, 5.0, 3.0]) == 5.0
    rng = np.random.default_rng(0)
    for _ in range(50):
        run = rng.random(12).tolist()
        level, steps = statistics.settled(run), range(100, 1300, 100)
        assert math.isfinite(statistics.steps_to(steps, run, level))
        assert math.isinf(statistics.steps_to(steps, run, level - 1e-9))


def test_the_last_checkpoints_are_not_privileged() -> None:
    """Cutting a run short never makes it reach the level earlier, and never at all by the cut."""
    errors = np.random.default_rng(3).uniform(size=60)
    steps = np.arange(60)
    whole = statistics.steps_to(steps, errors, 0.6)
    for length in range(1, 61):
        cut = statistics.steps_to(steps[:length], errors[:length], 0.6)
        assert cut == (whole if length >= whole + statistics.STAY else math.inf)
