"""The datasets of a study: those to collect are made once, and recognised afterwards."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.errors import ConfigError, VaeExtError
from robomimic_vae_ext.study.protocol import DATASETS_FOLDER, Task


def dataset_path(task: Task, out: Path) -> Path:
    """Where a task's dataset is, or will be."""
    return task.dataset or out / DATASETS_FOLDER / f"{task.name}.hdf5"


def collect_settings(task: Task) -> Any:
    """What to collect for a task, as `data.collect` wants it.

    Raises:
        ConfigError: the collector cannot use a value.
    """
    from robomimic_vae_ext.data.envs import EnvSpec
    from robomimic_vae_ext.data.scripted_episode import CollectSettings

    values = dict(task.collect or {})
    spec = {
        "task": values.pop("env"),
        "cameras": tuple(values.pop("cameras", ())),
    } | {key: values.pop(key) for key in ("size", "rendering") if key in values}
    try:
        return CollectSettings(EnvSpec(**spec), **values)
    except (VaeExtError, TypeError) as error:
        raise ConfigError(
            f"tasks.{task.name}.collect: {error}".rstrip("."),
            "what `lapo collect` takes",
            "Change it in the study's file.",
        ) from error


def make_dataset(task: Task, out: Path, workers: int) -> Path:
    """Collect a task's dataset, unless it is there.

    Args:
        task: one with `collect` or with `dataset`.
        out: the study's folder.
        workers: processes.

    Raises:
        ConfigError: the file that is there was collected otherwise.
        VaeExtError: the collection failed.
    """
    path = dataset_path(task, out)
    if task.collect is None:
        return path
    settings = collect_settings(task)
    if path.exists():
        wanted = json.loads(json.dumps(asdict(settings) | {"horizon": settings.steps}))
        found = hdf5.collected_as(path)
        if found != wanted:
            raise ConfigError(
                f"{path} was collected with other settings ({found})",
                f"those of the study ({wanted})",
                "Choose another --out, or remove the file and the results that were made from it.",
            )
        return path
    from robomimic_vae_ext.data.collect import collect

    print(collect(settings, path, workers, resume=True).describe(), flush=True)
    return path
