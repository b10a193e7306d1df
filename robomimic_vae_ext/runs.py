"""Finds the newest run or checkpoint below a path that a user gives."""

from __future__ import annotations

from pathlib import Path

from robomimic_vae_ext.errors import CheckpointError, DatasetError


def find_run(path: Path) -> Path:
    """The time-stamped folder of a run; of several the newest, and a line says which.

    Args:
        path: a run's folder, its experiment's folder, or a checkpoint of the run.

    Raises:
        DatasetError: there is no run.
    """
    if path.is_file():
        path = path.parent.parent if path.parent.name == "models" else path.parent
    if (path / "logs").is_dir():
        return path
    found = sorted(logs.parent for logs in path.glob("*/logs") if logs.is_dir())
    if not found:
        raise DatasetError(
            f"{path} holds no run" if path.is_dir() else f"there is no folder {path}",
            "the folder of a robomimic run or of its experiment",
            "Correct the path.",
        )
    print(f"run: {found[-1]}", flush=True)
    return found[-1]


def find_checkpoint(path: Path) -> Path:
    """A checkpoint; of a run's or an experiment's folder the newest, and a line says which.

    Args:
        path: a checkpoint, a run's folder, or its experiment's folder.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if not path.is_dir():
        return path
    found = [*path.glob("models/*.pth"), *path.glob("*/models/*.pth")]
    if not found:
        raise CheckpointError(
            f"{path} holds no checkpoint", "a run's folder with models/*.pth", "Correct the path."
        )
    newest = max(found, key=lambda file: file.stat().st_mtime)
    print(f"checkpoint: {newest}", flush=True)
    return newest
