"""One job of a study (a task, an arm, a seed): its config, its identity, and its folder.

job.json, log.txt
training/TIME/       robomimic's run folder; of its checkpoints, only the last is kept
train.json, measure.json, rollouts.jsonl, rollouts.json, zero_latent.jsonl, zero_latent.json
result.json          all of it; the job is done
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import CheckpointError, ConfigError
from robomimic_vae_ext.study.study_file import DATASETS_FOLDER, Arm, Evaluation, Study, Task

JOB: Final = "job.json"
RESULT: Final = "result.json"
LOG: Final = "log.txt"
EPISODES: Final = "rollouts.jsonl"
ZERO_LATENT_FILE: Final = "zero_latent.jsonl"
RUN_NAME: Final = "training"  # robomimic's experiment name, and so the folder's
#: Keys of a config on which no result depends: paths, the device, what is written where, how the
#: data are stored, and the audit, which only watches.
NOT_SETTINGS: Final = (
    "experiment", "meta", "train.data", "train.output_dir", "train.cuda", "algo.replay",
    "algo.audit",
)  # fmt: skip
LOCK_PATIENCE: Final = 15.0  # [s] in which a job whose scheduler was killed has stopped too
_BEST: Final = ("validation", "rollout_return", "rollout_success_rate")


@dataclass(frozen=True)
class Job:
    """Everything a job depends on, and nothing about the machine that it runs on.

    Args:
        task: name of the task.
        arm: name of the arm.
        seed: of the training.
        dataset: path; a relative one is relative to the job's folder.
        collect: how the study collected that dataset; None for a file of the user's.
        horizon: of the rollouts [steps].
        steps: gradient steps.
        steps_per_checkpoint: gradient steps between two checkpoints.
        batch_size: transitions.
        threads: of torch.
        evaluation: the rollouts.
        config: whole robomimic config: the algorithm's defaults, the arm's file, its `set`.
    """

    task: str
    arm: str
    seed: int
    dataset: str
    collect: Mapping[str, Any] | None
    horizon: int
    steps: int
    steps_per_checkpoint: int
    batch_size: int
    threads: int
    evaluation: Evaluation
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The job's folder below the study's, and its name in messages."""
        return job_name(self.task, self.arm, self.seed)

    @property
    def settings(self) -> str:
        """Twelve digits that identify everything a result depends on (a hash of `flat_settings`).

        Of a dataset its name counts, and how it was collected.
        """
        text = json.dumps(flat_settings(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def rollout_steps(self) -> tuple[int, ...]:
        """Gradient steps of the checkpoints that are rolled out; the last one first."""
        count = self.evaluation.earlier_checkpoints + 1
        return tuple(self.steps - back * self.steps_per_checkpoint for back in range(count))


def flat_settings(job: Job) -> dict[str, Any]:
    """Dotted key to value of everything that a job's result depends on, defaults included."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if prefix.removeprefix("config.") in NOT_SETTINGS:
            return
        if isinstance(value, Mapping) and value:
            for key, entry in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), entry)
        else:
            flat[prefix] = value

    # Through JSON, as job.json has it: lists for tuples.
    add("", json.loads(json.dumps(asdict(job) | {"dataset": Path(job.dataset).name})))
    return flat


def job_name(task: str, arm: str, seed: int) -> str:
    """`Job.name` of a task, an arm and a seed."""
    return f"{task}/{arm}/seed_{seed}"


# ---- from a study to its jobs ----


def all_jobs(study: Study) -> list[Job]:
    """Every job of a study, all of the first seed first: an interrupted study is balanced.

    Raises:
        ConfigError: an arm has an unknown algorithm, key or value.
    """
    return [
        make_job(study, task, arm, seed)
        for seed in study.seeds
        for task in study.tasks
        for arm in study.arms
    ]


def make_job(study: Study, task: Task, arm: Arm, seed: int) -> Job:
    """One job. Collected datasets are named relative to it, so that the study can be moved."""
    training = study.training_of(task, arm)
    collected = f"../../../{DATASETS_FOLDER}/{task.name}.hdf5"
    return Job(
        task=task.name,
        arm=arm.name,
        seed=seed,
        dataset=str(task.dataset.resolve()) if task.dataset else collected,
        collect=task.collect,
        horizon=task.horizon,
        steps=training.steps,
        steps_per_checkpoint=training.steps_per_checkpoint,
        batch_size=training.batch_size,
        threads=training.threads,
        evaluation=study.evaluation,
        config=_config(study, task, arm, seed),
    )


def _config(study: Study, task: Task, arm: Arm, seed: int) -> dict[str, Any]:
    """The resolved config of one job; paths and device are added where it runs."""
    from robomimic_vae_ext.training import training_config

    training = study.training_of(task, arm)
    given = _merge(_read_config(arm), arm.changes)
    for key, needed in (("hdf5_normalize_obs", False), ("frame_stack", 1)):
        if given["train"].get(key, needed) != needed:
            raise ConfigError(
                f"arms.{arm.name}: train.{key} is {given['train'][key]!r}",
                f"{needed!r}, since critics are measured on single, unnormalised observations",
                "Change it in the arm's `set`.",
            )
    save: dict[str, Any] = {
        "enabled": True,
        "every_n_epochs": 1,
        "every_n_seconds": None,
        "epochs": [],
    }
    of_study = {
        "experiment": {
            "name": RUN_NAME,
            "validate": True,
            "epoch_every_n_steps": training.steps_per_checkpoint,
            "save": save | {f"on_best_{kind}": False for kind in _BEST},
            "rollout": {"enabled": False},
            "render_video": False,
            "logging": {"log_tb": True},
        },
        "train": {
            "data": None,
            "output_dir": None,
            "hdf5_filter_key": "train",
            "hdf5_validation_filter_key": "valid",
            "num_epochs": training.checkpoints,
            "batch_size": training.batch_size,
            "seed": seed,
        },
    }
    source = f"arms.{arm.name} ({arm.config.name} with its `set`)"
    resolved = training_config.config_from(_merge(given, of_study), source)
    return dict(json.loads(resolved.dump()))


def _read_config(arm: Arm) -> dict[str, Any]:
    try:
        config = json.loads(arm.config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"arms.{arm.name}: {arm.config} is not JSON ({error})", "a config", "Correct the file."
        ) from error
    if not isinstance(config, dict) or "algo_name" not in config:
        raise ConfigError(
            f"arms.{arm.name}: {arm.config} has no 'algo_name'", "a robomimic config", "Add it."
        )
    for where, values in ((arm.config, config), ("its `set`", arm.changes)):
        if not isinstance(values.get("train", {}), dict):
            raise ConfigError(
                f"arms.{arm.name}: train is {values['train']!r} in {where}",
                "a section of the config",
                "Correct it.",
            )
    return {"train": {}} | config


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second one winning; neither is changed."""
    merged = dict(deepcopy(base))
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else deepcopy(value)
    return merged


# ---- a job's folder ----


def read_job(folder: Path) -> Job:
    """Read the job of a folder.

    Raises:
        ConfigError: there is none, or it is not one of this version.
    """
    path = folder / JOB
    try:
        values = json.loads(path.read_text())
        return Job(**values | {"evaluation": Evaluation(**values["evaluation"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error})", "a job of a study", "Start it by `lapo study`."
        ) from error


def check_folder(job: Job, folder: Path) -> None:
    """Refuse a folder that was begun with other settings.

    Raises:
        ConfigError: its job.json differs, or cannot be read.
    """
    if not (folder / JOB).exists():
        return
    before, now = flat_settings(read_job(folder)), flat_settings(job)
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if keys:
        first = f"{keys[0]} = {before.get(keys[0])!r}, now {now.get(keys[0])!r}"
        more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise ConfigError(
            f"{folder} was begun with other settings ({first}{more})",
            "those of the study file and of today's defaults, since results of both cannot be "
            "pooled",
            "Choose another --out, or remove that folder.",
        )


def write_job(job: Job, folder: Path) -> None:
    """Make a job's folder with its job.json."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / JOB, asdict(job))


def run_folder(folder: Path) -> Path:
    """robomimic's run folder of a job.

    Raises:
        CheckpointError: the job has not been trained.
    """
    models = _models(folder)
    if not models:
        raise CheckpointError(f"{folder} has no training run", "one", "Run the study first.")
    return models[-1].parent


def _models(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{RUN_NAME}/*/models"))


def checkpoints(job: Job, folder: Path) -> dict[int, Path]:
    """Every checkpoint by its gradient steps.

    Raises:
        CheckpointError: one is missing.
    """
    models = run_folder(folder) / "models"
    by_step = {}
    for path in models.glob("model_epoch_*.pth"):
        match = re.fullmatch(r"model_epoch_(\d+)", path.stem)
        if match:
            by_step[int(match[1]) * job.steps_per_checkpoint] = path
    steps = range(job.steps_per_checkpoint, job.steps + 1, job.steps_per_checkpoint)
    missing = [step for step in steps if step not in by_step]
    if missing:
        raise CheckpointError(
            f"{models} lacks the checkpoint of step {missing[0]}",
            f"one every {job.steps_per_checkpoint} steps up to {job.steps}",
            "Remove the job's folder and run the study again.",
        )
    return {step: by_step[step] for step in steps}


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished job keeps."""
    job = read_job(folder)
    epoch = job.steps // job.steps_per_checkpoint
    return run_folder(folder) / "models" / f"model_epoch_{epoch}.pth"


def tidy(folder: Path) -> None:
    """Remove what a finished job no longer needs: all checkpoints but the last."""
    if not _models(folder):  # merged from another machine, or removed by the user
        return
    keep = last_checkpoint(folder)
    for path in (*keep.parent.glob("*.pth"), *keep.parents[1].glob("*.pth")):
        if path != keep:
            path.unlink()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the job's lock, which the system releases however the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        deadline = time.monotonic() + LOCK_PATIENCE
        while not files.try_lock(file):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{folder} is locked by another process",
                    "one process for every job",
                    "Wait for it, or stop it.",
                )
            time.sleep(0.5)
        yield
