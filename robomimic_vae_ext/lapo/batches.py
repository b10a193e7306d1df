"""Windows of robomimic's SequenceDataset, cut down to n-step transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robomimic_vae_ext.lapo import losses


def reduce_windows(
    batch: dict[str, Any], obs_keys: Sequence[str], frame_stack: int, n_step: int, discount: float
) -> dict[str, Any]:
    """Keep what an n-step target needs of every window.

    Args:
        batch: from SequenceDataset; every entry (B, frame_stack - 1 + seq_length, ...).
        obs_keys: observation keys to keep.
        frame_stack: F.
        n_step: transitions per target, at most seq_length.
        discount: gamma per step.

    Returns:
        `obs`, `next_obs`: key to (B, F, ...); `actions` (B, A); `rewards`, `discounts` (B,);
        `goal_obs` as it came.
    """
    first = frame_stack - 1
    window = slice(first, first + n_step)
    obs = {key: batch["obs"][key] for key in obs_keys}
    next_obs = {key: batch["next_obs"][key] for key in obs_keys}
    entries = [*obs.values(), *next_obs.values(), batch["actions"], batch["rewards"]]
    # The window alone: with frame stacking, what precedes it may be the padding of a start.
    padded = repeated_transitions([entry[:, window] for entry in entries])
    result = losses.n_step_return(
        batch["rewards"][:, window].float(), batch["dones"][:, window].float(), padded, discount
    )
    device = result.last.device
    rows = torch.arange(len(result.last), device=device)[:, None]
    # SequenceDataset pads a stack of next observations with the first *next* observation; in
    # rollouts the stack goes back to the observation before it, so it is put together so here.
    earlier = result.last[:, None] + 1 + torch.arange(first, device=device)  # (B, F - 1)
    newest = result.last[:, None] + first  # (B, 1)
    return {
        "obs": {key: value[:, :frame_stack] for key, value in obs.items()},
        "next_obs": {
            key: torch.cat([obs[key][rows, earlier], value[rows, newest]], dim=1)
            for key, value in next_obs.items()
        },
        "goal_obs": batch.get("goal_obs"),
        "actions": batch["actions"][:, first],
        "rewards": result.rewards,
        "discounts": result.discounts,
    }


def repeated_transitions(entries: list[Tensor]) -> Tensor:
    """Find the entries of windows that repeat the one before in everything given.

    SequenceDataset pads a window's tail by repeating the demonstration's last transition. A
    recorded transition that repeats its predecessor to the last bit is treated the same; that only
    shortens its n-step window, and the target stays correct.

    Args:
        entries: tensors (B, N, ...).

    Returns:
        (B, N) bool; the first column is false.
    """
    batch, length = entries[0].shape[:2]
    repeated = torch.zeros(batch, length, dtype=torch.bool, device=entries[0].device)
    repeated[:, 1:] = True
    # Small entries first: images are compared only where everything else agrees.
    for value in sorted(entries, key=lambda entry: entry[0].numel()):
        rows, columns = repeated.nonzero(as_tuple=True)
        if len(rows) == 0:
            break
        equal = value[rows, columns] == value[rows, columns - 1]  # (R, ...)
        same = equal.reshape(len(rows), -1).all(dim=1)
        repeated[rows[~same], columns[~same]] = False
    return repeated
