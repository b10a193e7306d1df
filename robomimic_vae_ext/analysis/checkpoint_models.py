"""Loads checkpoints one after the other, with the demonstrations that they are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from robomimic_vae_ext.analysis import critic_values
from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.rollout import stored_policy


def models(
    checkpoints: Sequence[Path],
    dataset: Path,
    masks: Sequence[str] = ("valid",),
    only: str = "",
    most: int | None = None,
    check: Callable[[Path, Any], None] = lambda path, algo: None,
    device: str | None = None,
    trust: bool = False,
) -> Iterator[tuple[Any, list[critic_values.HeldOut]]]:
    """Load one checkpoint after the other; the dataset is read once for all with the same keys.

    Args:
        checkpoints: written by robomimic.
        dataset: with these masks.
        masks: which demonstrations.
        only: name of the algorithm that they must be of; empty: any.
        most: demonstrations of each mask, evenly spaced; None: all.
        check: raises a CheckpointError for an algorithm that cannot be measured, before the
            dataset is read.
        device: torch device name; None takes the GPU if a checkpoint's config asks for one.
        trust: for `stored_policy.load_checkpoint`.

    Returns:
        The algorithm in eval mode, and the demonstrations of every mask.

    Raises:
        CheckpointError: one cannot be read, is of another algorithm, stacks frames, normalises
            observations, has goals, or has other observations or actions than the dataset.
        DatasetError: unreadable, a mask is empty, or it lacks observations.
    """
    known: dict[tuple[str, ...], list[critic_values.HeldOut]] = {}
    for path in checkpoints:
        checkpoint = stored_policy.load_checkpoint(path, trust)
        if only and checkpoint["algo_name"] != only:
            raise CheckpointError(
                f"{path} is of '{checkpoint['algo_name']}'", f"a checkpoint of {only}",
                "Leave it out.",
            )  # fmt: skip
        algo = critic_values.load_policy(checkpoint, device)
        if algo.frame_stack > 1:
            raise CheckpointError(
                f"{path} stacks {algo.frame_stack} frames",
                "train.frame_stack = 1, since states are measured one by one",
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
                keys: [
                    critic_values.load_held_out(dataset, list(keys), mask, most) for mask in masks
                ]
            }
        _check_shapes(path, algo, dataset, known[keys][0])
        yield algo, known[keys]


def _check_shapes(path: Path, algo: Any, dataset: Path, held_out: critic_values.HeldOut) -> None:
    """Refuse a model of other observations or actions."""
    for key, frames in held_out.obs.items():
        shape = tuple(critic_values.process(frames[:1], key, algo).shape[1:])
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
