"""From a study's file to its jobs: which there are, in which order, and their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.study import datasets, jobs
from robomimic_vae_ext.study.protocol import Arm, Protocol, Task

_BEST: Final = ("validation", "rollout_return", "rollout_success_rate")
MASKS: Final = {"hdf5_filter_key": "train", "hdf5_validation_filter_key": "valid"}


def all_jobs(study: Protocol) -> list[jobs.Job]:
    """Every job of a study, all of the first seed first: an interrupted study is balanced."""
    return [
        make_job(study, task, arm, seed)
        for seed in study.seeds
        for task in study.tasks
        for arm in study.arms
    ]


def settings(study: Protocol) -> dict[str, str]:
    """Every job's name to its settings."""
    return {job.name: job.settings for job in all_jobs(study)}


def make_job(study: Protocol, task: Task, arm: Arm, seed: int) -> jobs.Job:
    """One job. Datasets of the study are named relative to the job, so that OUT can be moved."""
    training = study.training_of(task, arm)
    collected = f"../../../{datasets.DATASETS_FOLDER}/{task.name}.hdf5"
    return jobs.Job(
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


def _config(study: Protocol, task: Task, arm: Arm, seed: int) -> dict[str, Any]:
    """An arm's config for one job; paths and device are added where it runs."""
    training = study.training_of(task, arm)
    config = merge(_read_config(arm), arm.changes)
    for key, wanted in (("hdf5_normalize_obs", False), ("frame_stack", 1)):
        if config["train"].get(key, wanted) != wanted:
            raise ConfigError(
                f"arms.{arm.name}: train.{key} is {config['train'][key]!r}",
                f"{wanted!r}, since the study gives critics single observations as they are",
                "Change it in the arm's `set`.",
            )
    save: dict[str, Any] = {
        "enabled": True,
        "every_n_epochs": 1,
        "every_n_seconds": None,
        "epochs": [],
    }
    changes = {
        "experiment": {
            "name": jobs.RUN_NAME,
            "validate": True,
            "epoch_every_n_steps": training.steps_per_checkpoint,
            "save": save | {f"on_best_{kind}": False for kind in _BEST},
            "rollout": {"enabled": False},
            "render_video": False,
            "logging": {"log_tb": True},
        },
        "train": MASKS
        | {"num_epochs": training.checkpoints, "batch_size": training.batch_size, "seed": seed},
    }
    return merge(config, changes)


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


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second one winning; neither is changed."""
    merged = dict(deepcopy(base))
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else deepcopy(value)
    return merged


def check_configs(study: Protocol) -> None:
    """Refuse an arm whose config robomimic would refuse, before anything is made.

    Raises:
        ConfigError: unknown algorithm, key or value.
    """
    from robomimic_vae_ext import training_config

    for arm in study.arms:
        job = make_job(study, study.tasks[0], arm, study.seeds[0])
        training_config.config_from(
            job.config, f"arms.{arm.name} ({arm.config.name} with its `set`)"
        )
    for task in study.tasks:
        if task.collect is not None:
            datasets.collect_settings(task)


def select(
    study: Protocol, tasks: Iterable[str], arms: Iterable[str], seeds: Iterable[int]
) -> set[str]:
    """Names of the jobs that the filters leave; an empty filter leaves all.

    Raises:
        ConfigError: a name that the study does not have.
    """
    known: list[tuple[str, list[Any], list[Any]]] = [
        ("--only-task", list(tasks), [task.name for task in study.tasks]),
        ("--only-arm", list(arms), [arm.name for arm in study.arms]),
        ("--only-seed", list(seeds), list(study.seeds)),
    ]
    for flag, asked, there in known:
        for value in asked:
            if value not in there:
                raise ConfigError(f"{flag} {value}", f"one of {there}", "Correct it.")
    wanted = [asked or there for _, asked, there in known]
    return {
        jobs.job_name(task, arm, seed)
        for task in wanted[0]
        for arm in wanted[1]
        for seed in wanted[2]
    }


def prepare(study: Protocol, out: Path, selected: set[str], workers: int) -> list[jobs.Job]:
    """Make what the selected jobs need: their datasets and their folders with job.json.

    Args:
        study: the study.
        out: its folder.
        selected: names of jobs.
        workers: processes that collect.

    Returns:
        The selected jobs in the study's order.

    Raises:
        ConfigError: a folder holds a job of the same name with other settings.
    """
    every = [job for job in all_jobs(study) if job.name in selected]
    for job in every:
        _check_settings(job, out / job.name)
    for task in study.tasks:
        if any(job.task == task.name for job in every):
            datasets.make_dataset(task, out, workers)
    for job in every:
        folder = out / job.name
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / jobs.JOB, asdict(job))
    files.write_text(out / "study.json", study.path.read_text(encoding="utf-8"))
    return every


def _check_settings(job: jobs.Job, folder: Path) -> None:
    """Refuse to go on with a job, or to count its result, that other settings have begun."""
    path = folder / jobs.JOB
    if not path.exists():
        return
    found, wanted = (
        json.loads(json.dumps(asdict(one))) for one in (jobs.read_job(folder), job)
    )  # a file has lists for tuples
    different = [key for key, value in wanted.items() if found.get(key) != value]
    if different:
        raise ConfigError(
            f"{folder} was begun with other settings of {', '.join(different)}",
            "those of the study's file, since results of both do not belong together",
            "Choose another --out, or remove that folder.",
        )
