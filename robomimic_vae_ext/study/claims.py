"""The card's three claims against what a study measured."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

from robomimic_vae_ext import markdown
from robomimic_vae_ext.study import formatting
from robomimic_vae_ext.study.statistics import Estimate
from robomimic_vae_ext.study.summary import Summary

#: How the last column is decided; it stands above every table of claims.
RULE: Final = (
    "The modest end of each claimed range is what counts: at least 3 times, at most 0.375 times, "
    "at least 1.5 times. A claim holds (yes) if the whole interval is on the claimed side of that "
    "bound, fails (no) if none of it is, and is open otherwise, also where there is no interval. "
    "Out of reach: the reference succeeds so often that nothing could be 1.5 times as much."
)


@dataclass(frozen=True)
class Claim:
    """Something that is said of an arm, compared with the reference.

    Args:
        text: as the table shows it.
        measure: of results.csv.
        bound: modest end of the claimed range.
        at_least: whether more is better.
        most: largest value that the measure can have.
    """

    text: str
    measure: str
    bound: float
    at_least: bool
    most: float = math.inf

    def estimate(self, summary: Summary, task: str, arm: str) -> Estimate | None:
        """What was measured of it: steps compared by seed, everything else as ratio of means."""
        if self.measure == "speed_up":
            return summary.estimate(task, arm, self.measure)
        return summary.ratio(task, arm, summary.reference_of(arm), self.measure)

    def holds(self, estimate: Estimate | None) -> str:
        """`yes`, `no` or `open`, by `RULE`."""
        if estimate is None or estimate.low is None or estimate.high is None:
            return "open"
        if self.at_least:
            inside, outside = estimate.low >= self.bound, estimate.high < self.bound
        else:
            inside, outside = estimate.high <= self.bound, estimate.low > self.bound
        return "yes" if inside else "no" if outside else "open"

    def verdict(self, summary: Summary, task: str, arm: str) -> str:
        """What was measured, its interval, and by `RULE` whether the claim holds."""
        found = self.estimate(summary, task, arm)
        if found is None:
            return NOT_MEASURED
        text = speed(found) if self.measure == "speed_up" else _times(found)
        holds = self.holds(found)
        reference = summary.estimate(task, summary.reference_of(arm), self.measure)
        if holds != "yes" and reference is not None and reference.value * self.bound > self.most:
            holds += ", out of reach"
        return f"{text}: **{holds}**"


#: "Q error 0.8 -> 0.2-0.3" is 0.25 to 0.375 of what it was.
CLAIMS: Final = (
    Claim("3 to 5 times fewer steps to the same held-out Q error", "speed_up", 3.0, True),
    Claim("0.25 to 0.375 times the held-out Q error", "critic_error_final", 0.375, False),
    Claim("0.25 to 0.375 times the Q error in rollouts", "value_error", 0.375, False),
    Claim("1.5 to 2 times the success", "success_final", 1.5, True, most=1.0),
)
NOT_MEASURED: Final = "not measured"


def table(summary: Summary) -> str:
    """Task by task and arm by arm: of every claim what was measured, its interval, its verdict."""
    head = ("task", "arm", "against", "seeds", *(claim.text for claim in CLAIMS))
    rows = (
        (f"`{it[0]}`", *compared(summary, *it), *(claim.verdict(summary, *it) for claim in CLAIMS))
        for it in itertools.product(summary.tasks, summary.fixes)
    )
    return markdown.table(head, rows, words=3)


def compared(summary: Summary, task: str, arm: str) -> tuple[str, str, str]:
    """The first cells of a line: arm, what it is compared with, and seeds that both have."""
    reference = summary.reference_of(arm)
    both = summary.ratio(task, arm, reference, "success_final")
    return f"`{arm}`", f"`{reference}`", str(both.seeds if both else 0)


def _times(estimate: Estimate) -> str:
    text, bounds = formatting.number(estimate.value), formatting.interval(estimate)
    return formatting.in_brackets(text if text == formatting.NOTHING else f"{text} times", bounds)


def speed(estimate: Estimate | None) -> str:
    """Times fewer steps, with its interval; a median of 0 comes of runs that never got there."""
    if estimate is None:
        return formatting.NOTHING
    text = _reached(estimate.value) + (" times" if estimate.value else "")
    return formatting.in_brackets(text, _speed_interval(estimate))


def _speed_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return formatting.NOTHING
    if estimate.high == 0:
        return _reached(0)
    return f"{_reached(estimate.low)} to {_reached(estimate.high)}"


def _reached(speed_up: float) -> str:
    return formatting.number(speed_up) if speed_up else "not reached"
