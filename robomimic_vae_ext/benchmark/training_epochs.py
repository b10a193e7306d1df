"""Whole runs of `lapo train`: the phases of an epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robomimic_vae_ext.analysis import run_metrics
from robomimic_vae_ext.benchmark import batch_loading, peers, synthetic_dataset, timing
from robomimic_vae_ext.errors import BenchmarkError

TRAIN = (sys.executable, "-m", "robomimic_vae_ext", "train")
STOCK_DATA = {"train": {"hdf5_cache_mode": "low_dim"}}

# Run name to algorithm and what it changes.
RUNS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "lapo, replay": ("lapo", {}),
    "lapo, stock data": ("lapo", {"algo": {"replay": {"enabled": False}}} | STOCK_DATA),
    "bcq, stock data": ("bcq", STOCK_DATA),
    "iql, stock data": ("iql", STOCK_DATA),
}


@dataclass(frozen=True)
class EpochsPlan:
    """Sizes of the part `train`.

    Args:
        dataset: size of the synthetic dataset.
        epochs: of a run, at least two: the first one is not counted.
        steps: gradient steps of an epoch.
    """

    dataset: synthetic_dataset.DatasetSize
    epochs: int
    steps: int


def measure(
    setting: peers.Setting, plan: EpochsPlan, device: torch.device, rounds: int, folder: Path
) -> dict[str, Any]:
    """Train with every algorithm and way to load, in turn.

    Args:
        setting: encoder and batch.
        plan: sizes.
        device: of the training.
        rounds: runs of each.
        folder: for dataset, configs and runs.

    Returns:
        `setting`, `batch_size`, `epoch_steps`; `runs`: name to phase to seconds, one number an
        epoch; `process`: name to seconds of the whole process, one number a round.
    """
    first = peers.load_config(setting, peers.OURS[0])
    data = folder / "synthetic_train.hdf5"
    synthetic_dataset.write(data, peers.raw_shapes(first, setting.image_size), plan.dataset)
    times: dict[str, dict[str, list[float]]] = {
        name: {phase: [] for phase in batch_loading.PHASES} for name in RUNS
    }

    def train(name: str) -> None:
        number = len(list(folder.glob("config_*.json")))
        config = folder / f"config_{number}.json"
        output = folder / f"runs_{number}"
        algo, changes = RUNS[name]
        config.write_text(
            json.dumps(run_config(setting, plan, device, algo, changes, data, output))
        )
        run = run_training(config, output)
        for phase, seconds in read_times(run).items():
            times[name][phase].extend(seconds)

    contenders = [timing.Contender(name, partial(train, name)) for name in RUNS]
    process = timing.interleave(contenders, rounds, title="train.py", warm_up=False)
    return {
        "setting": setting.name,
        "batch_size": setting.batch_size,
        "epoch_steps": plan.steps,
        "runs": times,
        "process": {name: samples["seconds"] for name, samples in process.items()},
    }


def run_config(
    setting: peers.Setting,
    plan: EpochsPlan,
    device: torch.device,
    algo: str,
    changes: Mapping[str, Any],
    data: Path,
    output: Path,
) -> dict[str, Any]:
    """Config of a run: the setting's observations, without rollouts and validation."""
    given = json.loads(setting.config.read_text())
    return {
        "algo_name": algo,
        "experiment": {
            "name": "benchmark",
            "validate": False,
            "epoch_every_n_steps": plan.steps,
            "save": {"enabled": True, "every_n_epochs": plan.epochs},
            "rollout": {"enabled": False},
            "render_video": False,
        },
        "train": dict(changes.get("train", {}))
        | {
            "data": str(data),
            "output_dir": str(output),
            "num_epochs": plan.epochs,
            "batch_size": setting.batch_size,
            "cuda": device.type == "cuda",
            "seed": 0,
        },
        "algo": _own_section(given, algo, changes),
        "observation": given["observation"],
    }


def _own_section(given: Mapping[str, Any], algo: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    own = given.get("algo", {}) if algo == "lapo" else peers.CHANGES.get(algo, {}).get("algo", {})
    return dict(own) | dict(changes.get("algo", {}))


def run_training(config: Path, output: Path) -> Path:
    """Train with a config.

    Returns:
        The time-stamped folder of the run.

    Raises:
        BenchmarkError: training failed.
    """
    result = subprocess.run(
        [*TRAIN, "--config", str(config)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=config.parent,
    )  # fmt: skip
    runs = sorted(output.glob("benchmark/*"))
    if result.returncode != 0 or not runs:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise BenchmarkError(
            f"training with {config.name} failed ({lines[-1] if lines else 'no message'})",
            "the run to finish",
            "Run `lapo train` with that config to see why.",
        )
    return runs[-1]


def read_times(run: Path) -> dict[str, list[float]]:
    """robomimic's times of all epochs of a run but the first: phase to seconds."""
    series = run_metrics.read_run(run)
    times = {}
    for phase, name in batch_loading.PHASES.items():
        minutes = series[name.replace("Time_", "Timing_Stats/Train_")].values
        times[phase] = [60 * value for value in minutes[1:]]
    return times
