"""One policy, one environment, seeded episodes: what happens in each."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import robomimic.utils.file_utils as file_utils
import robomimic.utils.train_utils as train_utils
import torch

from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.errors import CheckpointError, ConfigError, SimulationError
from robomimic_vae_ext.rollout import stored_policy

VIDEO_SIZE = 256  # height and width of a video frame [pixel]
HOLD_FRAMES = 10  # the last frame stays for half a second, so that the end of an episode shows


@dataclass(frozen=True)
class Episode:
    """Outcome of one episode."""

    index: int
    seed: int
    success: bool
    length: int  # environment steps
    total_reward: float
    seconds: float  # wall time, informative only


@dataclass(frozen=True)
class TrainingEpisode:
    """How stock training plays an episode.

    Args:
        terminate_on_success: whether it ends there.
        video: file for the episode's pictures; None for no pictures.
        video_skip: every how many steps a picture is taken.
    """

    terminate_on_success: bool = False
    video: Path | None = None
    video_skip: int = 5


def episode_seed(seed: int, index: int) -> int:
    """Seed of one episode, whoever runs it: the children of a SeedSequence never coincide."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


class Runner:
    """A policy from a checkpoint and its environment, ready to play seeded episodes.

    Args:
        checkpoint: from `stored_policy.load_checkpoint`.
        horizon: steps after which an episode has failed; None takes the config's.
        device: torch device name; None takes the GPU if the checkpoint's config asks for one.
        film: whether `play` will be asked for pictures.
        make_policy: given the config, sets up robomimic's observation modalities and returns a
            policy that acts instead of the checkpoint's.
        env: environment of an earlier runner for a checkpoint of the same run.

    Raises:
        CheckpointError: the policy needs goals, or another simulator than robosuite.
        SimulationError: pictures are needed and cannot be rendered, or the environment cannot be
            made.
        ConfigError: the horizon is no number of steps.
    """

    def __init__(
        self,
        checkpoint: dict[str, Any],
        horizon: int | None = None,
        device: str | None = None,
        film: bool = False,
        make_policy: Callable[[Any], Any] | None = None,
        env: Any = None,
    ) -> None:
        kind = checkpoint["env_metadata"]["type"]
        if kind != envs.ROBOMIMIC_ENV_TYPE:
            raise CheckpointError(
                f"the environment of the checkpoint has robomimic's type {kind}",
                f"type {envs.ROBOMIMIC_ENV_TYPE}, robosuite",
                "Use robomimic's run_trained_agent.py, which sets no seed per episode.",
            )
        config, _ = file_utils.config_from_checkpoint(ckpt_dict=checkpoint)
        self.horizon = horizon or config.experiment.rollout.horizon
        if not isinstance(self.horizon, int) or self.horizon < 1:
            raise ConfigError(
                f"experiment.rollout.horizon is {self.horizon!r} in the checkpoint's config",
                "a number of steps from 1",
                "Pass --horizon.",
            )
        self._shapes = checkpoint["shape_metadata"].get("all_shapes", {})
        if film or checkpoint["shape_metadata"]["use_images"]:
            envs.require_rendering()
        with contextlib.redirect_stdout(io.StringIO()), envs.quiet_robosuite():
            # Before the environment, which reads the observation modalities set up on the way.
            self.policy = (
                make_policy(config)
                if make_policy
                else stored_policy.load_policy(checkpoint, device)
            )
            self.env = env
            if env is None:
                self.env = _make_env(checkpoint, film)
        if config.use_goals:
            raise CheckpointError(
                "the policy is goal-conditioned",
                "a policy without goals (robosuite environments have none to give)",
                "Train without observation.modalities.goal to evaluate in robosuite.",
            )

    def play(
        self,
        index: int,
        seed: int,
        on_frame: Callable[[np.ndarray], None] | None = None,
        on_step: Callable[[dict[str, np.ndarray], np.ndarray, float], None] | None = None,
    ) -> Episode:
        """Play one episode until success or the horizon.

        Args:
            index: number of the episode.
            seed: sets the initial state, and the noise of policies that sample actions.
            on_frame: receives a picture (256, 256, 3) uint8 after every step.
            on_step: receives observation, the action (A,) chosen there, and its reward.
        """
        begin = time.perf_counter()
        self._reseed(seed)
        self.policy.start_episode()
        obs = self.env.reset()
        self._check_observations(obs)
        total, success, step = 0.0, False, 0
        while step < self.horizon and not success:
            action = self.policy(ob=obs)
            next_obs, reward, _, _ = self.env.step(action)
            if on_step is not None:
                on_step(obs, action, float(reward))
            obs = next_obs
            total += float(reward)
            step += 1
            success = bool(self.env.is_success()["task"])
            if on_frame is not None:
                frame = self.env.render(mode="rgb_array", height=VIDEO_SIZE, width=VIDEO_SIZE)
                last = success or step == self.horizon
                for _ in range(HOLD_FRAMES if last else 1):
                    on_frame(frame)
        return Episode(index, seed, success, step, total, time.perf_counter() - begin)

    def play_in_training(self, seed: int, episode: TrainingEpisode) -> dict[str, float]:
        """Play one episode by robomimic's own `run_rollout`, with a seed.

        Args:
            seed: as in `play`.
            episode: how.

        Returns:
            What `run_rollout` returns (`Return`, `Horizon`, `Success_Rate`, ...) and `time` [s].
        """
        import imageio

        begin = time.time()
        self._reseed(seed)
        with contextlib.ExitStack() as stack:
            writer = None
            if episode.video is not None:
                writer = stack.enter_context(imageio.get_writer(episode.video, fps=20))
            results: dict[str, float] = train_utils.run_rollout(
                policy=self.policy,
                env=self.env,
                horizon=self.horizon,
                video_writer=writer,
                video_skip=episode.video_skip,
                terminate_on_success=episode.terminate_on_success,
            )
        return results | {"time": time.time() - begin}

    def _check_observations(self, obs: dict[str, np.ndarray]) -> None:
        """Refuse an environment that does not show what the policy was trained on."""
        for key, shape in self._shapes.items():
            there = obs[key].shape if key in obs else None
            # Since robomimic 0.5.0 it is the policy that turns pictures (H, W, C) into (C, H, W).
            raw = (*shape[1:], shape[0]) if len(shape) == 3 else tuple(shape)
            # Frames may be stacked before it.
            if there is None or there[len(there) - len(shape) :] not in (tuple(shape), raw):
                raise CheckpointError(
                    f"the environment shows {f'{key} of shape {there}' if there else f'no {key}'}",
                    f"{key} of shape {tuple(shape)}, on which the policy was trained",
                    "Evaluate with the environment, cameras and robosuite of the dataset.",
                )

    def _reseed(self, seed: int) -> None:
        np.random.seed(seed)
        torch.manual_seed(seed)
        envs.reseed(base_env(self.env), seed)


def _make_env(checkpoint: dict[str, Any], film: bool) -> Any:
    """The checkpoint's environment.

    Raises:
        SimulationError: the installed robosuite cannot make it.
    """

    def refuse(reason: str) -> SimulationError:
        name = checkpoint["env_metadata"].get("env_name")
        return SimulationError(
            f"the environment '{name}' of the checkpoint cannot be made ({reason})",
            "one that the installed robosuite can make",
            "Install the robosuite of the dataset, or import what registers that environment.",
        )

    with envs.bare_errors(refuse):
        return file_utils.env_from_checkpoint(ckpt_dict=checkpoint, render_offscreen=film)[0]


def base_env(env: Any) -> Any:
    """The robosuite environment inside robomimic's wrappers."""
    while hasattr(env, "env"):
        env = env.env
    return env


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread in this process while the block lasts.

    A batch of one observation gains nothing from more, and with the same number of threads in every
    process the same sums come out of the policy, to the bit.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
