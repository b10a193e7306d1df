"""How wrong Q is on demonstrations that it was trained on and on others: does it overfit?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from robomimic_vae_ext.analysis import checkpoint_models, critic_values
from robomimic_vae_ext.errors import CheckpointError

MASKS: Final = ("train", "valid")
#: Field of CriticErrors to its heading in the printed table.
HEADINGS: Final = {
    "mask": "demonstrations", "error": "Q error", "bias": "Q - return",
    "error_of_successes": "Q error, successes", "error_of_failures": "Q error, failures",
    "auc": "AUC",
}  # fmt: skip


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


def of_values(
    mask: str, q: np.ndarray, held_out: critic_values.HeldOut, discount: float
) -> CriticErrors:
    """Compare values with returns.

    Args:
        mask: name of the list of demonstrations.
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
        auc=critic_values.auc(q, won),
    )


def of_checkpoints(
    checkpoints: Sequence[Path], dataset: Path, most: int | None = None, trust: bool = False
) -> pd.DataFrame:
    """Measure one checkpoint after the other.

    Args:
        checkpoints: of any algorithm with a critic.
        dataset: that they were trained on, with masks `train` and `valid`.
        most: demonstrations of each mask, evenly spaced; None: all.
        trust: for `stored_policy.load_checkpoint`.

    Returns:
        A row for each checkpoint and mask: `checkpoint` and the fields of CriticErrors.

    Raises:
        CheckpointError: as `checkpoint_models.models`; an algorithm without Q or discount; or a
            training that had other demonstrations than the mask `train`.
        DatasetError: as `checkpoint_models.models`.
    """
    rows: list[dict[str, Any]] = []
    models = checkpoint_models.models(
        checkpoints, dataset, MASKS, most=most, check=_check, trust=trust
    )
    for path, (algo, sets) in zip(checkpoints, models, strict=True):
        for mask, held_out in zip(MASKS, sets, strict=True):
            q = critic_values.held_out_values(algo, held_out)
            assert q is not None  # `_check` has refused algorithms without a critic
            errors = of_values(mask, q, held_out, algo.algo_config.discount)
            rows.append({"checkpoint": str(path)} | asdict(errors))
    return pd.DataFrame(rows)


def _check(path: Path, algo: Any) -> None:
    """Refuse an algorithm without Q, and a training that had the demonstrations of `valid`."""
    if critic_values.value_function(algo) is None or algo.algo_config.get("discount") is None:
        raise CheckpointError(
            f"{path} is of '{algo.global_config.algo_name}'",
            "an algorithm with a critic and a discount",
            "Leave it out.",
        )
    seen = algo.global_config.train.hdf5_filter_key
    if seen != MASKS[0]:
        raise CheckpointError(
            f"{path} was trained on {f'mask/{seen}' if seen else 'every demonstration'}",
            f"mask/{MASKS[0]} (train.hdf5_filter_key), so that mask/{MASKS[1]} is held out",
            "Leave it out.",
        )
