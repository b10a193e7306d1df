"""The rollouts of robomimic's train.py, played by worker processes."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import robomimic.utils.file_utils as file_utils
import robomimic.utils.log_utils as log_utils
import robomimic.utils.train_utils as train_utils

from robomimic_vae_ext.data.simulation import envs as envs_module
from robomimic_vae_ext.data.simulation.envs import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.errors import ConfigError, SimulationError
from robomimic_vae_ext.rollout import batch_policy, seeded_episode, worker_pool, worker_process

LOGGER: Final = logging.getLogger(__name__)


class TrainingRollouts:
    """Stands in for `train_utils.rollout_with_stats`; its workers live as long as its `with` block.

    Every episode is played by robomimic's own `run_rollout`, so the statistics are robomimic's.
    Differs: episodes have seeds, others in every epoch; `Time_Episode` is still the time that all
    rollouts took together, which is less than the sum of their times.

    Args:
        stock: the function it stands in for, which goes on serving what workers cannot.
        count: of workers for each environment, kept from epoch to epoch.
        scratch: gives the folder for checkpoints and videos while rollouts run, which is made then.
    """

    def __init__(self, stock: Callable[..., Any], count: int, scratch: Callable[[], Path]) -> None:
        self._stock = stock
        # Before a run puts its own in that place, which is for checkpoints that are kept.
        self._save_model = train_utils.save_model
        self._count = count
        self._scratch = scratch
        self._pools: dict[str, worker_pool.Pool] = {}
        self._calls = 0

    def __enter__(self) -> TrainingRollouts:
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        for pool in self._pools.values():
            pool.close()

    def __call__(
        self,
        policy: Any,
        envs: dict[str, Any],
        horizon: int,
        use_goals: bool = False,
        num_episodes: int = 0,
        render: bool = False,
        video_dir: str | None = None,
        video_path: str | None = None,
        epoch: int | None = None,
        video_skip: int = 5,
        terminate_on_success: bool = False,
        verbose: bool = False,
    ) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Roll a policy out; arguments and result are those of robomimic's function."""
        if use_goals or render or video_path is not None:
            LOGGER.warning("rollouts in one process: goals, windows and joint videos need it")
            return self._stock(
                policy, envs, horizon, use_goals=use_goals, num_episodes=num_episodes,
                render=render, video_dir=video_dir, video_path=video_path, epoch=epoch,
                video_skip=video_skip, terminate_on_success=terminate_on_success, verbose=verbose,
            )  # fmt: skip
        logs: dict[str, dict[str, float]] = OrderedDict()
        videos: dict[str, str] = OrderedDict()
        seed = policy.policy.global_config.train.seed
        for key, env in envs.items():
            print(f"rollout: env={env.name}, horizon={horizon}, num_episodes={num_episodes}")
            video = None
            if video_dir is not None:
                suffix = "" if epoch is None else f"_epoch_{epoch}"
                video = Path(video_dir) / f"{key}{suffix}.mp4"
                videos[key] = str(video)
            with _temporary(self._scratch()) as folder:
                tasks = []
                for index, child in enumerate(_seeds(seed, epoch or 0, num_episodes)):
                    part = _part(folder, index) if video else None
                    manner = seeded_episode.TrainingEpisode(terminate_on_success, part, video_skip)
                    tasks.append(worker_process.Task(index, child, manner))
                logs[key] = self._play(policy, key, env, horizon, tasks, folder)
                if video:
                    print(f"video writes to {video}")
                    _join_videos(folder, num_episodes, video)
        return logs, videos

    def _play(
        self,
        policy: Any,
        key: str,
        env: Any,
        horizon: int,
        tasks: list[worker_process.Task],
        folder: Path,
    ) -> dict[str, float]:
        """Play all episodes in one environment; return the means of their statistics."""
        begin = time.time()
        pool = self._pools.setdefault(key, worker_pool.Pool(self._count))
        together = batch_policy.policy_in_parent(policy, wanted=None)
        film = any(task.training and task.training.video for task in tasks)
        with self._checkpoint(policy, env, folder) as path:
            device = str(policy.policy.device)
            setup = worker_process.Setup(
                path, horizon, device, film, policy_in_parent=together is not None
            )
            played = log_utils.custom_tqdm(
                pool.play(setup, tasks, together and together.act), total=len(tasks)
            )
            outcomes = [done.outcome for done in sorted(played, key=lambda done: done.index)]
        means = {
            name: float(np.mean([outcome[name] for outcome in outcomes])) for name in outcomes[0]
        }
        return means | {"Time_Episode": (time.time() - begin) / 60}  # [min], as robomimic's

    @contextlib.contextmanager
    def _checkpoint(self, policy: Any, env: Any, folder: Path) -> Iterator[Path]:
        """The policy as it is now, in a file from which workers build it."""
        algo = policy.policy
        kwargs = env.serialize()["env_kwargs"]
        shapes = {
            "all_shapes": algo.obs_key_shapes,
            "ac_dim": algo.ac_dim,
            "use_images": kwargs["use_camera_obs"],
            "use_depths": kwargs.get("camera_depths", False),
        }
        self._calls += 1  # a new name tells the workers to load it
        path = folder / f"policy_{self._calls}.pth"
        with contextlib.redirect_stdout(io.StringIO()):
            self._save_model(
                algo,
                algo.global_config,
                env.serialize(),
                shapes,
                str(path),
                **batch_policy.normalization_stats(policy),
            )
        try:
            yield path
        finally:
            path.unlink()


def require_robosuite(paths: list[str]) -> None:
    """Check that a dataset's episodes can be repeated from a seed.

    Raises:
        ConfigError: its environment is of another simulator.
    """
    for path in paths:
        kind = file_utils.get_env_metadata_from_dataset(dataset_path=path)["type"]
        if kind != ROBOMIMIC_ENV_TYPE:
            raise ConfigError(
                f"the environment of {path} has robomimic's type {kind}",
                f"type {ROBOMIMIC_ENV_TYPE}, robosuite, for rollouts in processes",
                "Remove experiment.rollout.num_workers.",
            )


def _seeds(seed: int, epoch: int, count: int) -> list[int]:
    """Seeds of one epoch's episodes: never those of another epoch, nor those of an evaluation."""
    children = np.random.SeedSequence([seed, epoch]).spawn(count)
    return [int(child.generate_state(1)[0]) for child in children]


def seeded_rollouts(stock: Callable[..., Any], policy: Any, envs: dict[str, Any], **kw: Any) -> Any:
    """Roll a policy out in this process by robomimic's function, from seeds of its own.

    robosuite's environments take their seed from the operating system, so no two trainings with
    the same `train.seed` had the same rollouts. Environments of other simulators are not seeded.

    Args:
        stock: robomimic's `rollout_with_stats`.
        policy: to roll out.
        envs: name to robomimic's environment.
        **kw: for `stock`; `epoch` is part of the seed.
    """
    seed = policy.policy.global_config.train.seed
    for env, child in zip(envs.values(), _seeds(seed, kw["epoch"] or 0, len(envs)), strict=True):
        inner = seeded_episode.base_env(env)
        if hasattr(getattr(inner, "rng", None), "bit_generator"):
            envs_module.reseed(inner, child)
    return stock(policy=policy, envs=envs, **kw)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _part(folder: Path, index: int) -> Path:
    """Video of one episode."""
    return folder / f"episode_{index}.mp4"


def _join_videos(folder: Path, count: int, whole: Path) -> None:
    """Put the episodes' videos one after the other, without encoding them again.

    Raises:
        SimulationError: ffmpeg could not.
    """
    import imageio_ffmpeg  # type: ignore[import-untyped]

    parts = [_part(folder, index) for index in range(count)]
    names = folder / "episodes.txt"
    names.write_text("".join(f"file '{part}'\n" for part in parts))
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "concat", "-safe", "0",
        "-i", str(names), "-c", "copy", str(whole),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise SimulationError(
            f"ffmpeg could not write {whole} ({result.stderr.strip()})",
            "the videos of all episodes in one",
            "Set experiment.render_video to false, or look for space on the disk.",
        )
