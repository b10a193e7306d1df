"""Interleaved timing: every round times every contender, so that other load affects all alike."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

SAMPLE_SECONDS = 0.25  # short calls are repeated until a sample lasts about this long [s]
MAX_CALLS = 200  # per sample
WARM_UP_SECONDS = 1.0  # the first calls allocate, tune and compile; at least WARM_UP_CALLS [s]
WARM_UP_CALLS, MAX_WARM_UP_CALLS = 2, 10


@dataclass(frozen=True)
class Contender:
    """A function to time.

    Args:
        name: in the results.
        run: one call.
        multiple: the calls of a sample are a multiple of this, if not all calls do the same work.
    """

    name: str
    run: Callable[[], object]
    multiple: int = 1


class Ratio(NamedTuple):
    """A quotient of times: median and quartiles of the quotients within the rounds."""

    value: float
    low: float
    high: float


def nothing() -> None:
    """Synchronization of a CPU."""


def interleave(
    contenders: Sequence[Contender],
    rounds: int,
    synchronize: Callable[[], None] = nothing,
    title: str = "",
    warm_up: bool = True,
) -> dict[str, dict[str, Any]]:
    """Time contenders round by round, in a new random order each round.

    Args:
        contenders: with different names.
        rounds: samples of each.
        synchronize: waits for the device; called before the clock is read.
        title: of the progress bar.
        warm_up: call each a few times before the first sample; otherwise a sample is one call.

    Returns:
        Name to `seconds` (per call, one number a round) and `calls` (of one sample).
    """
    calls = {contender.name: contender.multiple for contender in contenders}
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    order = list(contenders)
    shuffler = random.Random(0)
    with tqdm(total=len(order) * (rounds + int(warm_up)), desc=title) as bar:
        for contender in order if warm_up else ():
            bar.set_postfix_str(f"warming up {contender.name}")
            calls[contender.name] = _warm_up(contender, synchronize)
            bar.update()
        for _ in range(rounds):
            shuffler.shuffle(order)
            for contender in order:
                bar.set_postfix_str(contender.name)
                sample = _time(contender.run, calls[contender.name], synchronize)
                seconds[contender.name].append(sample)
                bar.update()
    return {c.name: {"seconds": seconds[c.name], "calls": calls[c.name]} for c in contenders}


def _warm_up(contender: Contender, synchronize: Callable[[], None]) -> int:
    """Call a contender until it is warm; return the number of calls of a sample."""
    begin = time.perf_counter()
    for done in range(1, MAX_WARM_UP_CALLS + 1):
        last = _time(contender.run, 1, synchronize)
        if done >= WARM_UP_CALLS and time.perf_counter() - begin >= WARM_UP_SECONDS:
            break
    wanted = min(MAX_CALLS, SAMPLE_SECONDS / max(last, 1e-9))
    return max(1, math.ceil(wanted / contender.multiple)) * contender.multiple


def _time(run: Callable[[], object], calls: int, synchronize: Callable[[], None]) -> float:
    """Seconds per call."""
    synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize()
    return (time.perf_counter() - begin) / calls


def median(values: Sequence[float]) -> float:
    """Median of samples."""
    return float(np.median(values))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile of samples."""
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> Ratio:
    """Quotient of two contenders' times, within the rounds, which share the machine's other load.

    Args:
        longer: seconds, one number a round; the numerator.
        shorter: seconds of the same rounds; the denominator.
    """
    return of_rounds([above / below for above, below in zip(longer, shorter, strict=True)])


def of_rounds(quotients: Sequence[float]) -> Ratio:
    """Median and quartiles of one quotient a round."""
    return Ratio(median(quotients), *quartiles(quotients))
