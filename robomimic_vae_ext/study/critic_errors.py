"""How wrong Q is on demonstrations that it was trained on and on others: does it overfit?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from robomimic_vae_ext import files, markdown
from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.study import formatting, inspection, measure

MASKS: Final = ("train", "valid")


@dataclass(frozen=True)
class CriticErrors:
    """Means over the states of some demonstrations; returns are the demonstrations' own.

    Args:
        mask: which demonstrations.
        error: mean of (Q(s, a) - discounted return)^2.
        bias: mean of Q(s, a) - discounted return.
        error_of_successes: `error` in demonstrations that are rewarded; None without any.
        error_of_failures: in all others; None without any.
        auc: of Q for whether the demonstration is rewarded, in [0, 1]; None with one kind only.
    """

    mask: str
    error: float
    bias: float
    error_of_successes: float | None
    error_of_failures: float | None
    auc: float | None


_NAMES: Final = tuple(field.name for field in fields(CriticErrors))
HEADS: Final = (
    "demonstrations", "Q error", "Q - return", "Q error, successes", "Q error, failures", "AUC",
)  # fmt: skip


def of_values(mask: str, q: np.ndarray, held_out: measure.HeldOut, discount: float) -> CriticErrors:
    """Compare values with returns.

    Args:
        mask: what to call the demonstrations.
        q: (N,) of every transition.
        held_out: the demonstrations.
        discount: per step.
    """
    returns, won = held_out.returns(discount), held_out.succeeds()
    squares = (q - returns) ** 2
    return CriticErrors(
        mask=mask,
        error=float(squares.mean()),
        bias=float((q - returns).mean()),
        error_of_successes=float(squares[won].mean()) if won.any() else None,
        error_of_failures=float(squares[~won].mean()) if not won.all() else None,
        auc=measure.auc(q, won),
    )


def of_checkpoints(
    checkpoints: Sequence[Path], dataset: Path, most: int | None = None
) -> list[list[CriticErrors]]:
    """Measure one checkpoint after the other.

    Args:
        checkpoints: of any algorithm with a critic.
        dataset: that they were trained on, with masks `train` and `valid`.
        most: demonstrations of each mask, evenly spaced; None: all.

    Returns:
        For every checkpoint one entry for each of `MASKS`.

    Raises:
        CheckpointError: as `inspection.models`, an algorithm without Q or discount, or one that was
            not trained on the mask `train` alone.
        DatasetError: as `inspection.models`.
    """
    found = []
    for algo, sets in inspection.models(checkpoints, dataset, MASKS, most=most, check=_check):
        errors = []
        for mask, held_out in zip(MASKS, sets, strict=True):
            q = measure.held_out_values(algo, held_out)
            assert q is not None  # it has a value function
            errors.append(of_values(mask, q, held_out, algo.algo_config.discount))
        found.append(errors)
    return found


def _check(path: Path, algo: Any) -> None:
    """Refuse what has no Q, or has seen what would be called held out."""
    if measure.value_function(algo) is None or algo.algo_config.get("discount") is None:
        raise CheckpointError(
            f"{path} is of '{algo.global_config.algo_name}'",
            "an algorithm with a critic and a discount",
            "Leave it out.",
        )
    seen = algo.global_config.train.hdf5_filter_key
    if seen != MASKS[0]:
        raise CheckpointError(
            f"{path} was trained on {f'mask/{seen}' if seen else 'every demonstration'}",
            f"mask/{MASKS[0]} (train.hdf5_filter_key), so that mask/{MASKS[1]} is new to it",
            "Leave it out.",
        )


def table(checkpoints: Sequence[Path], found: Sequence[Sequence[CriticErrors]]) -> str:
    """One line for a checkpoint and mask, for people."""
    rows = [
        (str(path), it.mask, *(formatting.number(value) for value in astuple(it)[1:]))
        for path, errors in zip(checkpoints, found, strict=True)
        for it in errors
    ]
    return markdown.table(("checkpoint", *HEADS), rows, words=2)


def write_csv(
    path: Path, checkpoints: Sequence[Path], found: Sequence[Sequence[CriticErrors]]
) -> None:
    """One line for a checkpoint and mask, under the names of CriticErrors' fields."""
    rows = [
        (str(name), it.mask, *("" if x is None else f"{x:.6g}" for x in astuple(it)[1:]))
        for name, errors in zip(checkpoints, found, strict=True)
        for it in errors
    ]
    files.write_csv(path, [("checkpoint", *_NAMES), *rows])
