"""One job of a study (one arm, task and seed) and its folder.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import CheckpointError, ConfigError
from robomimic_vae_ext.study.protocol import Evaluation

JOB: Final = "job.json"
RESULT: Final = "result.json"
LOG: Final = "log.txt"
EPISODES: Final = "rollouts.jsonl"
ZERO_LATENT_FILE: Final = "zero_latent.jsonl"
OF_THE_MACHINE: Final = ("data", "output_dir", "cuda")  # keys of `train`, set where a job runs
RUN_NAME: Final = "training"  # robomimic's experiment name, and so the folder's
LOCK_PATIENCE: Final = 15.0  # [s] in which a job whose runner was killed has stopped too


@dataclass(frozen=True)
class Job:
    """What a job depends on, and nothing about the machine that it runs on.

    Args:
        task: name of the task.
        arm: name of the arm.
        seed: of the training.
        dataset: path; a relative one is relative to the job's folder.
        collect: how the study collected that dataset; None for one that was there.
        horizon: of the rollouts [steps].
        steps: gradient steps.
        steps_per_checkpoint: gradient steps between two checkpoints.
        batch_size: transitions.
        threads: of torch.
        evaluation: the rollouts.
        config: robomimic config without paths.
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
        """The job's folder below the study's, and what people are shown."""
        return job_name(self.task, self.arm, self.seed)

    @property
    def settings(self) -> str:
        """Twelve digits that stand for all of this, but for paths and the device.

        Of a dataset its name counts, and how it was collected. What the config leaves to its
        algorithm's defaults is not in it: a result names its commit and versions.
        """
        values = asdict(self) | {"dataset": Path(self.dataset).name}
        if not self.evaluation.zero_latent_episodes:  # results older than it stay what they are
            del values["evaluation"]["zero_latent_episodes"]
        values["config"]["train"] = {
            key: value for key, value in self.config["train"].items() if key not in OF_THE_MACHINE
        }
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def rollout_steps(self) -> tuple[int, ...]:
        """Gradient steps of the checkpoints that are rolled out; the last one first."""
        count = self.evaluation.earlier_checkpoints + 1
        return tuple(self.steps - back * self.steps_per_checkpoint for back in range(count))


def job_name(task: str, arm: str, seed: int) -> str:
    """`Job.name` of a job that is not there."""
    return f"{task}/{arm}/seed_{seed}"


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
            f"{path} cannot be read ({error})", "a job of a study", "Start it by compare.py."
        ) from error


def run_folder(folder: Path) -> Path:
    """robomimic's run folder of a job.

    Raises:
        CheckpointError: the job has not been trained.
    """
    found = _models(folder)
    if not found:
        raise CheckpointError(f"{folder} has no training run", "one", "Run the study first.")
    return found[-1].parent


def has_run(folder: Path) -> bool:
    """Whether robomimic's run folder is there; of a finished job it may be removed."""
    return bool(_models(folder))


def _models(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{RUN_NAME}/*/models"))


def checkpoints(job: Job, folder: Path) -> dict[int, Path]:
    """Every checkpoint by its gradient steps.

    Raises:
        CheckpointError: one is missing.
    """
    models = run_folder(folder) / "models"
    found = {}
    for path in models.glob("model_epoch_*.pth"):
        match = re.fullmatch(r"model_epoch_(\d+)", path.stem)
        if match:
            found[int(match[1]) * job.steps_per_checkpoint] = path
    wanted = range(job.steps_per_checkpoint, job.steps + 1, job.steps_per_checkpoint)
    missing = [step for step in wanted if step not in found]
    if missing:
        raise CheckpointError(
            f"{models} lacks the checkpoint of step {missing[0]}",
            f"one every {job.steps_per_checkpoint} steps up to {job.steps}",
            "Remove the job's folder and run the study again.",
        )
    return {step: found[step] for step in wanted}


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished job keeps."""
    job = read_job(folder)
    return (
        run_folder(folder) / "models" / f"model_epoch_{job.steps // job.steps_per_checkpoint}.pth"
    )


def tidy(folder: Path) -> None:
    """Remove what a finished job needs no longer: all checkpoints but the last."""
    if not has_run(folder):
        return
    keep = last_checkpoint(folder)
    for path in (*keep.parent.glob("*.pth"), *keep.parents[1].glob("*.pth")):
        if path != keep:
            path.unlink()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the job's lock, which the system takes back however the process ends."""
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
