"""From nothing to an evaluated policy: the commands a user would type, one after the other.

Every step is a command of its own, printed before it runs. Dataset and training are skipped if
their results are there: an interrupted demo goes on (unfinished training starts again), but never
with the data of another one, such as its own miniature.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robomimic_vae_ext import processes, shipped_configs
from robomimic_vae_ext.errors import VaeExtError
from robomimic_vae_ext.files import write_json

CONFIG = "vae_joint"  # the shipped config that studies/README.md advises
DATA_SEED = 0
EVALUATION_SEED = 0  # never used to choose a hyperparameter


class DemoError(VaeExtError):
    """A step of the demo failed."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    episodes: int  # demonstrations to collect
    epochs: int
    steps_per_epoch: int
    rollouts: int  # during training, half-way and at its end
    evaluations: int
    batch_size: int


FULL = Size(episodes=200, epochs=6, steps_per_epoch=250, rollouts=5, evaluations=20, batch_size=128)
FAST = Size(episodes=16, epochs=2, steps_per_epoch=40, rollouts=2, evaluations=4, batch_size=16)


@dataclass(frozen=True)
class Files:
    """Where everything goes."""

    folder: Path

    @property
    def dataset(self) -> Path:
        """Demonstrations."""
        return self.folder / "lift_mixed.hdf5"

    @property
    def config(self) -> Path:
        """`CONFIG` with this demo's paths and lengths."""
        return self.folder / "config.json"

    @property
    def runs(self) -> Path:
        """robomimic's output_dir."""
        return self.folder / "runs"

    @property
    def result(self) -> Path:
        """Evaluation, every episode."""
        return self.folder / "evaluation.json"

    @property
    def video(self) -> Path:
        """The first evaluation episodes."""
        return self.folder / "policy.mp4"

    @property
    def figure(self) -> Path:
        """Training curves."""
        return self.folder / "training_curves.png"

    def finished_run(self, epochs: int) -> Path | None:
        """Folder of the latest run that saved its last checkpoint."""
        found = self.runs.glob(f"*/*/models/model_epoch_{epochs}*.pth")
        return max((path.parent.parent for path in found), default=None)


def run(folder: Path, fast: bool = False, workers: int = 2) -> None:
    """Run the whole demo and print a summary.

    Args:
        folder: everything is written below it.
        fast: a miniature of the same path, which learns nothing.
        workers: processes for collection and evaluation.

    Raises:
        DemoError: a step failed and has printed its error message, or the folder holds another
            demo.
    """
    begin = time.perf_counter()
    size, files = (FAST if fast else FULL), Files(folder.absolute())
    if files.folder.exists() and not files.folder.is_dir():
        raise DemoError(f"{files.folder} is a file", "a folder", "Choose another --out.")
    files.folder.mkdir(parents=True, exist_ok=True)
    if files.dataset.exists():
        check_dataset(files.dataset, size)
    else:
        _lapo(
            "collect", "--env", "Lift", "--quality", "mixed",
            "--n", size.episodes, "--cameras", "agentview", "robot0_eye_in_hand", "--size", 84,
            "--seed", DATA_SEED, "--workers", workers, "--resume", "--out", files.dataset,
        )  # fmt: skip
    if files.finished_run(size.epochs) is None:
        if files.runs.exists():
            # Stock train.py would ask what to do with it, and nobody may be there to answer.
            files.runs.rename(files.folder / f"unfinished_runs_{int(time.time())}")
        write_config(files, size)
        # Stock robomimic, unmodified: it finds the plugin by itself.
        _stock("robomimic.scripts.train", "--config", files.config)
    run_folder = files.finished_run(size.epochs)
    if run_folder is None:
        raise DemoError(
            "training stopped before its last checkpoint",
            f"model_epoch_{size.epochs}*.pth below {files.runs}",
            "Read the error above (stock train.py exits 0 even then), then run the demo again.",
        )
    checkpoint = next((run_folder / "models").glob(f"model_epoch_{size.epochs}*.pth"))
    _lapo(
        "evaluate", checkpoint, "--n", size.evaluations,
        "--seed", EVALUATION_SEED, "--workers", workers, "--video", files.video,
        "--video-episodes", min(4, size.evaluations), "--out", files.result, "--overwrite",
    )  # fmt: skip
    _lapo("plot", run_folder, "--out", files.figure, "--overwrite")
    print(summary(files, checkpoint, time.perf_counter() - begin, fast))


def check_dataset(path: Path, size: Size) -> None:
    """Check that a dataset which is there already is what this demo would collect.

    Raises:
        DemoError: it is of another size, as after `--fast`, or not of the demo at all.
    """
    from robomimic_vae_ext.data.hdf5 import collected_as

    wanted = {"n": size.episodes, "quality": "mixed", "seed": DATA_SEED}
    settings = collected_as(path) or {}
    found = {key: settings.get(key) for key in wanted}
    if found != wanted:
        raise DemoError(
            f"{path} has {_listed(found)}",
            f"this demo's own dataset, with {_listed(wanted)}",
            "Choose another --out: a folder holds one demo, --fast or not.",
        )


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def write_config(files: Files, size: Size) -> None:
    """Write `CONFIG` with the demo's paths and lengths."""
    config: dict[str, Any] = json.loads(shipped_configs.find(CONFIG).read_text())
    config["experiment"]["epoch_every_n_steps"] = size.steps_per_epoch
    config["experiment"]["save"]["every_n_epochs"] = size.epochs
    config["experiment"]["rollout"].update(n=size.rollouts, rate=size.epochs // 2)
    config["train"].update(
        data=str(files.dataset),
        output_dir=str(files.runs),
        num_epochs=size.epochs,
        batch_size=size.batch_size,
    )
    write_json(files.config, config)


def summary(files: Files, checkpoint: Path, seconds: float, fast: bool) -> str:
    """What was made, where it is, and how well the policy does beside its teacher."""
    import h5py

    result = json.loads(files.result.read_text())
    with h5py.File(files.dataset) as file:
        demos = len(file["data"])
        taught = len(file.get("mask/success", ())) / demos
    low, high = result["success_rate_95"]
    lines = [
        "",
        f"demo finished in {seconds / 60:.1f} minutes",
        f"  dataset     {files.dataset} ({demos} episodes, {taught:.0%} successful)",
        f"  checkpoint  {checkpoint}",
        f"  video       {files.video}",
        f"  curves      {files.figure}",
        f"  evaluation  {files.result}",
        f"  success     {result['success_rate']:.0%} of {result['n']} episodes with fixed seeds "
        f"(95 % interval {low:.0%} to {high:.0%}); demonstrations: {taught:.0%}",
    ]
    if fast:
        lines.append("  --fast trains for a few steps: a success of 0% is expected")
    return "\n".join(lines)


def _lapo(*words: object) -> None:
    """Run a verb of `lapo`; by its module, since the command may not be on the PATH."""
    _run(["lapo", *map(str, words)], [sys.executable, "-m", "robomimic_vae_ext", *map(str, words)])


def _stock(module: str, *words: object) -> None:
    """Run a script of robomimic, as its users do."""
    text = ["-m", module, *map(str, words)]
    _run(["python", *text], [sys.executable, *text])


def _run(shown: list[str], command: list[str]) -> None:
    """Print a command in a form to copy, run it, and raise if it fails."""
    print("\n$ " + shlex.join(shown), flush=True)
    environment = {"MUJOCO_GL": "egl"} | dict(os.environ)
    ended = subprocess.run(command, env=environment, preexec_fn=processes.ending_with_this())
    if ended.returncode != 0:
        raise DemoError(
            f"`{shlex.join(shown)}` failed", "exit code 0", "Read its error message above."
        )
