"""The same episodes with one worker process and with several: rollouts and collection."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import robomimic.utils.train_utils as train_utils
import torch

from robomimic_vae_ext.benchmark import peers, timing
from robomimic_vae_ext.data import collect, envs
from robomimic_vae_ext.data.scripted_episode import CollectSettings
from robomimic_vae_ext.rollout import evaluate


class Work(NamedTuple):
    """What a command did."""

    frames: int  # environment steps
    outcome: Any  # the same for any number of workers


@dataclass(frozen=True)
class ScalingPlan:
    """How many episodes are run.

    Args:
        workers: numbers of processes, 1 among them.
        few: episodes of the short command, whose time is nearly all start-up.
        many: episodes of the long command.
        horizon: steps of a rollout.
    """

    workers: tuple[int, ...]
    few: int
    many: int
    horizon: int


def scale(
    run: Callable[[int, int], Work], plan: ScalingPlan, rounds: int, title: str
) -> dict[str, Any]:
    """Time a command with few and with many episodes, for every number of workers.

    The difference of the two times is what the further episodes take once everything runs, without
    the start of processes, simulators and renderers, whose cost does not grow with the episodes.

    Args:
        run: takes workers and episodes; the first of many episodes are the few.
        plan: numbers of both.
        rounds: samples of each.
        title: of the progress bar.

    Returns:
        `few`, `many`: episodes; `few_frames`, `many_frames`; `workers`: number of workers, as text,
        to `few_seconds` and `many_seconds`, one number a round; `same_outcomes`: whether every
        command had the result of the first one with as many episodes.
    """
    works: dict[int, list[Work]] = {plan.few: [], plan.many: []}

    def contender(workers: int, episodes: int) -> timing.Contender:
        def command() -> None:
            works[episodes].append(run(workers, episodes))

        return timing.Contender(f"{workers} workers, {episodes} episodes", command)

    pairs = [(workers, episodes) for workers in plan.workers for episodes in works]
    samples = timing.interleave(
        [contender(*pair) for pair in pairs], rounds, title=title, warm_up=False
    )
    seconds = {
        pair: sample["seconds"] for pair, sample in zip(pairs, samples.values(), strict=True)
    }
    return {
        "few": plan.few,
        "many": plan.many,
        "few_frames": works[plan.few][0].frames,
        "many_frames": works[plan.many][0].frames,
        "workers": {
            str(workers): {
                "few_seconds": seconds[workers, plan.few],
                "many_seconds": seconds[workers, plan.many],
            }
            for workers in plan.workers
        },
        "same_outcomes": all(work == done[0] for done in works.values() for work in done),
    }


def running_seconds(part: dict[str, Any], workers: int) -> float | None:
    """Seconds of the further episodes once everything runs; None where noise is larger."""
    times = part["workers"][str(workers)]
    seconds = timing.median(times["many_seconds"]) - timing.median(times["few_seconds"])
    return seconds if seconds > 0 else None


def measure_rollouts(
    setting: peers.Setting, plan: ScalingPlan, device: torch.device, rounds: int, folder: Path
) -> dict[str, Any]:
    """Evaluate an untrained checkpoint on Lift with pictures.

    Args:
        setting: encoder of the policy.
        plan: episodes and workers.
        device: where the policy computes.
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
        setting: cameras and picture size.
        plan: episodes and workers; every dataset is thrown away.
        rounds: samples of each.
        folder: for the datasets.
    """
    spec = _env_spec(setting)

    def run(workers: int, count: int) -> Work:
        out = folder / "collected.hdf5"
        with contextlib.redirect_stderr(io.StringIO()):
            report = collect.collect(
                CollectSettings(spec, "mixed", count), out, workers, overwrite=True
            )
        out.unlink()
        return Work(report.transitions, report.successes)

    return scale(run, plan, rounds, "collection")


def make_checkpoint(setting: peers.Setting, folder: Path) -> Path:
    """Save an untrained policy as training would: timing needs a policy, not a good one."""
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
    env_args = _env_spec(setting).env_args()
    with contextlib.redirect_stdout(io.StringIO()):
        train_utils.save_model(model, config, env_args, meta, str(path))
    return path


def _env_spec(setting: peers.Setting) -> envs.EnvSpec:
    keys: Sequence[str] = json.loads(setting.config.read_text())["observation"]["modalities"][
        "obs"
    ]["rgb"]
    return envs.EnvSpec(
        "Lift", tuple(key.removesuffix("_image") for key in keys), setting.image_size
    )
