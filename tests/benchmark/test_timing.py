"""Interleaving and statistics, with a clock that we set ourselves."""

from __future__ import annotations

import pytest

from robomimic_vae_ext.benchmark import timing


class Clock:
    """Stands still but for what contenders take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def contender(self, name: str, seconds: float, multiple: int = 1) -> timing.Contender:
        def run() -> None:
            self.now += seconds
            self.calls.append(name)

        return timing.Contender(name, run, multiple)


def test_ratio_is_the_median_of_the_rounds_with_their_quartiles() -> None:
    found = timing.ratio([2.0, 8.0, 6.0], [1.0, 2.0, 3.0])
    assert found.value == 2.0  # of 2, 4, 2; the medians' quotient is 3
    assert (found.low, found.high) == (2.0, 3.0)


def test_every_round_has_every_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pair = [clock.contender("a", 1.0), clock.contender("b", 2.0)]
    found = timing.interleave(pair, rounds=5, warm_up=False)
    assert found["a"] == {"seconds": [1.0] * 5, "calls": 1}
    assert found["b"] == {"seconds": [2.0] * 5, "calls": 1}
    rounds = [clock.calls[i : i + 2] for i in range(0, 10, 2)]
    assert all(sorted(order) == ["a", "b"] for order in rounds)
    assert {order[0] for order in rounds} == {"a", "b"}  # not always the same one first


def test_short_calls_are_repeated_in_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    step = timing.SAMPLE_SECONDS / 4.5
    odd = [clock.contender("short", step, multiple=2), clock.contender("long", 2.0, multiple=2)]
    found = timing.interleave(odd, rounds=3)
    assert found["short"]["calls"] == 6
    assert found["short"]["seconds"] == [pytest.approx(step)] * 3
    assert found["long"] == {"seconds": [pytest.approx(2.0)] * 3, "calls": 2}


def test_the_first_calls_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow_at_first() -> None:
        clock.calls.append("x")
        clock.now += 100.0 if len(clock.calls) == 1 else 1.0

    found = timing.interleave([timing.Contender("x", slow_at_first)], rounds=2)
    assert found["x"]["seconds"] == [1.0, 1.0]


def test_the_device_is_waited_for_before_every_look_at_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    queued = [0.0]

    def launch() -> None:
        queued[0] += 1.0  # returns at once, as a kernel launch does

    def synchronize() -> None:
        clock.now += queued[0]
        queued[0] = 0.0

    found = timing.interleave([timing.Contender("x", launch)], 3, synchronize, warm_up=False)
    assert found["x"]["seconds"] == [1.0] * 3
