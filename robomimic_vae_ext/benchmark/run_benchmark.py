"""The whole benchmark: its parts, their sizes, and the file that it writes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robomimic_vae_ext import files, shipped_configs
from robomimic_vae_ext.benchmark import (
    batch_loading,
    bench_results,
    gradient_steps,
    peers,
    training_epochs,
    worker_scaling,
)
from robomimic_vae_ext.benchmark.synthetic_dataset import DatasetSize
from robomimic_vae_ext.errors import BenchmarkError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Sizes of all parts.

    Args:
        settings: encoders and batches; parts that need one use the first.
        rounds: samples of everything that takes seconds.
        slow_rounds: samples of whole commands.
        loading: of the part `data`.
        epochs: of the part `train`.
        rollouts: of the part `rollouts`.
        collect: of the part `collect`.
        fast: whether the numbers mean nothing.
    """

    settings: tuple[peers.Setting, ...]
    rounds: int
    slow_rounds: int
    loading: batch_loading.LoadingPlan
    epochs: training_epochs.EpochsPlan
    rollouts: worker_scaling.ScalingPlan
    collect: worker_scaling.ScalingPlan
    fast: bool = False


def full_plan(device: torch.device, repeats: int, workers: tuple[int, ...]) -> Plan:
    """Sizes of the published measurements.

    Args:
        device: a GPU gets larger batches, and more steps in the same time.
        repeats: samples of everything that takes seconds.
        workers: numbers of processes to compare, 1 among them.
    """
    on_gpu = device.type == "cuda"
    small = peers.Setting("small", shipped_configs.find("vae_fixed"), 128)
    large = shipped_configs.find("vae_fixed_resnet18")
    most = max(workers)
    return Plan(
        settings=(small, peers.Setting(bench_results.HEADLINE, large, 256 if on_gpu else 64)),
        rounds=repeats,
        slow_rounds=max(1, (repeats + 2) // 3),
        loading=batch_loading.LoadingPlan(DatasetSize(20, 100), 256, 100 if on_gpu else 6),
        epochs=training_epochs.EpochsPlan(DatasetSize(20, 100), 3, 40 if on_gpu else 10),
        rollouts=worker_scaling.ScalingPlan(workers, most, max(12, 4 * most), horizon=100),
        collect=worker_scaling.ScalingPlan(workers, most, max(24, 8 * most), horizon=0),
    )


def fast_plan(workers: tuple[int, ...]) -> Plan:
    """A miniature, to see that everything runs."""
    most = max(workers)
    return Plan(
        settings=(peers.Setting("small", shipped_configs.find("vae_fixed"), 2),),
        rounds=2,
        slow_rounds=1,
        loading=batch_loading.LoadingPlan(DatasetSize(2, 8), 4, 2),
        epochs=training_epochs.EpochsPlan(DatasetSize(2, 80), epochs=2, steps=1),
        rollouts=worker_scaling.ScalingPlan(workers, most, 2 * most, horizon=4),
        collect=worker_scaling.ScalingPlan(workers, most, 2 * most, horizon=0),
        fast=True,
    )


def measure_part(part: str, plan: Plan, device: torch.device, folder: Path) -> dict[str, Any]:
    """Measure one part.

    Args:
        part: one of `bench_results.PARTS`.
        plan: sizes.
        device: of training and of policies.
        folder: for temporary files.
    """
    first, slow = plan.settings[0], plan.slow_rounds
    if part == "steps":
        settings = plan.settings
        steps = {s.name: gradient_steps.measure(s, device, plan.rounds) for s in settings}
        return {"settings": steps}
    if part == "data":
        return batch_loading.measure(plan.settings, plan.loading, device, plan.rounds, folder)
    if part == "train":
        return training_epochs.measure(first, plan.epochs, device, slow, folder)
    if part == "rollouts":
        return worker_scaling.measure_rollouts(first, plan.rollouts, device, slow, folder)
    return worker_scaling.measure_collection(first, plan.collect, slow, folder)


def run(plan: Plan, only: Sequence[str], device: torch.device, out: Path | None) -> dict[str, Any]:
    """Measure parts one after the other; each is in the file as soon as it is measured.

    Args:
        plan: sizes.
        only: some of `bench_results.PARTS`.
        device: of training and of policies.
        out: JSON file, if any; other parts that it has already are kept.

    Returns:
        Content of the file.

    Raises:
        BenchmarkError: no such device, or the file is of another device or size.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError(
            "torch finds no CUDA device", "a GPU for --device cuda", "Use --device cpu."
        )
    results = bench_results.load(out, bench_results.machine(device), plan.fast)
    for part in only:
        LOGGER.info("measuring %s", part)
        with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
            values = measure_part(part, plan, device, Path(folder))
        bench_results.add(results, part, values)
        if out is not None:
            files.write_json(out, results)
    return results
