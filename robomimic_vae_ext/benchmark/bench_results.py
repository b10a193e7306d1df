"""Results: one JSON file with raw times, the machine, and ratios.

The file is written part by part. Ratios are computed from the raw times whenever a part is added,
so that they always belong to the times beside them.
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

from robomimic_vae_ext import compat, provenance
from robomimic_vae_ext.benchmark import timing
from robomimic_vae_ext.errors import BenchmarkError

LIMIT = "encoder_alone"  # see `peers.EncoderAlone`
OURS = "lapo_critic"  # the owner whose steps the ratios compare
HEADLINE = "resnet18"  # the setting of the ratios
PARTS = ("steps", "data", "train", "rollouts", "collect")
PACKAGES = ("robosuite", "mujoco", "numpy", "h5py", "robomimic_vae_ext")


def machine(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads and versions, on which the times depend."""
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


def load(path: Path | None, found: dict[str, Any], fast: bool) -> dict[str, Any]:
    """Read results to add to, or begin new ones.

    Args:
        path: of the JSON file, if there is one.
        found: from `machine`.
        fast: whether the parts to come are a miniature.

    Raises:
        BenchmarkError: the file is damaged, or of another device or size.
    """
    if path is None or not path.exists():
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
            f"{path} has results of (miniature, device, name) {there}",
            f"the same as now, {now}",
            "Choose another --out.",
        )
    return results | {"machine": found}


def add(results: dict[str, Any], part: str, values: dict[str, Any]) -> None:
    """Add a part that was just measured, and compute all ratios."""
    results["parts"][part] = values | {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()),
    }
    ratios = all_ratios(results["parts"])
    results["ratios"] = {name: ratio.value for name, ratio in ratios.items()}
    results["ratio_spreads"] = {name: [ratio.low, ratio.high] for name, ratio in ratios.items()}


def all_ratios(parts: dict[str, Any]) -> dict[str, timing.Ratio]:
    """Headline ratios of the measured parts."""
    ratios: dict[str, timing.Ratio] = {}
    if "steps" in parts:
        settings = parts["steps"]["settings"]
        ratios |= step_ratios(settings.get(HEADLINE) or next(iter(settings.values())))
    if "data" in parts:
        shares = [wait_share(ways["replay"]) for ways in parts["data"]["epochs"].values()]
        ratios["data_wait_share"] = max(shares)  # of the setting that waits most
    for part, name in (("rollouts", "rollout"), ("collect", "collect")):
        if part in parts:
            ratios |= speedups(parts[part], name)
    return ratios


def step_ratios(setting: dict[str, Any]) -> dict[str, timing.Ratio]:
    """Time of each peer's step over ours, and of ours over the encoder alone."""
    seconds = {name: samples["seconds"] for name, samples in setting["step"].items()}
    ours = seconds[OURS]
    ratios = {
        f"steps_vs_{name}": timing.ratio(seconds[name], ours)
        for name in seconds
        if name != LIMIT and not name.startswith("lapo_")
    }
    return ratios | {"step_over_limit": timing.ratio(ours, seconds[LIMIT])}


def wait_share(phases: dict[str, list[float]]) -> timing.Ratio:
    """Share of an epoch that is spent waiting for data."""
    return timing.ratio(phases["data"], phases["whole"])


def running_seconds(part: dict[str, Any], workers: int) -> float | None:
    """Seconds of the further episodes; None if the start-up varies by more."""
    times = part["workers"][str(workers)]
    seconds = timing.median(times["many_seconds"]) - timing.median(times["few_seconds"])
    return seconds if seconds > 0 else None


def speedups(part: dict[str, Any], name: str) -> dict[str, timing.Ratio]:
    """Time of one worker over that of several workers, for the same episodes.

    `NAME_N_workers` is of running episodes alone, `NAME_N_workers_whole` of the whole command with
    its start-up. The former is missing if the start-up varies by more than the episodes take.
    """
    ratios: dict[str, timing.Ratio] = {}
    alone = part["workers"]["1"]
    for text, times in part["workers"].items():
        if text == "1":
            continue
        whole = timing.ratio(alone["many_seconds"], times["many_seconds"])
        ratios[f"{name}_{text}_workers_whole"] = whole
        one, several = (running_seconds(part, int(count)) for count in ("1", text))
        if one is not None and several is not None:
            quotients = _running_quotients(alone, times) or [one / several]
            ratios[f"{name}_{text}_workers"] = timing.of_rounds(quotients)
    return ratios


def _running_quotients(alone: dict[str, Any], several: dict[str, Any]) -> list[float]:
    """Speed-up within each round, of the rounds in which both differences are positive."""
    differences = [
        [many - few for many, few in zip(t["many_seconds"], t["few_seconds"], strict=True)]
        for t in (alone, several)
    ]
    return [a / b for a, b in zip(*differences, strict=True) if a > 0 and b > 0]
