"""Recordings in several threads, or overlapping in one: each hears its own, torch is restored."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from robomimic_vae_ext.gradient_flow import Tape, record
from robomimic_vae_ext.gradient_flow.recording.events import Backward, Cleared, Moved, Stepped
from tests.gradient_flow.test_tape_robustness import torch_state


class Trained:
    """A tiny loop of its own; `context` records it."""

    def __init__(self) -> None:
        self.policy = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.policy.parameters(), lr=0.1)
        self.context: AbstractContextManager[Tape] = record(
            {"policy": self.policy}, {"policy": self.optimizer}
        )
        self.steps = 0
        self.tape: Tape | None = None

    def enter(self) -> None:
        self.tape = self.context.__enter__()

    def leave(self) -> None:
        self.context.__exit__(None, None, None)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.policy(torch.ones(4, 3)).square().mean().backward()
        clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.policy.weight.mul_(0.9)
        self.steps += 1

    def check(self) -> None:
        """The recording holds its own steps and nothing else."""
        assert self.tape is not None
        events = self.tape.recording.events
        assert sum(isinstance(event, Backward) for event in events) == self.steps
        assert sum(isinstance(event, Cleared) for event in events) == self.steps
        steps = [event for event in events if isinstance(event, Stepped)]
        assert [event.optimizer for event in steps] == ["policy"] * self.steps
        writes = [event for event in events if isinstance(event, Moved)]
        assert [event.times[0] for event in writes] == [1] * self.steps


def interleavings(count: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every order in which `count` recordings can begin (0, 1, ... first to last) and end."""
    moves = [("enter", i) for i in range(count)] + [("leave", i) for i in range(count)]
    for order in itertools.permutations(moves):
        begins = [i for what, i in order if what == "enter"]
        later = all(order.index(("enter", i)) < order.index(("leave", i)) for i in range(count))
        if later and begins == sorted(begins):
            yield order


ORDERS = tuple(interleavings(3))


def name(order: tuple[tuple[str, int], ...]) -> str:
    return " ".join(f"{'+' if what == 'enter' else '-'}{i}" for what, i in order)


def play(order: tuple[tuple[str, int], ...], threads: list[ThreadPoolExecutor] | None) -> None:
    """Begin and end recordings in this order, and train all active ones after each."""
    loops: dict[int, Trained] = {}

    def run(i: int, function: Any) -> None:
        function() if threads is None else threads[i].submit(function).result()

    active: list[int] = []
    for what, i in order:
        if what == "enter":
            run(i, lambda i=i: loops.__setitem__(i, Trained()))
            active.append(i)
        else:
            active.remove(i)
        run(i, getattr(loops[i], what))
        for k in active:
            run(k, loops[k].step)
    for loop in loops.values():
        if threads is not None:
            loop.check()
        assert loop.tape is not None
        if loop.steps:
            assert loop.tape.report().movement["policy", "policy"].times == loop.steps


@pytest.mark.parametrize("order", ORDERS, ids=name)
def test_recordings_in_three_threads(order: tuple[tuple[str, int], ...]) -> None:
    before = torch_state()
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(3)]
        play(order, threads)
    assert torch_state() == before


@pytest.mark.parametrize("order", ORDERS, ids=name)
def test_recordings_that_overlap_in_one_thread(order: tuple[tuple[str, int], ...]) -> None:
    before = torch_state()
    play(order, None)
    assert torch_state() == before


def test_the_orders_are_many_and_some_do_not_nest() -> None:
    assert len(ORDERS) == 15
    assert "+0 +1 -0 -1 +2 -2" in {name(order) for order in ORDERS}


def test_recordings_at_the_very_same_time() -> None:
    before, failures = torch_state(), []
    start = threading.Barrier(4)

    def work() -> None:
        try:
            start.wait()
            for _ in range(10):
                loop = Trained()
                loop.enter()
                for _ in range(3):
                    loop.step()
                loop.leave()
                loop.check()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert torch_state() == before


def test_a_thread_without_a_recording_is_not_heard() -> None:
    recorded, other = Trained(), Trained()
    recorded.enter()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(other.step).result()
    recorded.step()
    recorded.leave()
    recorded.check()


def test_a_patch_that_somebody_else_put_on_top_survives() -> None:
    owner = torch.optim.Optimizer
    original = owner.zero_grad
    loop = Trained()
    loop.enter()
    ours = owner.zero_grad
    heard = []

    def theirs(*args: Any, **kwargs: Any) -> None:
        heard.append(1)
        ours(*args, **kwargs)

    owner.zero_grad = theirs  # type: ignore[method-assign]
    try:
        loop.step()
        loop.leave()
        assert owner.zero_grad is theirs
        loop.check()
        again = Trained()  # now above a patch that still calls our first one
        again.enter()
        again.step()
        again.leave()
        again.check()
        assert owner.zero_grad is theirs
        assert len(heard) == 2
    finally:
        owner.zero_grad = original  # type: ignore[method-assign]
