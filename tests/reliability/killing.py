"""Trains in child processes that kill themselves with SIGKILL at a chosen place.

Also a program: `python -m tests.reliability.killing` kills many runs at random places (`make
faults`) and prints what was lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

EPOCHS, STEPS, SAVE_STEPS = 3, 5, 2
OBS: Final = ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"]
SIZES: Final[dict[str, dict[str, Any]]] = {
    "lapo": {
        "encoder": {"trunk_dim": 8},
        "critic": {"layer_dims": [8]},
        "vae": {"layer_dims": [8]},
        "actor": {"layer_dims": [8]},
    },
    "bc": {"actor_layer_dims": [8], "gmm": {"enabled": True}},
    "iql": {"actor": {"layer_dims": [8]}, "critic": {"layer_dims": [8]}},
    "bcq": {
        "critic": {"layer_dims": [8]},
        "action_sampler": {"vae": {"encoder_layer_dims": [8], "decoder_layer_dims": [8]}},
        "actor": {"enabled": True, "layer_dims": [8]},
    },
    "cql": {"actor": {"layer_dims": [8]}, "critic": {"layer_dims": [8]}, "actor.bc_start_steps": 7},
    "td3_bc": {"actor": {"layer_dims": [8]}, "critic": {"layer_dims": [8]}},
}
#: Place of a kill to the function whose n-th call it is.
PLACES: Final = {
    "in a step": ("torch.optim.optimizer", "Optimizer", "zero_grad"),
    "between steps": ("robomimic_vae_ext.loader_pass", "LoaderPass", "next_batch"),
    "in a rollout": ("robomimic.envs.env_robosuite", "EnvRobosuite", "step"),
    "while a file is written": ("robomimic_vae_ext.files", None, "_to_disk"),
    "at the end of an epoch": ("robomimic_vae_ext.run_logs", "SynchronousLogger", "record"),
}
CALLS: Final = {  # about as many as a run has
    "in a step": 3 * EPOCHS * STEPS,
    "between steps": EPOCHS * STEPS,
    "in a rollout": EPOCHS * 2 * 6,
    "while a file is written": 2 * EPOCHS * 5,
    "at the end of an epoch": EPOCHS * 25,
}


@dataclass(frozen=True)
class Kill:
    """SIGKILL in the n-th call, counted from 1, of what happens at a place."""

    place: str
    call: int


def config(algo: str, dataset: Path, output: Path, rollouts: bool) -> dict[str, Any]:
    """A small training, in which everything happens that a state has to hold."""
    return {
        "algo_name": algo,
        "experiment": {
            "name": algo, "validate": True, "epoch_every_n_steps": STEPS,
            "validation_epoch_every_n_steps": 2, "render_video": False,
            "save": {
                "every_n_epochs": 1, "on_best_validation": True,
                "on_best_rollout_return": True, "on_best_rollout_success_rate": True,
            },
            "rollout": {"enabled": rollouts, "n": 2, "horizon": 6, "rate": 1, "warmstart": 0},
        },
        "train": {
            "data": str(dataset), "output_dir": str(output), "num_epochs": EPOCHS,
            "batch_size": 8, "cuda": False, "hdf5_filter_key": "train",
            "hdf5_validation_filter_key": "valid",
        },
        "observation": {"modalities": {"obs": {"low_dim": OBS, "rgb": []}}},
        "algo": SIZES[algo],
    }  # fmt: skip


def kill_at(kill: Kill) -> None:
    """Let this process end in the n-th call of a function."""
    module_name, owner_name, name = PLACES[kill.place]
    module = __import__(module_name, fromlist=["_"])
    owner = getattr(module, owner_name) if owner_name else module
    original = getattr(owner, name)
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call:
            if kill.place == "while a file is written":  # half of it
                os.truncate(args[0], args[0].stat().st_size // 2) if args[0].is_file() else None
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counting)


def _child(path: str, log: str, kill: Kill | None) -> None:
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    from robomimic_vae_ext import training

    if kill is not None:
        kill_at(kill)
    options = training.TrainOptions(
        path, resume="auto", saving=training.Saving(minutes=60, steps=SAVE_STEPS)
    )
    training.train(options)


def context() -> Any:
    """Child processes that begin with the imports done."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.reliability.preloaded"])
    return found


def train(path: Path, kills: Sequence[Kill] = (), attempts: int = 40) -> int:
    """Run a config with `--resume auto` until it ends; return how often it was killed.

    Args:
        path: of the config.
        kills: of the first attempts, in order; one that is not reached does nothing.
        attempts: at most.
    """
    log = path.with_suffix(".log")
    for attempt in range(attempts):  # each one but the last was killed
        kill = kills[attempt] if attempt < len(kills) else None
        process = context().Process(target=_child, args=(str(path), str(log), kill))
        process.start()
        process.join(240)
        if process.exitcode == 0:
            return attempt
        if process.exitcode != -signal.SIGKILL:
            raise AssertionError(f"exit code {process.exitcode}\n{log.read_text()[-4000:]}")
    raise AssertionError(f"not finished after {attempts} attempts")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of nested containers by its path."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in flatten(item, f"{prefix}/{key}").items()}


def content(run: Path) -> dict[str, Any]:
    """All that has to be the same: every number of every checkpoint, and every logged value."""
    import torch

    from robomimic_vae_ext.analysis import run_metrics

    found: dict[str, Any] = {}
    for path in sorted(run.glob("**/*.pth")):
        if path.name == "resume.pth":
            continue
        loaded = torch.load(path, weights_only=False)
        loaded["config"] = loaded["config"].replace(str(run.parent.parent), "")
        found |= flatten(loaded, str(path.relative_to(run)))
    for tag, series in run_metrics.read_run(run).items():
        found[f"epochs of {tag}"] = series.epochs
        if not tag.startswith(("Timing_Stats/", "System/", "Rollout/time/")):
            found[tag] = series.values
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    found["files"] = [name for name in names if "tfevents" not in name]
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same in two runs, to the bit."""
    import torch

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return bool(torch.equal(a, b)) and a.dtype == b.dtype
        return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)

    shared = set(one) & set(other)
    return sorted((set(one) ^ set(other)) | {k for k in shared if not same(one[k], other[k])})


def only_run(output: Path) -> Path:
    """The one run below an output folder."""
    (run,) = [path.parent for path in output.glob("*/*/resume.pth")]
    return run


def random_kills(seed: int, count: int) -> list[Kill]:
    """Kills at random places of what is still to do, with a fixed seed."""
    rng = np.random.default_rng(seed)
    kills = []
    for left in range(count, 0, -1):  # attempts have less and less to do
        place = str(rng.choice(list(PLACES)))
        most = max(2, CALLS[place] // (count + 1 - left + 1))
        kills.append(Kill(place, int(rng.integers(1, most))))
    return kills
