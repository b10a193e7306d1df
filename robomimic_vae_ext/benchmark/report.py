"""Results: one JSON file with raw times, the machine they were taken on, and ratios.

The file is put together part by part; ratios are computed anew from the raw times whenever a part
is added, so that they can never belong to other figures than those beside them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from robomimic_vae_ext import compat, files, provenance
from robomimic_vae_ext.benchmark import scaling, steps, timing
from robomimic_vae_ext.benchmark.errors import BenchmarkError

OURS = "lapo_critic"  # the owner that the method stands for
HEADLINE = "resnet18"  # the setting that the goals are set for
PARTS = ("steps", "data", "train", "rollouts", "collect")
PACKAGES = ("robosuite", "mujoco", "numpy", "h5py", "robomimic_vae_ext")


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides our code."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["robomimic"] = str(compat.robomimic_version())
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a source checkout on PYTHONPATH
            versions[package] = "not installed"
    return {
        "device": device.type,
        "device_name": provenance.device_name(device),
        "processor": provenance.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def load(path: Path, found: dict[str, Any], fast: bool) -> dict[str, Any]:
    """Read results to add to, or begin new ones.

    Args:
        path: of the JSON file.
        found: from `machine`.
        fast: whether the parts to come are a miniature.

    Raises:
        BenchmarkError: damaged file, or results that must not be mixed with the parts to come.
    """
    if not path.exists():
        return {"fast": fast, "machine": found, "ratios": {}, "ratio_spreads": {}, "parts": {}}
    try:
        results: dict[str, Any] = json.loads(path.read_text())
        there = (results["fast"], *(results["machine"][key] for key in ("device", "device_name")))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} cannot be read ({error!r})",
            "results of an earlier benchmark",
            "Remove the file or choose another --out.",
        ) from error
    now = (fast, found["device"], found["device_name"])
    if there != now:
        raise BenchmarkError(
            f"{path} holds results of (miniature, device, name) {there}",
            f"the same as now, {now}",
            "Choose another --out.",
        )
    return results | {"machine": found}


def add(results: dict[str, Any], part: str, values: dict[str, Any]) -> None:
    """Add a part that was measured just now, and compute all ratios anew."""
    when = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()),
    }
    results["parts"][part] = values | when
    results["ratios"], results["ratio_spreads"] = {}, {}
    for name, ratio in all_ratios(results["parts"]).items():
        results["ratios"][name] = ratio.value
        results["ratio_spreads"][name] = [ratio.low, ratio.high]


def save(results: dict[str, Any], path: Path) -> None:
    """Write the results; the file appears when it is complete."""
    files.write_json(path, results)


def all_ratios(parts: dict[str, Any]) -> dict[str, timing.Ratio]:
    """Headline ratios of the parts that are there."""
    ratios: dict[str, timing.Ratio] = {}
    if "steps" in parts:
        settings = parts["steps"]["settings"]
        name = HEADLINE if HEADLINE in settings else next(iter(settings))
        ratios |= step_ratios(settings[name])
    if "data" in parts:
        shares = [wait_share(ways["replay"]) for ways in parts["data"]["epochs"].values()]
        ratios["data_wait_share"] = max(shares)  # of the setting that waits most
    for part, name in (("rollouts", "rollout"), ("collect", "collect")):
        if part in parts:
            ratios |= speedups(parts[part], name)
    return ratios


def step_ratios(setting: dict[str, Any]) -> dict[str, timing.Ratio]:
    """How much longer each peer's step takes than ours, and ours than the encoder alone."""
    seconds = {name: samples["seconds"] for name, samples in setting["step"].items()}
    ours = seconds[OURS]
    ratios = {
        f"steps_vs_{name}": timing.ratio(seconds[name], ours)
        for name in seconds
        if name != steps.LIMIT and not name.startswith("lapo_")
    }
    return ratios | {"step_over_limit": timing.ratio(ours, seconds[steps.LIMIT])}


def wait_share(phases: dict[str, list[float]]) -> timing.Ratio:
    """Share of an epoch that is spent waiting for data."""
    return timing.ratio(phases["data"], phases["whole"])


def speedups(part: dict[str, Any], name: str) -> dict[str, timing.Ratio]:
    """One worker's time over several workers', for the same episodes.

    `NAME_N_workers` is of running episodes alone, `NAME_N_workers_whole` of the whole command with
    its start-up. The former is missing where the start-up's noise is larger than what it measures.
    """
    ratios: dict[str, timing.Ratio] = {}
    alone = part["workers"]["1"]
    for text, times in part["workers"].items():
        if text == "1":
            continue
        whole = timing.ratio(alone["many_seconds"], times["many_seconds"])
        ratios[f"{name}_{text}_workers_whole"] = whole
        one, several = (scaling.running_seconds(part, int(count)) for count in ("1", text))
        if one is not None and several is not None:
            quotients = _running_pairs(alone, times) or [one / several]
            ratios[f"{name}_{text}_workers"] = timing.of_rounds(quotients)
    return ratios


def _running_pairs(alone: dict[str, Any], several: dict[str, Any]) -> list[float]:
    """Speed-up within each round, of the rounds in which both differences are positive."""
    differences = [
        [many - few for many, few in zip(t["many_seconds"], t["few_seconds"], strict=True)]
        for t in (alone, several)
    ]
    return [a / b for a, b in zip(*differences, strict=True) if a > 0 and b > 0]
