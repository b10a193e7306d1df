"""Folders of training runs: the run and the checkpoint that a path means.

A run's folder holds `models`, `logs` and `videos`; an experiment's folder holds runs, named by the
time at which they began.
"""

from __future__ import annotations

import re
from pathlib import Path

from robomimic_vae_ext.errors import CheckpointError

EPOCH = re.compile(r"model_epoch_(\d+)")


def is_run(path: Path) -> bool:
    """Whether a folder is one of a training run."""
    return (path / "models").is_dir() or (path / "logs").is_dir()


def find_run(path: Path, with_checkpoint: bool = False) -> Path:
    """Return a run's folder.

    Args:
        path: of a run, of a checkpoint in it, or of an experiment, whose newest run is taken and
            printed.
        with_checkpoint: of an experiment's runs, those without a checkpoint are passed over.

    Raises:
        CheckpointError: there is no such folder, or it holds no runs.
    """
    path = path.expanduser()
    if path.is_file() and path.parent.name == "models":
        return path.parent.parent
    if not path.is_dir():
        raise CheckpointError(
            f"there is no folder {path}" if not path.exists() else f"{path} is a file",
            "the folder of a training run or of an experiment",
            "Check the path; `lapo train` prints it at its start and at its end.",
        )
    if is_run(path):
        return path
    found = sorted((child for child in path.iterdir() if is_run(child)), key=lambda run: run.name)
    if not found:
        below = sorted({run.parent.parent for run in path.glob("*/*/models")})
        hint = f"; runs are in {', '.join(map(str, below[:3]))}" if below else ""
        raise CheckpointError(
            f"{path} holds no training runs (looked for {path}/*/models){hint}",
            "the folder of a run or of an experiment",
            "Pass the folder that `lapo train` printed.",
        )
    usable = [run for run in found if _epochs(run)] if with_checkpoint else found
    chosen = usable[-1] if usable else found[-1]
    if len(found) > 1:
        skipped = f"; {found[-1].name} has no checkpoint" if chosen != found[-1] else ""
        print(f"newest of {len(found)} runs in {path}: {chosen.name}{skipped}")
    return chosen


def _epochs(run: Path) -> dict[Path, int]:
    """Checkpoint to its epoch."""
    found = {file: EPOCH.match(file.name) for file in run.glob("models/*.pth")}
    return {file: int(match[1]) for file, match in found.items() if match}


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint's file.

    Args:
        path: a file, which is returned as it is; or a run's or an experiment's folder, whose newest
            checkpoint is taken and printed.

    Raises:
        CheckpointError: there is none.
    """
    path = path.expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(
            f"there is no {path}",
            "a checkpoint (*.pth), or the folder of a training run",
            "Check the path.",
        )
    folder = path.parent if path.name == "models" and path.is_dir() else path
    run = find_run(folder, with_checkpoint=True)
    epochs = _epochs(run)
    if not epochs:
        raise CheckpointError(
            f"{run / 'models'} holds no checkpoint (looked for model_epoch_*.pth)",
            "a run that has saved one",
            "Wait for its first one, look into its log if it has ended, or pass another run.",
        )
    # Of one epoch the plain name comes before those that name why it was saved.
    newest = max(epochs, key=lambda file: (epochs[file], -len(file.name)))
    print(f"newest of {len(epochs)} checkpoints in {run}: {newest.name}")
    return newest
