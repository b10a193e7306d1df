"""What a worker process does: it plays one episode after the other and tells of every step.

Its policy is its own, or is the parent's, which it asks over the pipe.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import robomimic.algo.algo as algo_module
import robomimic.utils.obs_utils as obs_utils

from robomimic_vae_ext import overrides
from robomimic_vae_ext.errors import VaeExtError
from robomimic_vae_ext.rollout import seeded_episode, stored_policy

BEAT: Final = 0.5  # a worker with its own policy says at most this often that it lives [s]


@dataclass(frozen=True)
class Setup:
    """What a worker builds.

    Args:
        checkpoint: file with the policy and the environment's metadata.
        horizon: steps of an episode; None takes the config's.
        device: of the worker's own policy; None takes the config's.
        film: whether episodes will be filmed.
        policy_in_parent: whether the parent's policy acts.
        settings: for `overrides.apply`.
        trust: for `stored_policy.load_checkpoint`.
    """

    checkpoint: Path
    horizon: int | None = None
    device: str | None = None
    film: bool = False
    policy_in_parent: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False


@dataclass(frozen=True)
class Task:
    """One episode.

    Args:
        index: number of the episode.
        seed: of its initial state and of its policy's noise.
        training: None plays it as `Runner.play`, else as stock training does.
    """

    index: int
    seed: int
    training: seeded_episode.TrainingEpisode | None = None


@dataclass(frozen=True)
class ActionRequest:
    """Asks for an action."""

    obs: dict[str, np.ndarray]


@dataclass(frozen=True)
class Heartbeat:
    """Says that steps are being made."""


@dataclass(frozen=True)
class EpisodeDone:
    """The outcome of an episode, and its number."""

    index: int
    outcome: Any


@dataclass(frozen=True)
class WorkerError:
    """An exception: ours as it is, for somebody else's the text."""

    error: VaeExtError | None
    reason: str


class AskingPolicy(algo_module.RolloutPolicy):
    """Stands in for the parent's policy.

    Args:
        connection: to the parent.
        keys: observations that the policy reads.
    """

    def __init__(self, connection: Connection, keys: list[str]) -> None:
        super().__init__(None)
        self.connection = connection
        self.keys = keys

    def start_episode(self) -> None:
        """Do nothing: the parent's policy knows no episodes."""

    def __call__(self, ob: dict[str, np.ndarray], goal: Any = None, **_: Any) -> np.ndarray:
        """Return the parent's action (A,)."""
        self.connection.send(ActionRequest({key: ob[key] for key in self.keys}))
        action: np.ndarray = self.connection.recv()
        return action


class ReportingPolicy(algo_module.RolloutPolicy):
    """A policy of the worker's own that lets the parent know of its steps.

    Args:
        connection: to the parent.
        inner: the policy.
    """

    def __init__(self, connection: Connection, inner: Any) -> None:
        super().__init__(inner.policy)
        self.connection = connection
        self.inner = inner
        self._said = 0.0

    def start_episode(self) -> None:
        """Start the policy's episode; its first step will be reported."""
        self.inner.start_episode()
        self._said = 0.0

    def __call__(self, ob: dict[str, np.ndarray], goal: Any = None, **_: Any) -> np.ndarray:
        """Return the policy's action (A,)."""
        now = time.monotonic()
        if now - self._said > BEAT:
            self.connection.send(Heartbeat())
            self._said = now
        action: np.ndarray = self.inner(ob=ob, goal=goal)
        return action


def serve(connection: Connection) -> None:
    """Play what the parent asks for until it is gone; the entry point of a worker process.

    Args:
        connection: to the parent; brings pairs of `Setup` and `Task`, takes the messages above.
    """
    with seeded_episode.one_thread():
        setup: Setup | None = None
        runner: seeded_episode.Runner | None = None
        # The parent has ended, perhaps by SIGKILL: so does the worker.
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                wanted, task = connection.recv()
                try:
                    if runner is None or wanted != setup:
                        runner = _build(wanted, connection, runner)
                        setup = wanted
                    outcome = _play(runner, task)
                except (BrokenPipeError, ConnectionResetError):
                    raise
                except VaeExtError as error:
                    connection.send(WorkerError(error, str(error)))
                    return
                except Exception as error:
                    traceback.print_exc()
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    connection.send(WorkerError(None, reason))
                    return
                connection.send(EpisodeDone(task.index, outcome))


def _build(
    setup: Setup, connection: Connection, old: seeded_episode.Runner | None
) -> seeded_episode.Runner:
    """Make policy and environment; another checkpoint of the same run keeps the environment."""

    def ask_parent(config: Any) -> AskingPolicy:
        obs_utils.initialize_obs_utils_with_config(config)
        return AskingPolicy(connection, list(config.all_obs_keys))

    checkpoint = stored_policy.load_checkpoint(setup.checkpoint, setup.trust)
    checkpoint = overrides.apply(checkpoint, setup.settings)
    runner = seeded_episode.Runner(
        checkpoint, setup.horizon, setup.device, setup.film,
        make_policy=ask_parent if setup.policy_in_parent else None, env=old and old.env,
    )  # fmt: skip
    if not setup.policy_in_parent:
        runner.policy = ReportingPolicy(connection, runner.policy)
    return runner


def _play(runner: seeded_episode.Runner, task: Task) -> Any:
    if task.training is None:
        return runner.play(task.index, task.seed)
    return runner.play_in_training(task.seed, task.training)
