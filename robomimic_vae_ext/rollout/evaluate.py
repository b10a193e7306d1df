"""Success rate of a checkpoint over fixed-seed episodes, with its uncertainty."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from robomimic_vae_ext import files, overrides, provenance
from robomimic_vae_ext.rollout import (
    batch_policy,
    seeded_episode,
    stored_policy,
    worker_pool,
    worker_process,
)

VIDEO_FPS = 20  # = control frequency of our datasets: videos run in real time


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes of one checkpoint, in the order of their numbers."""

    agent: str
    env_name: str
    seed: int
    horizon: int
    episodes: tuple[seeded_episode.Episode, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # other than those of its training

    @property
    def successes(self) -> int:
        """Number of successful episodes."""
        return sum(episode.success for episode in self.episodes)

    def summary(self) -> dict[str, Any]:
        """Statistics and all episodes as plain types, ready for JSON."""
        n = len(self.episodes)
        low, high = wilson_interval(self.successes, n)
        return {
            "agent": self.agent,
            "env_name": self.env_name,
            "n": n,
            "seed": self.seed,
            "horizon": self.horizon,
            "settings": dict(self.settings),
            "success_rate": self.successes / n,
            "success_rate_95": [low, high],
            "mean_length": float(np.mean([e.length for e in self.episodes])),
            "mean_return": float(np.mean([e.total_reward for e in self.episodes])),
            "versions": provenance.versions(),
            "episodes": [asdict(episode) for episode in self.episodes],
        }

    def one_line(self) -> str:
        """The result in one line."""
        result = self.summary()
        low, high = result["success_rate_95"]
        return (
            f"{self.env_name}: success {self.successes}/{result['n']} = "
            f"{result['success_rate']:.0%} (95 % interval {low:.0%} to {high:.0%}), "
            f"mean length {result['mean_length']:.1f} steps, "
            f"mean return {result['mean_return']:.2f}, seed {self.seed}"
            + "".join(f", {key} = {value}" for key, value in self.settings.items())
        )


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion; unlike the normal one it stays inside [0, 1].

    Args:
        successes: how many of `n`.
        n: trials, at least 1.
        z: quantile of the normal distribution; the default gives 95 %.
    """
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    agent: Path,
    n: int,
    seed: int = 0,
    horizon: int | None = None,
    video: Path | None = None,
    video_episodes: int = 5,
    num_workers: int = 1,
    device: str | None = None,
    one_policy: bool | None = None,
    patience: worker_pool.Patience | None = None,
    settings: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> EvaluationResult:
    """Play `n` seeded episodes. The same seed gives the same outcomes, with any `num_workers`.

    Limits torch to one thread meanwhile, see `seeded_episode.one_thread`.

    Args:
        agent: checkpoint written by robomimic, of any algorithm without goals.
        n: number of episodes.
        seed: base seed; see `seeded_episode.episode_seed`.
        horizon: steps after which an episode has failed; None takes the config's.
        video: MP4 file for the first `video_episodes` episodes.
        video_episodes: how many episodes the video shows.
        num_workers: processes.
        device: torch device name.
        one_policy: whether one policy acts for all workers, see `batch_policy.policy_in_parent`.
        patience: with silent workers.
        settings: values of the config other than those of the training; see `overrides.apply`.
        trust: for `stored_policy.load_checkpoint`.

    Raises:
        CheckpointError: the checkpoint cannot be used, or not with these settings.
        ConfigError: a setting's value is none that the algorithm knows.
        SimulationError: no renderer, or an episode whose workers died or hung again and again.
    """
    settings = settings or {}
    with seeded_episode.one_thread():
        checkpoint = overrides.apply(stored_policy.load_checkpoint(agent, trust), settings)
        runner = None
        filmed = min(video_episodes, n) if video is not None else 0
        if num_workers == 1 or filmed:
            runner = seeded_episode.Runner(checkpoint, horizon, device, film=filmed > 0)
        parts: list[Iterable[seeded_episode.Episode]] = []
        if runner is not None and video is not None:
            parts.append(_film(runner, filmed, seed, video))
        rest = list(range(filmed, n))
        if num_workers == 1 and runner is not None:
            parts.append(runner.play(i, seeded_episode.episode_seed(seed, i)) for i in rest)
        elif rest:
            pool = worker_pool.Pool(min(num_workers, len(rest)), patience)
            setup = worker_process.Setup(agent, horizon, device, settings=settings, trust=trust)
            parts.append(_in_workers(pool, setup, checkpoint, one_policy, seed, rest))
        played = []
        with tqdm(total=n, desc="episodes", unit="episode") as bar:
            for part in parts:
                for episode in part:
                    played.append(episode)
                    bar.update()
                    bar.set_postfix(success=f"{sum(e.success for e in played)}/{len(played)}")
    played.sort(key=lambda episode: episode.index)
    config = json.loads(checkpoint["config"])
    return EvaluationResult(
        agent=str(agent),
        env_name=checkpoint["env_metadata"]["env_name"],
        seed=seed,
        horizon=horizon or config["experiment"]["rollout"]["horizon"],
        episodes=tuple(played),
        settings=settings,
    )


def _in_workers(
    pool: worker_pool.Pool,
    setup: worker_process.Setup,
    checkpoint: dict[str, Any],
    one_policy: bool | None,
    seed: int,
    indices: list[int],
) -> Iterator[seeded_episode.Episode]:
    """Play episodes in worker processes."""
    target = stored_policy.policy_device(checkpoint, setup.device)
    act = None
    if one_policy or (one_policy is None and target.type != "cpu"):
        policy = batch_policy.policy_in_parent(
            stored_policy.load_policy(checkpoint, str(target)), one_policy
        )
        act = policy and policy.act
    setup = replace(setup, policy_in_parent=act is not None)
    tasks = [
        worker_process.Task(index, seeded_episode.episode_seed(seed, index)) for index in indices
    ]
    with pool:
        for done in pool.play(setup, tasks, act):
            yield done.outcome


def _film(
    runner: seeded_episode.Runner, count: int, seed: int, path: Path
) -> Iterator[seeded_episode.Episode]:
    """Play the first episodes and write them to one video, which appears when it is complete."""
    import imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".partial.mp4")
    with imageio.get_writer(partial, fps=VIDEO_FPS) as writer:
        for index in range(count):
            yield runner.play(index, seeded_episode.episode_seed(seed, index), writer.append_data)
    os.replace(partial, path)


def write_json(evaluation: EvaluationResult, path: Path) -> None:
    """Write the summary; the file appears when it is complete."""
    files.write_json(path, evaluation.summary())
