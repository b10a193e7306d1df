"""Runs one episode of a scripted expert.

An episode ends at its first success, with reward 1 and done 1, or at a failure that the
environment detects, with reward 0 and done 1. At the horizon it ends with done 0: a time-out is not
a terminal state, and its value must be bootstrapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from robomimic_vae_ext.data.schema import check_compression
from robomimic_vae_ext.data.simulation import envs, experts
from robomimic_vae_ext.errors import DatasetError

# [steps] Just long enough for the expert to recover from a mistake: an episode that fails is as
# long as the horizon.
HORIZONS: Final = {"Lift": 80, "Stack": 120, "PickPlaceCan": 160, "PlayLift": 80}


@dataclass(frozen=True)
class CollectSettings:
    """What to collect; the content of the dataset depends on these alone.

    Args:
        env: the environment.
        quality: one of `experts.QUALITIES`.
        n: number of episodes.
        seed: of the dataset.
        horizon: [steps] after which an episode without success is cut; 0: the task's own.
        compress: `gzip`, `lzf` or empty, for images.
    """

    env: envs.EnvSpec
    quality: str = "mixed"
    n: int = 200
    seed: int = 0
    horizon: int = 0
    compress: str = ""

    def __post_init__(self) -> None:
        if self.quality not in experts.QUALITIES:
            raise DatasetError(
                f"quality {self.quality!r}",
                f"one of {', '.join(experts.QUALITIES)}",
                "Choose one of them with --quality.",
            )
        if self.quality == experts.PAIRED and self.env.task not in experts.PAIRED_TASKS:
            raise DatasetError(
                f"quality {self.quality!r} with the environment {self.env.task}",
                f"for this quality one of {', '.join(experts.PAIRED_TASKS)}",
                "Change --quality or --env.",
            )
        bounds = (("n", self.n, 1), ("seed", self.seed, 0), ("horizon", self.horizon, 0))
        for name, value, least in bounds:
            if value < least:
                raise DatasetError(f"--{name} {value}", f"at least {least}", f"Change --{name}.")
        check_compression(self.compress)

    @property
    def steps(self) -> int:
        """The horizon [steps]."""
        return self.horizon or HORIZONS[self.env.task]


def run_episode(env: Any, settings: CollectSettings, index: int) -> dict[str, Any]:
    """Run one episode.

    Args:
        env: a robosuite environment.
        settings: of the dataset.
        index: of the episode.

    Returns:
        `obs`: one array (T + 1, ...) per key, the last one after the last action; `actions`
        (T, 7), `rewards` (T,), `dones` (T,), `states` (T, S), and `attrs`.
    """
    # Both episodes of a pair have the same start and the same noise: they differ from where the
    # behaviours differ.
    key = index // 2 if settings.quality == experts.PAIRED else index
    env_seed, behaviour_seed = np.random.SeedSequence(settings.seed, spawn_key=(key,)).spawn(2)
    rng = np.random.default_rng(behaviour_seed)
    behaviour = experts.draw_behaviour(settings.quality, rng, index)
    expert = experts.EXPERTS[settings.env.task](behaviour, rng)
    seed = int(env_seed.generate_state(1)[0])
    envs.reseed(env, seed)
    raw = env.reset()
    model_file = envs.portable_model_xml(env)
    observations = [envs.read_observation(raw, env)]
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    success = failure = False
    while len(actions) < settings.steps and not (success or failure):
        states.append(env.sim.get_state().flatten())
        actions.append(expert.act(raw))
        raw, reward, _, _ = env.step(actions[-1])
        success = bool(env._check_success())
        failure = envs.has_failed(env) and not success
        rewards.append(float(reward))
        observations.append(envs.read_observation(raw, env))
    dones = np.zeros(len(actions), dtype=np.int64)
    dones[-1] = success or failure
    return {
        "obs": {key: np.stack([obs[key] for obs in observations]) for key in observations[0]},
        "actions": np.array(actions),
        "rewards": np.array(rewards),
        "dones": dones,
        "states": np.array(states),
        "attrs": {
            "model_file": model_file,
            "behaviour": behaviour.name,
            "noise": behaviour.noise,
            "object": expert.grasp.object_key.removesuffix("_pos"),
            "success": success,
            "seed": seed,
        },
    }
