"""Workers: the same outcomes for any number of them, and whatever happens to them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from robomimic_vae_ext.errors import CheckpointError, SimulationError
from robomimic_vae_ext.rollout import (
    batch_policy,
    seeded_episode,
    stored_policy,
    worker_pool,
    worker_process,
)
from robomimic_vae_ext.rollout.evaluate import evaluate
from tests.conftest import REPOSITORY
from tests.rollout.conftest import PATIENCE, UNHURRIED, make_policy

pytestmark = pytest.mark.simulator
Checkpoint = Callable[[str], Path]
Outcome = tuple[int, bool, int, float]
TASKS = [worker_process.Task(index, seeded_episode.episode_seed(9, index)) for index in range(4)]


def outcome(episode: seeded_episode.Episode) -> Outcome:
    return (episode.seed, episode.success, episode.length, episode.total_reward)


def play(pool: worker_pool.Pool, setup: worker_process.Setup, act: Any = None) -> list[Outcome]:
    done = sorted(pool.play(setup, TASKS, act), key=lambda done: done.index)
    return [outcome(one.outcome) for one in done]


def gone(pid: int) -> bool:
    """Whether a process has ended; one whose parent has not asked for its exit code has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Checkpoint) -> list[Outcome]:
    runner = seeded_episode.Runner(stored_policy.load_checkpoint(checkpoint("lapo")), device="cpu")
    played = [outcome(runner.play(task.index, task.seed)) for task in TASKS]
    assert len({reward for *_, reward in played}) == len(TASKS)
    return played


@pytest.mark.parametrize("kind", ["lapo", "bc_rnn", "bc_gmm"])
def test_any_number_of_workers_gives_the_same_outcomes(checkpoint: Checkpoint, kind: str) -> None:
    def run(num_workers: int, one_policy: bool | None = None) -> list[Outcome]:
        result = evaluate(
            checkpoint(kind), n=4, seed=5, device="cpu", num_workers=num_workers,
            one_policy=one_policy, patience=UNHURRIED,
        )  # fmt: skip
        return [outcome(episode) for episode in result.episodes]

    alone = run(1)
    assert len({reward for *_, reward in alone}) == 4
    assert run(2 if kind == "bc_gmm" else 3) == alone
    if kind == "lapo":
        assert run(2, one_policy=True) == alone


@pytest.fixture(scope="module")
def pool() -> Iterator[worker_pool.Pool]:
    """Two workers for all tests that disturb them."""
    with worker_pool.Pool(2, PATIENCE) as pool:
        yield pool
        pids = pool.process_ids
    assert pids and all(gone(pid) for pid in pids)


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("ask", [False, True], ids=["own policy", "one policy"])
def test_a_worker_that_dies_or_hangs_is_replaced(
    pool: worker_pool.Pool,
    checkpoint: Checkpoint,
    undisturbed: list[Outcome],
    caplog: pytest.LogCaptureFixture,
    what: signal.Signals,
    ask: bool,
) -> None:
    policy = batch_policy.BatchPolicy(make_policy("lapo"))
    setup = worker_process.Setup(checkpoint("lapo"), device="cpu", policy_in_parent=ask)
    victims: list[int] = []
    asked = 0

    def strike() -> None:
        victims.append(pool.process_ids[0])
        os.kill(victims[0], what)

    def act(observations: Any) -> list[np.ndarray]:
        nonlocal asked
        asked += len(observations)
        if asked > 12 and not victims:  # in the middle of an episode
            strike()
        return policy.act(observations)

    played = []
    for done in pool.play(setup, TASKS, act if ask else None):
        played.append(done)
        if not victims:  # with an episode, or about to be given one
            strike()
    assert [outcome(d.outcome) for d in sorted(played, key=lambda d: d.index)] == undisturbed
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    reason = "died with exit code -9" if what == signal.SIGKILL else "gave no sign of life"
    assert len(said) == 1 and f"process {victims[0]} {reason}" in said[0], said
    assert gone(victims[0]) and victims[0] not in pool.process_ids


def test_one_policy_with_full_batches_is_what_it_is_alone(
    pool: worker_pool.Pool, checkpoint: Checkpoint
) -> None:
    """As on a GPU, where a lone process pads its batches too."""
    policy = batch_policy.BatchPolicy(make_policy("lapo"), rows=4)
    runner = seeded_episode.Runner(
        stored_policy.load_checkpoint(checkpoint("lapo")), make_policy=lambda config: policy
    )
    alone = [outcome(runner.play(task.index, task.seed)) for task in TASKS]
    setup = worker_process.Setup(checkpoint("lapo"), device="cpu", policy_in_parent=True)
    assert play(pool, setup, policy.act) == alone


def test_an_episode_whose_environment_raises_is_repeated(
    pool: worker_pool.Pool,
    checkpoint: Checkpoint,
    undisturbed: list[Outcome],
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = batch_policy.BatchPolicy(make_policy("lapo"))
    bad = iter([True])

    def act(observations: Any) -> list[np.ndarray]:
        actions = policy.act(observations)
        if next(bad, False):
            actions[0] = np.zeros(3)  # which makes robosuite raise
        return actions

    setup = worker_process.Setup(checkpoint("lapo"), device="cpu", policy_in_parent=True)
    assert play(pool, setup, act) == undisturbed
    assert [r.message for r in caplog.records if "raised" in r.message]


def test_a_pool_serves_one_order_after_the_other(
    pool: worker_pool.Pool, checkpoint: Checkpoint, undisturbed: list[Outcome]
) -> None:
    setup = worker_process.Setup(checkpoint("lapo"), device="cpu")
    assert play(pool, setup) == undisturbed
    before = pool.process_ids
    assert play(pool, worker_process.Setup(checkpoint("bc"), device="cpu")) != undisturbed
    assert pool.process_ids == before
    orders = pool.play(setup, TASKS)
    next(orders)
    orders.close()  # left in the middle of an episode, whose end must not be taken for another's
    assert play(pool, setup) == undisturbed


def test_three_failures_are_one_line(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    setup = worker_process.Setup(checkpoint("lapo"), device="cpu", policy_in_parent=True)
    with (
        worker_pool.Pool(1, UNHURRIED) as pool,
        pytest.raises(SimulationError, match="episode 0 failed 3 times; at last") as caught,
    ):
        play(pool, setup, lambda observations: [np.zeros(3)] * len(observations))
    assert "raised AssertionError" in str(caught.value) and "\n" not in str(caught.value)
    assert len([r for r in caplog.records if "begins again" in r.message]) == 2


def test_our_own_errors_are_not_repeated(tmp_path: Path) -> None:
    setup = worker_process.Setup(tmp_path / "none.pth", device="cpu")
    with worker_pool.Pool(1, UNHURRIED) as pool, pytest.raises(CheckpointError, match="no file"):
        play(pool, setup)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(checkpoint: Checkpoint, end: signal.Signals) -> None:
    script = REPOSITORY / "scripts" / "evaluate.py"
    command = [
        sys.executable, script, "--agent", checkpoint("lapo"), "--n", "1000", "--workers", "2",
        "--device", "cpu",
    ]  # fmt: skip
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stderr is not None
        bar = ""
        while "1/1000" not in bar:  # the first episode is played
            bar += parent.stderr.read(1)
            assert parent.poll() is None, bar
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) >= 2
        if end == signal.SIGINT:
            os.killpg(parent.pid, end)  # as a terminal does
        else:
            os.kill(parent.pid, end)
        rest = parent.stderr.read()
    assert parent.returncode != 0
    if end == signal.SIGINT:
        assert rest.count("Traceback") <= 1  # the parent's own
    patience = time.monotonic() + 30
    while not all(gone(process.pid) for process in family) and time.monotonic() < patience:
        time.sleep(0.2)
    assert all(gone(process.pid) for process in family)
