"""Trains in child processes that kill themselves with SIGKILL at a chosen place.

Also a program: `python -m tests.reliability.killing` kills many runs at random places (`make
faults`) and prints what was lost.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
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
    "cql": {"actor": {"layer_dims": [8], "bc_start_steps": 7}, "critic": {"layer_dims": [8]}},
    "td3_bc": {"actor": {"layer_dims": [8]}, "critic": {"layer_dims": [8]}},
}
#: Place of a kill to the function whose n-th call it is.
PLACES: Final = {
    "in a step": ("torch.optim.optimizer", "Optimizer", "zero_grad"),
    "between steps": ("robomimic_vae_ext.training.loader_pass", "LoaderPass", "next_batch"),
    "in a rollout": ("robomimic.envs.env_robosuite", "EnvRobosuite", "step"),
    "while a file is written": ("robomimic_vae_ext.files", None, "_to_disk"),
    "at the end of an epoch": (
        "robomimic_vae_ext.training.run_logs",
        "SynchronousLogger",
        "record",
    ),
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


@dataclass(frozen=True)
class Outcome:
    """A run that was killed, beside one that was not.

    Args:
        killed: how often.
        compared: number of values.
        differing: names of those that are not the same.
    """

    killed: int
    compared: int
    differing: list[str]


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
            "batch_size": 8, "cuda": False, "hdf5_filter_key": "train", "hdf5_normalize_obs": False,
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
    from robomimic_vae_ext.training import training_run

    if kill is not None:
        kill_at(kill)
    options = training_run.TrainOptions(
        path, resume="auto", saving=training_run.Saving(minutes=60, steps=SAVE_STEPS)
    )
    training_run.train(options)


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


def random_kills(seed: int, count: int, rollouts: bool) -> list[Kill]:
    """Kills at random places, which come earlier from attempt to attempt: less is left to do."""
    rng = np.random.default_rng(seed)
    kills = []
    for attempt in range(count):
        place = str(rng.choice([it for it in PLACES if rollouts or it != "in a rollout"]))
        kills.append(Kill(place, int(rng.integers(1, max(3, CALLS[place] // (attempt + 2))))))
    return kills


def lift_dataset(path: Path) -> Path:
    """Demonstrations of Lift, low-dimensional, with shaped rewards in rollouts."""
    import h5py

    from robomimic_vae_ext.data.simulation import collect
    from robomimic_vae_ext.data.simulation.envs import EnvSpec
    from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings

    collect.collect(CollectSettings(EnvSpec("Lift"), "expert", 4), path)
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["env_kwargs"]["reward_shaping"] = True
        file["data"].attrs["env_args"] = json.dumps(env_args)
    return path


def compare(folder: Path, algo: str, dataset: Path, rollouts: bool, kills: list[Kill]) -> Outcome:
    """Train once without kills (kept for the next call) and once with; compare the two."""
    paths = {name: folder / f"{algo}_{name}.json" for name in ("whole", "killed")}
    for name, path in paths.items():
        output = folder / f"{algo}_{name}"
        if name == "killed":
            shutil.rmtree(output, ignore_errors=True)
        path.write_text(json.dumps(config(algo, dataset, output, rollouts)))
    if not (folder / f"{algo}_whole").exists():
        train(paths["whole"])
    killed = train(paths["killed"], kills)
    found = [content(only_run(path.with_suffix(""))) for path in paths.values()]
    return Outcome(killed, len(found[0]), differences(*found))


def main(wanted: int = 4) -> int:
    """Kill six algorithms' trainings, `wanted` times each (LAPO twice that); print the outcome."""
    begin, killed, compared, lost, differing = time.monotonic(), 0, 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="faults_") as name:
        folder = Path(name)
        lift = lift_dataset(folder / "lift.hdf5")
        for algo in SIZES:
            rollouts = algo in ("lapo", "bc")
            left, seed = 2 * wanted if algo == "lapo" else wanted, 0
            while left > 0:
                kills = random_kills(seed, min(left, 4), rollouts)
                try:
                    outcome = compare(folder, algo, lift, rollouts, kills)
                except AssertionError as error:
                    print(f"{algo}, seed {seed}: LOST: {error}", flush=True)
                    lost, left = lost + 1, 0
                    continue
                print(
                    f"{algo}, seed {seed}: {outcome.killed} kills, {outcome.compared} values, "
                    f"differing {len(outcome.differing)} {outcome.differing[:3] or ''}",
                    flush=True,
                )
                killed += outcome.killed
                compared += outcome.compared
                differing += len(outcome.differing)
                left, seed = left - outcome.killed, seed + 1
    print(
        f"kills {killed}, runs lost {lost}, values compared {compared}, differing {differing}, "
        f"{time.monotonic() - begin:.0f} s"
    )
    return 1 if lost or differing else 0


if __name__ == "__main__":
    sys.exit(main())
