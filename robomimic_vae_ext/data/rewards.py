"""What kind of rewards a dataset has, and what returns follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import numpy as np

LARGEST: Final = 1e6  # float32 holds the square of it and of its sums in a loss


class RewardKind(Enum):
    """When rewards are paid."""

    MISSING = "missing"
    ZERO = "0 at every step"
    SPARSE = "paid once, at the end"
    HELD = "paid at several steps, as while a goal holds"
    DENSE = "dense"


def kind_of(rewards: Sequence[np.ndarray], shaping: bool | None) -> RewardKind:
    """Tell the kind from the values, and from what the environment was asked for.

    Args:
        rewards: (T,) of each demonstration that has rewards.
        shaping: `reward_shaping` of the environment, where it is known.
    """
    if not rewards:
        return RewardKind.MISSING
    values = np.unique(np.concatenate(rewards))
    paid = values[values != 0]
    if len(paid) == 0:
        return RewardKind.ZERO
    if shaping or len(paid) > 1 or paid[0] < 0:
        return RewardKind.DENSE
    if any(len(one) and one[:-1].any() for one in rewards):
        return RewardKind.HELD
    return RewardKind.SPARSE


def returns_of(rewards: np.ndarray, dones: np.ndarray | None, discount: float) -> np.ndarray:
    """Discounted return of every step, which nothing adds to after a done.

    Args:
        rewards: (T,).
        dones: (T,), if they are known.
        discount: per step.

    Returns:
        (T,). Where the demonstration does not end in a done, what would have followed is not in it.
    """
    found = np.zeros(len(rewards))
    after = 0.0
    for step in range(len(rewards) - 1, -1, -1):
        stays = 1.0 if dones is None else 1.0 - float(dones[step])
        after = float(rewards[step]) + discount * stays * after
        found[step] = after
    return found
