"""Runs one job of a study: train, measure, roll out, and roll out with z = 0 if it is asked for.

`python -m robomimic_vae_ext.study.run_job FOLDER` runs the job that FOLDER/job.json describes. Its
stages are resumable: a stage's result is a file that appears by one atomic rename, and a killed job
goes on with the first stage whose file is missing. Within rollouts it goes on with the first
episode that is missing, and within the training from its last saved state.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robomimic_vae_ext import files, processes, provenance
from robomimic_vae_ext.errors import ConfigError, VaeExtError
from robomimic_vae_ext.plugin import ALGO_NAME
from robomimic_vae_ext.study.job import (
    EPISODES,
    RESULT,
    RUN_NAME,
    ZERO_LATENT_FILE,
    Job,
    alone,
    checkpoints,
    last_checkpoint,
    read_job,
    run_folder,
    tidy,
)

if TYPE_CHECKING:
    import torch


def run_job(folder: Path, cuda: bool = False) -> dict[str, Any]:
    """Run what is missing of a job.

    Args:
        folder: holds job.json.
        cuda: train, measure and play on a GPU.

    Returns:
        The content of result.json.

    Raises:
        VaeExtError: the job cannot be run, or another process is running it.
    """
    job = read_job(folder)
    with alone(folder):
        if not (folder / RESULT).exists():
            import torch

            if cuda and not torch.cuda.is_available():  # robomimic would use the CPU, silently
                raise ConfigError(
                    "torch finds no GPU for a job that is to train on one",
                    "a GPU that torch can use",
                    "Check the driver and CUDA_VISIBLE_DEVICES, or run the study with --gpus none.",
                )
            torch.set_num_threads(job.threads)
            device = torch.device("cuda" if cuda else "cpu")
            where = (job, folder, device)
            train = _stage(folder / "train.json", lambda: _train(*where), device)
            measured = _stage(folder / "measure.json", lambda: _measure(*where), device)
            rollouts = _stage(folder / "rollouts.json", lambda: _roll_out(*where), device)
            stages = [train, measured, rollouts]
            result = _result(job, folder, *stages)
            if job.evaluation.zero_latent_episodes and result["algo"] == ALGO_NAME:
                path = folder / "zero_latent.json"
                zero = _stage(path, lambda: _zero_latent(*where), device)
                stages.append(zero)
                result["seconds"]["zero_latent"] = zero["seconds"]
                notes = ("seconds", "made")
                result["zero_latent"] = {k: v for k, v in zero.items() if k not in notes}
            files.write_json(folder / RESULT, result | _provenance(stages))
        tidy(folder)
        return dict(json.loads((folder / RESULT).read_text()))


def _stage(path: Path, run: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Result of a stage, from its file or by running it on a device."""
    found = read_stage_result(path)
    if found is None:
        # Before the stage: a commit or an installation may happen while it runs.
        versions = provenance.versions() | {"device": provenance.device_name(device)}
        made = {"versions": versions, "commit": provenance.commit()}
        begin = time.perf_counter()
        result = run()
        # The seconds in a stage's own result win: they include those before an interruption.
        files.write_json(path, {"seconds": time.perf_counter() - begin, "made": made} | result)
        found = dict(json.loads(path.read_text()))
    return found


def read_stage_result(path: Path) -> dict[str, Any] | None:
    """What a stage has written; None if it has not, or if a power failure damaged the file."""
    try:
        return dict(json.loads(path.read_text())) if path.exists() else None
    except (ValueError, TypeError):
        return None


def _provenance(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Commit and versions that stages were made with, all of them where they differ."""
    made = [stage["made"] for stage in stages]
    names = dict.fromkeys(name for it in made for name in it["versions"])
    return {
        "versions": {
            name: join_distinct(it["versions"].get(name) for it in made) for name in names
        },
        "commit": join_distinct(it["commit"] for it in made),
    }


def join_distinct(values: Iterable[str | None]) -> str | None:
    """Different values in their order, joined; None without any."""
    return " and ".join(dict.fromkeys(value for value in values if value)) or None


# ---- train ----


def training_config(job: Job, folder: Path, cuda: bool) -> dict[str, Any]:
    """The job's robomimic config with the paths and the device of this machine."""
    config = dict(job.config)
    config["train"] = config["train"] | {
        "data": str((folder / job.dataset).resolve()),
        "output_dir": str(folder.resolve()),
        "cuda": cuda,
    }
    return config


def _train(job: Job, folder: Path, device: torch.device) -> dict[str, Any]:
    """Train, or go on with an interrupted training: to the bit, on a CPU."""
    from robomimic_vae_ext.training import resume_file, training_run

    config = folder / "config.json"
    files.write_json(config, training_config(job, folder, device.type == "cuda"))
    begun = any(folder.glob(f"{RUN_NAME}/*/{resume_file.NAME}"))
    if not begun:
        shutil.rmtree(folder / RUN_NAME, ignore_errors=True)
    options = training_run.TrainOptions(
        None if begun else str(config),
        resume=str(folder / RUN_NAME) if begun else None,
        device=device.type,
    )
    with _own_threads():
        training_run.train(options)
    checkpoints(job, folder)  # all there?
    return {"seconds": _training_seconds(folder), "precision": _precision(job, device)}


def _precision(job: Job, device: torch.device) -> str:
    """What the encoder's convolutions train in: on `auto`, LAPO's depends on the machine."""
    import torch

    from robomimic_vae_ext.lapo import speed
    from robomimic_vae_ext.training import training_config

    algo = training_config.config_from(job.config, job.name).algo
    choice = algo["speed"].bf16_encoder if "speed" in algo else "off"
    if speed.wants_bf16(choice, device):
        return "bfloat16"
    return "TF32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Keep torch at the job's threads: stock `train` sets two."""
    import torch

    original = torch.set_num_threads
    torch.set_num_threads = lambda nthreads: None
    try:
        yield
    finally:
        torch.set_num_threads = original


def _training_seconds(folder: Path) -> float:
    """Seconds of gradient steps, from the logs: they hold those before an interruption too."""
    from robomimic_vae_ext.analysis import run_metrics

    series = run_metrics.read_run(run_folder(folder))["Timing_Stats/Train_Epoch"]
    return 60.0 * sum(series.values)  # robomimic logs minutes


# ---- measure, roll out, roll out with z = 0 ----


def _measure(job: Job, folder: Path, device: torch.device) -> dict[str, Any]:
    """Held-out values of every checkpoint; empty columns for an algorithm without a critic."""
    from robomimic_vae_ext.analysis import critic_values, run_metrics
    from robomimic_vae_ext.rollout import stored_policy

    held_out, curve = None, []
    for step, path in checkpoints(job, folder).items():
        algo = critic_values.load_policy(stored_policy.load_checkpoint(path), device.type)
        if critic_values.value_function(algo) is None:
            columns = ("critic_error", "auc", "q_mean", "q_std", "correlation")
            curve.append({"step": step} | dict.fromkeys(columns))
            continue
        if held_out is None:
            data = (folder / job.dataset).resolve()
            held_out = critic_values.load_held_out(data, list(algo.obs_shapes))
            returns = held_out.returns(algo.algo_config.discount)
            succeeds = held_out.succeeds()
        q = critic_values.held_out_values(algo, held_out)
        assert q is not None
        curve.append({"step": step} | critic_values.critic_measures(q, returns, succeeds))
    errors = run_metrics.read_run(run_folder(folder)).get("Valid/vae/action_error")
    return {"curve": curve, "action_error": errors.values[-1] if errors else None}


def _roll_out(job: Job, folder: Path, device: torch.device) -> dict[str, Any]:
    """Success, values and returns in the episodes of the last checkpoints."""
    from robomimic_vae_ext.study import job_rollouts

    plan = job.evaluation
    counts = {
        step: plan.final_episodes if step == job.steps else plan.earlier_episodes
        for step in job.rollout_steps
    }
    records = _play_missing(job, folder, device, EPISODES, counts)
    return {
        "seconds": sum(record["seconds"] for record in records),
        "rollouts": [
            job_rollouts.summary(step, [record for record in records if record["step"] == step])
            for step in sorted(job.rollout_steps)
        ],
    }


def _zero_latent(job: Job, folder: Path, device: torch.device) -> dict[str, Any]:
    """Episodes of the last checkpoint with z = 0, and how far its actor moves actions."""
    from robomimic_vae_ext.analysis import actor_shift

    counts = {job.steps: job.evaluation.zero_latent_episodes}
    settings = {"algo.actor.extraction": "zero"}
    records = _play_missing(job, folder, device, ZERO_LATENT_FILE, counts, settings)
    records.sort(key=lambda record: record["index"])
    begin = time.perf_counter()
    data = (folder / job.dataset).resolve()
    shifts = actor_shift.of_checkpoints([last_checkpoint(folder)], data, device=device.type)
    measured = time.perf_counter() - begin
    return {
        "seconds": sum(record["seconds"] for record in records) + measured,
        "success": [int(record["success"]) for record in records],
        **{name: float(shifts[name].iloc[0]) for name in actor_shift.HEADINGS},
    }


def _play_missing(
    job: Job,
    folder: Path,
    device: torch.device,
    name: str,
    counts: Mapping[int, int],
    settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Play the episodes that a file of them lacks, each a line of it as soon as it ends.

    Args:
        job: the job.
        folder: its folder.
        device: of the policy.
        name: of the file.
        counts: gradient steps of a checkpoint to how many episodes it plays.
        settings: other values for the checkpoints' config.

    Returns:
        All episodes, in the order in which they were played.
    """
    from robomimic_vae_ext.overrides import apply
    from robomimic_vae_ext.rollout import stored_policy
    from robomimic_vae_ext.study import job_rollouts

    path = folder / name
    records = job_rollouts.read(path)
    player = None
    for step, count in counts.items():
        played = {record["index"] for record in records if record["step"] == step}
        missing = [index for index in range(count) if index not in played]
        if not missing:
            continue
        path_of = checkpoints(job, folder)
        checkpoint = apply(stored_policy.load_checkpoint(path_of[step]), settings or {})
        discount = json.loads(checkpoint["config"])["algo"].get("discount")
        player = job_rollouts.Player(checkpoint, job.horizon, discount, player, device.type)
        for index in missing:
            begin = time.perf_counter()
            record = {"step": step} | player.play(index, job.evaluation.seed)
            records.append(record | {"seconds": round(time.perf_counter() - begin, 3)})
            job_rollouts.append(path, records[-1])
    return records


# ---- result ----


def _result(job: Job, folder: Path, train: Any, measured: Any, rollouts: Any) -> dict[str, Any]:
    config = json.loads((run_folder(folder) / "config.json").read_text())
    # Names, not paths: a result may be published.
    config["train"]["data"] = Path(job.dataset).name
    config["train"]["output_dir"] = "."
    return {
        "task": job.task,
        "arm": job.arm,
        "seed": job.seed,
        "settings": job.settings,
        "algo": config["algo_name"],
        "steps": job.steps,
        "batch_size": job.batch_size,
        "precision": train["precision"],
        "curve": measured["curve"],
        "rollouts": rollouts["rollouts"],
        "action_error": measured["action_error"],
        "seconds": {
            "train": train["seconds"],
            "measure": measured["seconds"],
            "rollouts": rollouts["seconds"],
        },
        "config": config,
    }


# ---- the process ----


def main(argv: list[str]) -> int:
    """Run one job; the exit code is 0 if it has its result."""
    parser = argparse.ArgumentParser(
        prog="robomimic_vae_ext.study.run_job", description=run_job.__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args(argv)
    processes.end_with_parent(os.getppid())
    logging.basicConfig(level=logging.WARNING)
    import robomimic_vae_ext.robosuite_advice  # noqa: F401

    try:
        run_job(args.folder, args.cuda)
    except VaeExtError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
