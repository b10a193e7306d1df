"""Fixed-seed episodes of a checkpoint, with Q and the return at every step.

Every episode becomes one line of a JSON-lines file when it ends, so that none is played twice.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from robomimic_vae_ext.analysis.critic_values import discounted_returns, value_function
from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.rollout import seeded_episode

DIGITS: Final = 4  # of values and returns in the file


class ValueRecorder:
    """Records Q(s, a) whenever an algorithm chooses an action, of that observation and action.

    Of several rows it takes the first: one episode plays at a time, and the others pad it.

    Args:
        algo: a robomimic algorithm; its `get_action` is wrapped.
    """

    def __init__(self, algo: Any) -> None:
        self.values: list[float] = []
        self._act = algo.get_action
        self._value = value_function(algo)
        algo.get_action = self._act_and_record

    def _act_and_record(self, obs_dict: Any, goal_dict: Any = None) -> torch.Tensor:
        action = self._act(obs_dict=obs_dict, goal_dict=goal_dict)
        if self._value is not None:
            first = {key: value[:1] for key, value in obs_dict.items()}
            self.values.append(self._value(first, action[:1]).item())
        return action


class Player:
    """Plays episodes of one checkpoint.

    Args:
        checkpoint: from `stored_policy.load_checkpoint`.
        horizon: steps after which an episode has failed.
        discount: of the returns; None where the algorithm has none.
        before: player of another checkpoint of the same run, whose environment is used again: a
            new one takes seconds and a gigabyte, and no episode depends on those before it.
        device: torch device name; None takes the GPU if the checkpoint's config asks for one.
    """

    def __init__(
        self,
        checkpoint: dict[str, Any],
        horizon: int,
        discount: float | None,
        before: Player | None = None,
        device: str | None = None,
    ) -> None:
        env = before.runner.env if before is not None else None
        self.runner: seeded_episode.Runner = seeded_episode.Runner(
            checkpoint, horizon, device, env=env
        )
        self.recorder = ValueRecorder(self.runner.policy.policy)
        self.discount = discount
        self.env = seeded_episode.base_env(self.runner.env)

    def play(self, index: int, seed: int) -> dict[str, Any]:
        """Play one episode until success or the horizon; a failure on the way does not end it.

        Args:
            index: of the episode.
            seed: base seed of the study's episodes.

        Returns:
            Outcome, and per step the value `q` and the discounted return that followed; both are
            empty for an algorithm without a critic.
        """
        self.recorder.values.clear()
        rewards: list[float] = []
        failed = False

        def on_step(obs: Any, action: Any, reward: float) -> None:
            nonlocal failed
            rewards.append(reward)
            failed = failed or envs.has_failed(self.env)

        episode = self.runner.play(index, seeded_episode.episode_seed(seed, index), on_step=on_step)
        q, returns = np.array(self.recorder.values), np.zeros(0)
        if len(q) and self.discount is not None:
            returns = discounted_returns(np.array(rewards), self.discount)
        return {
            "index": index,
            "seed": episode.seed,
            "success": episode.success,
            "failed": failed,
            "length": episode.length,
            "total_reward": episode.total_reward,
            "q": [round(float(x), DIGITS) for x in q],
            "returns": [round(float(x), DIGITS) for x in returns],
        }


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a JSON-lines file; it is on the disk when this returns."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file, and cut off a last line that a killed job left unfinished."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [dict(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({error})",
            "a line of JSON for every episode",
            "Delete the file: the job plays its episodes again.",
        ) from error


def summary(step: int, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of one checkpoint's episodes.

    Args:
        step: gradient steps of the checkpoint.
        records: its episodes, from `Player.play`.

    Returns:
        Counts, mean length, `value_error` (mean over all steps of (Q - return)^2), means of Q and
        return at the first step (None without a critic), and `success` of every episode in order.
    """
    records = sorted(records, key=lambda record: record["index"])
    q, returns = (
        np.array([value for record in records for value in record[name]])
        for name in ("q", "returns")
    )
    valued = [record for record in records if record["q"]]
    return {
        "step": step,
        "episodes": len(records),
        "successes": sum(record["success"] for record in records),
        "failures": sum(record["failed"] for record in records),
        "mean_length": float(np.mean([record["length"] for record in records])),
        "value_error": float(np.mean((q - returns) ** 2)) if len(q) else None,
        "q_start": float(np.mean([r["q"][0] for r in valued])) if valued else None,
        "return_start": float(np.mean([r["returns"][0] for r in valued])) if valued else None,
        "success": [int(record["success"]) for record in records],
    }
