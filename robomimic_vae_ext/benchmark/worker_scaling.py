"""The same episodes with one worker process and with several: rollouts and collection."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import robomimic.utils.train_utils as train_utils
import torch

from robomimic_vae_ext.benchmark import peers, timing
from robomimic_vae_ext.data.simulation import collect, envs
from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings
from robomimic_vae_ext.rollout import evaluate


class Work(NamedTuple):
    """Result of a command."""

    frames: int  # environment steps
    outcome: Any  # must not depend on the number of workers


@dataclass(frozen=True)
class ScalingPlan:
    """Numbers of episodes and workers.

    Args:
        workers: numbers of processes, 1 among them.
        few: episodes of the short command, which is mostly start-up.
        many: episodes of the long command.
        horizon: length of a rollout [steps].
    """

    workers: tuple[int, ...]
    few: int
    many: int
    horizon: int


def scale(
    run: Callable[[int, int], Work], plan: ScalingPlan, rounds: int, title: str
) -> dict[str, Any]:
    """Time a command with few and with many episodes, for every number of workers.

    The difference of both times is that of the further episodes, without the start of processes,
    simulators and renderers, which does not depend on the number of episodes.

    Args:
        run: takes workers and episodes; the many episodes begin with the few.
        plan: numbers of both.
        rounds: samples of each.
        title: of the progress bar.

    Returns:
        `few`, `many`: episodes; `few_frames`, `many_frames`; `workers`: number of workers, as text,
        to `few_seconds` and `many_seconds`, one number a round; `same_outcomes`: whether all
        commands with equally many episodes had the same result.
    """
    works: dict[int, list[Work]] = {plan.few: [], plan.many: []}

    def command(workers: int, episodes: int) -> None:
        works[episodes].append(run(workers, episodes))

    contenders = {
        (workers, episodes): timing.Contender(
            f"{workers} workers, {episodes} episodes", partial(command, workers, episodes)
        )
        for workers in plan.workers
        for episodes in works
    }
    samples = timing.interleave(list(contenders.values()), rounds, title=title, warm_up=False)

    def seconds(workers: int, episodes: int) -> list[float]:
        return list(samples[contenders[workers, episodes].name]["seconds"])

    return {
        "few": plan.few,
        "many": plan.many,
        "few_frames": works[plan.few][0].frames,
        "many_frames": works[plan.many][0].frames,
        "workers": {
            str(workers): {
                "few_seconds": seconds(workers, plan.few),
                "many_seconds": seconds(workers, plan.many),
            }
            for workers in plan.workers
        },
        "same_outcomes": all(work == done[0] for done in works.values() for work in done),
    }


def measure_rollouts(
    setting: peers.Setting, plan: ScalingPlan, device: torch.device, rounds: int, folder: Path
) -> dict[str, Any]:
    """Evaluate an untrained checkpoint on Lift with images.

    Args:
        setting: encoder of the policy.
        plan: episodes and workers.
        device: of the policy.
        rounds: samples of each.
        folder: for the checkpoint.
    """
    checkpoint = make_checkpoint(setting, folder)

    def run(workers: int, count: int) -> Work:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            result = evaluate.evaluate(
                checkpoint, count, seed=0, horizon=plan.horizon,
                num_workers=workers, device=str(device),
            )  # fmt: skip
        return Work(
            sum(episode.length for episode in result.episodes),
            [(e.seed, e.success, e.length, e.total_reward) for e in result.episodes],
        )

    return scale(run, plan, rounds, "rollouts") | {"horizon": plan.horizon}


def measure_collection(
    setting: peers.Setting, plan: ScalingPlan, rounds: int, folder: Path
) -> dict[str, Any]:
    """Collect Lift with the setting's cameras.

    Args:
        setting: cameras and image size.
        plan: episodes and workers.
        rounds: samples of each.
        folder: for the datasets, which are deleted.
    """
    spec = _env_spec(setting)

    def run(workers: int, count: int) -> Work:
        out = folder / "collected.hdf5"
        settings = CollectSettings(spec, "mixed", count)
        with contextlib.redirect_stderr(io.StringIO()):
            report = collect.collect(settings, out, workers, overwrite=True)
        out.unlink()
        return Work(report.transitions, report.successes)

    return scale(run, plan, rounds, "collection")


def make_checkpoint(setting: peers.Setting, folder: Path) -> Path:
    """Save an untrained policy as training would: its steps take as long as a trained one's."""
    config = peers.load_config(setting, peers.OURS[0])
    shapes = peers.raw_shapes(config, setting.image_size)
    model = peers.build(config, shapes, torch.device("cpu"))
    meta = {
        "ac_dim": model.ac_dim,
        "all_shapes": peers.processed_shapes(shapes),
        "all_obs_keys": list(shapes),
        "use_images": True,
        "use_depths": False,  # robomimic 0.5.0
    }
    path = folder / "untrained.pth"
    with contextlib.redirect_stdout(io.StringIO()):
        train_utils.save_model(model, config, _env_spec(setting).env_args(), meta, str(path))
    return path


def _env_spec(setting: peers.Setting) -> envs.EnvSpec:
    keys = json.loads(setting.config.read_text())["observation"]["modalities"]["obs"]["rgb"]
    cameras = tuple(key.removesuffix("_image") for key in keys)
    return envs.EnvSpec("Lift", cameras, setting.image_size)
