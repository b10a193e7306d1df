"""What a training step needs of the steps after a transition, and how windows give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robomimic_vae_ext.lapo import losses


@dataclass(frozen=True)
class Horizon:
    """How far a training step looks ahead.

    Args:
        n_step: transitions per target.
        discount: gamma per step.
        later_steps: steps to the observation `later`, at most n_step; None: there is none.
        action_window: whether the actions of the whole window are needed.
    """

    n_step: int
    discount: float
    later_steps: int | None = None
    action_window: bool = False

    @classmethod
    def of(cls, algo_config: Any) -> Horizon:
        """What the config's losses ask for."""
        auxiliary, n_step = algo_config.encoder.auxiliary, algo_config.n_step
        steps = auxiliary.inverse_steps
        apart = auxiliary.inverse > 0 and steps is not None and steps != n_step
        return cls(
            n_step,
            algo_config.discount,
            later_steps=steps if apart else None,
            action_window=auxiliary.dynamics > 0,
        )


def reduce_windows(
    batch: dict[str, Any], obs_keys: Sequence[str], frame_stack: int, horizon: Horizon
) -> dict[str, Any]:
    """Keep what a training step needs of every window.

    Args:
        batch: from SequenceDataset; every entry (B, frame_stack - 1 + seq_length, ...).
        obs_keys: observation keys to keep.
        frame_stack: F.
        horizon: at most seq_length.

    Returns:
        `obs`, `next_obs`: key to (B, F, ...); `actions` (B, A); `rewards`, `discounts` (B,);
        `goal_obs` as it came. Where the horizon asks for them: `later`, with `obs` as `next_obs`
        (robomimic prepares pictures below that name), `action_window` (B, N, A) and `action_valid`
        (B, N), true up to the end of the window.
    """
    first = frame_stack - 1
    window = slice(first, first + horizon.n_step)
    obs = {key: batch["obs"][key] for key in obs_keys}
    next_obs = {key: batch["next_obs"][key] for key in obs_keys}
    entries = [*obs.values(), *next_obs.values(), batch["actions"], batch["rewards"]]
    # The window alone: with frame stacking, what precedes it may be the padding of a start.
    padded = repeated_transitions([entry[:, window] for entry in entries])
    result = losses.n_step_return(
        batch["rewards"][:, window].float(),
        batch["dones"][:, window].float(),
        padded,
        horizon.discount,
    )
    device = result.last.device
    rows = torch.arange(len(result.last), device=device)[:, None]

    def after(step: Tensor) -> dict[str, Tensor]:
        """Observations after a step (B,) of the window."""
        # SequenceDataset pads a stack of next observations with the first *next* observation; in
        # rollouts the stack goes back to the observation before it, so it is put together so here.
        earlier = step[:, None] + 1 + torch.arange(first, device=device)  # (B, F - 1)
        newest = step[:, None] + first  # (B, 1)
        return {
            key: torch.cat([obs[key][rows, earlier], value[rows, newest]], dim=1)
            for key, value in next_obs.items()
        }

    ahead: dict[str, Any] = {}
    if horizon.later_steps is not None:
        ahead["later"] = {"obs": after(result.last.clamp(max=horizon.later_steps - 1))}
    if horizon.action_window:
        ahead["action_window"] = batch["actions"][:, window]
        steps = torch.arange(horizon.n_step, device=device)
        ahead["action_valid"] = steps <= result.last[:, None]
    return ahead | {
        "obs": {key: value[:, :frame_stack] for key, value in obs.items()},
        "next_obs": after(result.last),
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
