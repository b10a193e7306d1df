"""Numbers as the study's tables write them."""

import pytest

from robomimic_vae_ext.study import formatting
from robomimic_vae_ext.study.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1234, "0.123"),
        (1234.4, "1,234"),
        (0.0, "0"),
        (-1.04e-17, "0"),
        (4.5e-05, "4.5e-05"),
        (float("inf"), "∞"),
        (float("-inf"), "-∞"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_number(value, text):
    assert formatting.number(value) == text


def test_an_interval_that_ends_where_successes_cancel_ends_at_zero():
    tiny = sum([0.1, 0.2, -0.3])
    assert 0 < tiny < 1e-15
    assert formatting.with_interval(Estimate(-0.2, -0.4, tiny, seeds=5)) == "-0.2 (-0.4 to 0)"


def test_without_bounds_there_are_no_brackets():
    assert formatting.with_interval(Estimate(0.5, None, None, seeds=2)) == "0.5"
    assert formatting.interval(Estimate(0.5, None, None, seeds=2)) == formatting.NOTHING
