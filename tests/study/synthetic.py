"""Made-up studies with known truths, as the runner leaves them on disk."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robomimic_vae_ext.study import plan, protocol

ARMS = {"vae": "lapo", "critic": "lapo", "joint": "lapo", "bc": "bc", "bcq": "bcq"}
#: Final held-out error, decay length [steps] and success of every arm.
TRUTH = {
    "vae": (0.08, 1200.0, 0.45), "critic": (0.02, 300.0, 0.8), "joint": (0.02, 350.0, 0.85),
    "bc": (0.0, 1.0, 0.5), "bcq": (0.1, 1500.0, 0.5),
}  # fmt: skip
STEPS, EVERY = 2000, 100


def write_study(folder: Path, seeds: Collection[int] = (1, 2, 3, 4, 5)) -> protocol.Protocol:
    """A study file with two tasks, one dataset of which is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arm.json").write_text('{"algo_name": "lapo"}')
    data = folder / "own.hdf5"
    with h5py.File(data, "w") as file:
        for index in range(4):
            file[f"data/demo_{index}/rewards"] = np.array([0.0, float(index == 0)])
    study = {
        "name": "made_up",
        "tasks": {
            "play_lift": {"collect": {"env": "PlayLift", "n": 10}, "horizon": 80},
            "own": {"dataset": "own.hdf5", "horizon": 100},
        },
        "arms": {
            arm: {"config": "arm.json", "set": {"algo": {"n_step": 3}} if arm == "joint" else {}}
            for arm in ARMS
        },
        "seeds": list(seeds),
        "training": {"steps": STEPS, "steps_per_checkpoint": EVERY, "batch_size": 64},
        "evaluation": {"final_episodes": 50, "earlier_episodes": 20, "earlier_checkpoints": 2,
                       "seed": 20000},
        "reference_arm": "vae",
    }  # fmt: skip
    path = folder / "study.json"
    path.write_text(json.dumps(study))
    return protocol.read_protocol(path)


def result(task: str, arm: str, seed: int, noise: float = 0.1) -> dict[str, Any]:
    """What a job leaves in result.json."""
    rng = np.random.default_rng([seed, list(ARMS).index(arm), len(task)])
    final, length, rate = TRUTH[arm]
    has_q = ARMS[arm] != "bc"
    curve = []
    for step in range(EVERY, STEPS + 1, EVERY):
        error = (final + 0.3 * np.exp(-step / length)) * np.exp(noise * rng.normal())
        auc = min(1.0, 1 - 0.5 * np.exp(-step / length) + 0.01 * rng.normal())
        values = {"critic_error": error, "auc": auc, "q_mean": 0.5, "q_std": 0.3,
                  "correlation": 0.9}  # fmt: skip
        curve.append({"step": step} | (values if has_q else dict.fromkeys(values)))
    q = rng.uniform(0, 1, 400)
    returns = (rng.uniform(size=400) < (q if arm == "critic" else 0.5 * q)) * 0.9
    return {
        "task": task, "arm": arm, "seed": seed, "settings": "", "algo": ARMS[arm], "steps": STEPS,
        "batch_size": 64, "precision": "float32", "curve": curve,
        "rollouts": [
            _rollout(rng, step, n, rate, has_q)
            for step, n in ((STEPS - 2 * EVERY, 20), (STEPS - EVERY, 20), (STEPS, 50))
        ],
        "action_error": 0.1 if ARMS[arm] == "lapo" else None,
        "value_pairs": {"q": q.tolist(), "return": returns.tolist()} if has_q else None,
        "seconds": {"train": 600.0, "measure": 60.0, "rollouts": 120.0},
        "versions": {"robomimic": "0.3.0", "robosuite": "1.5.2", "torch": "2.15.0"},
        "commit": "0123456789abcdef", "config": {},
    }  # fmt: skip


def _rollout(
    rng: np.random.Generator, step: int, episodes: int, rate: float, has_q: bool
) -> dict[str, Any]:
    success = (rng.uniform(size=episodes) < rate).astype(int).tolist()
    return {
        "step": step, "episodes": episodes, "successes": sum(success), "failures": 3,
        "mean_length": 40.0, "value_error": rng.uniform(0.05, 0.06) if has_q else None,
        "q_start": 0.7 if has_q else None, "return_start": 0.6, "success": success,
    }  # fmt: skip


def write_results(
    out: Path, study: protocol.Protocol, leave_out: Collection[tuple[str, str, int]] = ()
) -> None:
    """Results of all jobs of a study but some."""
    for job in plan.all_jobs(study):
        if (job.task, job.arm, job.seed) not in leave_out:
            write_result(out, result(job.task, job.arm, job.seed) | {"settings": job.settings})


def write_job(out: Path, study: protocol.Protocol, task: str, arm: str, seed: int) -> Path:
    """The result.json of one job of a study."""
    (job,) = [job for job in plan.all_jobs(study) if job.name == f"{task}/{arm}/seed_{seed}"]
    return write_result(out, result(task, arm, seed) | {"settings": job.settings})


def write_result(out: Path, values: dict[str, Any]) -> Path:
    """One job's result.json."""
    folder = out / values["task"] / values["arm"] / f"seed_{values['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(json.dumps(values))
    return path
