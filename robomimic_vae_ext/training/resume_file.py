"""`resume.pth` in a run's folder: from what a training is continued after any end.

A dictionary of tensors and plain types:
    config      the config as JSON, with our own keys and absolute paths
    finished    whether the run has reached its end; then nothing below is there
    datasets    [path, bytes, modification time] of each, at the run's start
    versions    of torch, numpy and robomimic
    journal     what robomimic's loop was given so far, one entry per part of an epoch
    epoch       where inside an epoch of training the state is, or None
    model, random, logs, clock     see `model_state`, `random_state`, `run_logs`, `journal`
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import robomimic
import torch

from robomimic_vae_ext import compat, files, runs
from robomimic_vae_ext.errors import CheckpointError, DatasetError, OutputError

NAME: Final = "resume.pth"
FORMAT: Final = 1

State = dict[str, Any]


def write(run: Path, state: State) -> None:
    """Replace a run's state, whole or not at all.

    Raises:
        OutputError: it cannot be written; the one before it is kept.
    """
    path = run / NAME
    try:
        with files.replacing(path) as partial, partial.open("wb") as file:
            torch.save({"format": FORMAT} | state, file)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> OutputError:
    """The error for a file of a run that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return OutputError(
        f"{path} cannot be written ({reason})",
        "space on the disk, and a folder that can be written to",
        "What was saved before is kept: make space, then continue with lapo train --resume and "
        f"the run's folder, {path.parent if path.name == NAME else path.parent.parent}.",
    )


def read(run: Path, peek: bool = False) -> State:
    """A run's state.

    Args:
        run: its folder.
        peek: leave the tensors on the disk until they are looked at.

    Raises:
        CheckpointError: there is none, or the file is not one of ours.
    """
    path = run / NAME
    if not path.is_file():
        raise CheckpointError(
            f"{run} has no {NAME}",
            "a run of `lapo train` that has begun its first step",
            "Start a new run.",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=peek)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__})",
            "a file written by `lapo train`",
            f"Start a new run; the checkpoints in {run / 'models'} can still be evaluated.",
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of another kind or version",
            f"format {FORMAT}, written by `lapo train`",
            "Continue with the version of this package that began the run.",
        )
    return state


def find(folder: Path) -> Path:
    """The run that `--resume FOLDER` means.

    Args:
        folder: of a run, or of an experiment, whose newest unfinished run is taken.

    Raises:
        CheckpointError: there is none.
    """
    folder = folder.expanduser()
    if not folder.is_dir() or runs.is_run(folder) or (folder / NAME).is_file():
        return runs.find_run(folder)
    found = _unfinished(folder)
    if found:
        return found[-1]
    return runs.find_run(folder)  # which may have finished, or says what is wrong


def find_same(experiment: Path, config: Mapping[str, Any]) -> Path | None:
    """The newest unfinished run of an experiment that has this config and is not running."""
    for run in reversed(_unfinished(experiment)):
        if json.loads(read(run, peek=True)["config"]) == config and not _is_locked(run):
            return run
    return None


def _unfinished(experiment: Path) -> list[Path]:
    found = []
    for path in sorted(experiment.glob(f"*/{NAME}")):
        try:
            if not read(path.parent, peek=True)["finished"]:
                found.append(path.parent)
        except CheckpointError:  # of another version, or damaged
            continue
    return found


def lock(run: Path) -> int:
    """Lock a run until the descriptor is closed or this process ends.

    Raises:
        CheckpointError: another process is training it.
    """
    descriptor = os.open(run, os.O_RDONLY)
    if files.try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    raise CheckpointError(
        f"{run} is being trained by another process",
        "a run that has stopped",
        "Wait for it, or start a new run.",
    )


def _is_locked(run: Path) -> bool:
    try:
        os.close(lock(run))
    except CheckpointError:
        return True
    return False


def describe_datasets(config: Any) -> list[list[Any]]:
    """Path, size and modification time of the datasets of a config."""
    found = []
    for path in compat.dataset_paths(config):
        status = os.stat(path)
        found.append([os.path.abspath(path), status.st_size, status.st_mtime_ns])
    return found


def check_datasets(before: list[list[Any]], config: Any) -> None:
    """Refuse to continue a run on other data.

    Raises:
        DatasetError: a dataset was changed since the run began.
    """
    for old, new in zip(before, describe_datasets(config), strict=True):
        if old[1:] != new[1:]:
            raise DatasetError(
                f"{new[0]} has changed since the run began",
                f"the file of {old[1]} bytes, not written to since",
                "Restore it with its modification time (cp -p), or start a new run.",
            )


def versions() -> dict[str, str]:
    """Of what decides the bits of a training."""
    import numpy

    return {
        "robomimic": robomimic.__version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }
