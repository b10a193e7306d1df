"""The whole benchmark: its parts, their sizes, and the files it writes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robomimic_vae_ext.benchmark import (
    chart,
    epochs,
    loading,
    peers,
    report,
    scaling,
    steps,
    tables,
)
from robomimic_vae_ext.benchmark.errors import BenchmarkError
from robomimic_vae_ext.benchmark.files import DatasetSize

logger = logging.getLogger(__name__)

SMALL = peers.Setting("small", peers.CONFIGS / "vae_fixed.json", 128)


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Args:
        settings: encoders and batches; the first one is used where one is enough.
        rounds: samples of everything that takes seconds.
        slow_rounds: samples of whole commands.
        loading: of the part `data`.
        epochs: of the part `train`.
        rollouts: of the part `rollouts`.
        collect: of the part `collect`.
        fast: whether the figures mean nothing.
    """

    settings: tuple[peers.Setting, ...]
    rounds: int
    slow_rounds: int
    loading: loading.LoadingPlan
    epochs: epochs.EpochsPlan
    rollouts: scaling.ScalingPlan
    collect: scaling.ScalingPlan
    fast: bool = False


def full_plan(device: torch.device, repeats: int, workers: tuple[int, ...]) -> Plan:
    """What the published figures are measured with.

    Args:
        device: a GPU takes larger batches, and more steps in the same time.
        repeats: samples of everything that takes seconds.
        workers: numbers of processes to compare, 1 among them.
    """
    on_gpu = device.type == "cuda"
    config = peers.CONFIGS / "vae_fixed_resnet18.json"
    most = max(workers)
    return Plan(
        settings=(SMALL, peers.Setting(report.HEADLINE, config, 256 if on_gpu else 64)),
        rounds=repeats,
        slow_rounds=max(1, (repeats + 2) // 3),
        loading=loading.LoadingPlan(DatasetSize(20, 100), 256, 100 if on_gpu else 6),
        epochs=epochs.EpochsPlan(DatasetSize(20, 100), epochs=3, steps=40 if on_gpu else 10),
        rollouts=scaling.ScalingPlan(workers, most, max(12, 4 * most), horizon=100),
        collect=scaling.ScalingPlan(workers, most, max(24, 8 * most), horizon=0),
    )


def fast_plan(workers: tuple[int, ...]) -> Plan:
    """A miniature of the same path, to see that everything runs."""
    most = max(workers)
    return Plan(
        settings=(peers.Setting("small", SMALL.config, 2),),
        rounds=2,
        slow_rounds=1,
        loading=loading.LoadingPlan(DatasetSize(2, 8), 4, 2),
        epochs=epochs.EpochsPlan(DatasetSize(2, 80), epochs=2, steps=1),
        rollouts=scaling.ScalingPlan(workers, most, 2 * most, horizon=4),
        collect=scaling.ScalingPlan(workers, most, 2 * most, horizon=0),
        fast=True,
    )


def measure_part(part: str, plan: Plan, device: torch.device, folder: Path) -> dict[str, Any]:
    """Measure one part.

    Args:
        part: one of `report.PARTS`.
        plan: how much.
        device: where to train and where policies compute.
        folder: for files that nobody needs afterwards.
    """
    first = plan.settings[0]
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "steps": lambda: {
            "settings": {s.name: steps.measure(s, device, plan.rounds) for s in plan.settings}
        },
        "data": lambda: loading.measure(plan.settings, plan.loading, device, plan.rounds, folder),
        "train": lambda: epochs.measure(first, plan.epochs, device, plan.slow_rounds, folder),
        "rollouts": lambda: scaling.measure_rollouts(
            first, plan.rollouts, device, plan.slow_rounds, folder
        ),
        "collect": lambda: scaling.measure_collection(
            first, plan.collect, plan.slow_rounds, folder
        ),
    }
    return parts[part]()


def run(plan: Plan, only: Sequence[str], device: torch.device, out: Path) -> dict[str, Any]:
    """Measure parts one after the other; each is in the file as soon as it is done.

    Beside the JSON file stand a bar chart of the same name and, where there is a `performance.md`
    with markers for this file, its tables. A miniature leaves that document alone.

    Args:
        plan: how much.
        only: some of `report.PARTS`.
        device: where to train and where policies compute.
        out: JSON file; parts that are in it already stay.

    Returns:
        Content of the file.

    Raises:
        BenchmarkError: no such device, or results in the way that do not belong together.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError(
            "torch finds no CUDA device", "a GPU for --device cuda", "Use --device cpu."
        )
    results = report.load(out, report.machine(device), plan.fast)
    for part in only:
        logger.info("measuring %s", part)
        with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
            values = measure_part(part, plan, device, Path(folder))
        report.add(results, part, values)
        report.save(results, out)
    chart.draw(results, out.with_suffix(".png"))
    document = out.with_name("performance.md")
    if document.is_file() and not plan.fast:
        tables.update(document, out.name, results)
    return results


def summary(results: dict[str, Any]) -> str:
    """Headline ratios with their spreads, one a line."""
    lines = [f"{results['machine']['device_name']}, {results['machine']['threads']} threads"]
    for name, value in results["ratios"].items():
        low, high = results["ratio_spreads"][name]
        lines.append(f"  {name:28} {value:8.3f}   ({low:.3f} to {high:.3f})")
    return "\n".join(lines)
