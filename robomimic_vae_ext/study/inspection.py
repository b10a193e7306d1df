"""Checkpoints beside the demonstrations that they are asked about, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.rollout import stored_policy
from robomimic_vae_ext.study import measure


def models(
    checkpoints: Sequence[Path],
    dataset: Path,
    masks: Sequence[str] = ("valid",),
    only: str = "",
    most: int | None = None,
    check: Callable[[Path, Any], None] = lambda path, algo: None,
    device: str | None = None,
) -> Iterator[tuple[Any, list[measure.HeldOut]]]:
    """Load one checkpoint after the other; the dataset is read once for all with the same keys.

    Args:
        checkpoints: written by robomimic.
        dataset: with these masks.
        masks: which demonstrations.
        only: name of the algorithm that they must be of; empty: any.
        most: demonstrations of each mask, evenly spaced; None: all.
        check: raises a CheckpointError for an algorithm that cannot be asked, before the dataset
            is read.
        device: torch device name; None takes the GPU if a checkpoint's config asks for one.

    Returns:
        The algorithm in eval mode, and the demonstrations of every mask.

    Raises:
        CheckpointError: one cannot be read, is of another algorithm, stacks frames, normalises
            observations, has goals, or has other observations or actions than the dataset.
        DatasetError: unreadable, a mask is empty, or it lacks observations.
    """
    known: dict[tuple[str, ...], list[measure.HeldOut]] = {}
    for path in checkpoints:
        checkpoint = stored_policy.load_checkpoint(path)
        if only and checkpoint["algo_name"] != only:
            raise CheckpointError(
                f"{path} is of '{checkpoint['algo_name']}'", f"a checkpoint of {only}",
                "Leave it out.",
            )  # fmt: skip
        algo = measure.load_policy(checkpoint, device)
        if algo.frame_stack > 1:
            raise CheckpointError(
                f"{path} stacks {algo.frame_stack} frames",
                "train.frame_stack = 1: states of demonstrations are looked at one by one",
                "Leave it out.",
            )
        if checkpoint.get("obs_normalization_stats") or algo.goal_shapes:
            raise CheckpointError(
                f"{path} {'has goals' if algo.goal_shapes else 'normalises its observations'}",
                "a policy that sees observations as they are stored, and nothing else",
                "Leave it out.",
            )
        check(path, algo)
        keys = tuple(algo.obs_shapes)
        if keys not in known:
            known = {
                keys: [measure.load_held_out(dataset, list(keys), mask, most) for mask in masks]
            }
        _check_shapes(path, algo, dataset, known[keys][0])
        yield algo, known[keys]


def _check_shapes(path: Path, algo: Any, dataset: Path, held_out: measure.HeldOut) -> None:
    """Refuse a model of other observations or actions."""
    for key, frames in held_out.obs.items():
        shape = tuple(measure.process(frames[:1], key, algo).shape[1:])
        if shape != tuple(algo.obs_shapes[key]):
            raise CheckpointError(
                f"{path} sees {key} of shape {tuple(algo.obs_shapes[key])}",
                f"{shape}, as {dataset} has",
                "Give the dataset that it was trained on.",
            )
    if held_out.actions.shape[1] != algo.ac_dim:
        raise CheckpointError(
            f"{path} has actions of size {algo.ac_dim}",
            f"{held_out.actions.shape[1]}, as {dataset} has",
            "Give the dataset that it was trained on.",
        )
