"""What LAPO's actor does with the latent action z on held-out demonstrations: does it exploit Q?

The decoder's action for z = 0 is what the data would do there; the actor moves it to where Q is
larger. A large shift for a small gain in Q leads to actions that Q has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from robomimic_vae_ext.analysis import checkpoint_models, critic_values
from robomimic_vae_ext.plugin import ALGO_NAME

#: Field of ActorShift to its heading in the printed table.
HEADINGS: Final = {
    "z": "\\|z\\|, 1 = bound", "shift": "shift by the actor", "spread": "shift by z ~ N(0, 1)",
    "error": "error at z = 0", "gain": "gain in Q", "q": "Q of the data",
}  # fmt: skip


@dataclass(frozen=True)
class ActorShift:
    """Means over held-out states, actions (A,) in [-1, 1] compared by their mean |difference|.

    Args:
        z: mean |z| of the actor, in units of its bound: 1 is at the bound everywhere.
        shift: between the actor's action and that of z = 0.
        spread: between the action of a z from N(0, 1), within the bound, and that of z = 0.
        error: between the action of z = 0 and the demonstration's.
        gain: Q of the actor's action minus Q of that of z = 0.
        q: of the demonstration's action.
    """

    z: float
    shift: float
    spread: float
    error: float
    gain: float
    q: float


def of_model(algo: Any, held_out: critic_values.HeldOut) -> ActorShift:
    """Measure a LAPO in eval mode.

    Args:
        algo: from `critic_values.load_policy`.
        held_out: from `critic_values.load_held_out`.
    """
    generator = torch.Generator().manual_seed(0)  # the same z for every model
    parts = [
        _of_batch(algo, obs, actions, generator)
        for obs, actions in critic_values.batches(algo, held_out)
    ]
    return ActorShift(*torch.cat(parts).mean(dim=0).tolist())


@torch.no_grad()
def _of_batch(
    algo: Any, obs: dict[str, Tensor], actions: Tensor, generator: torch.Generator
) -> Tensor:
    """The fields of ActorShift for every state: (B, 6)."""
    features = algo.features_of(obs)
    z = algo.nets["actor"](features)  # (B, Z)
    bound = algo.algo_config.actor.max_latent_action
    random = torch.randn(z.shape, generator=generator).to(z.device).clamp(-bound, bound)
    at_zero, at_z, at_random = (
        algo.nets["actor_vae"].decode(features, x) for x in (torch.zeros_like(z), z, random)
    )
    q_at_zero, q_at_z, q_of_data = (
        algo.get_state_action_value(obs, x).reshape(-1) for x in (at_zero, at_z, actions)
    )
    columns = (
        z.abs().mean(dim=1) / bound,
        (at_z - at_zero).abs().mean(dim=1),
        (at_random - at_zero).abs().mean(dim=1),
        (at_zero - actions).abs().mean(dim=1),
        q_at_z - q_at_zero,
        q_of_data,
    )
    return torch.stack(columns, dim=1)


def of_checkpoints(
    checkpoints: Sequence[Path],
    dataset: Path,
    most: int | None = None,
    device: str | None = None,
    trust: bool = False,
) -> pd.DataFrame:
    """Measure one checkpoint after the other.

    Args:
        checkpoints: of LAPO.
        dataset: with demonstrations in mask/valid.
        most: demonstrations, evenly spaced; None: all.
        device: torch device name; None takes the GPU if a checkpoint's config asks for one.
        trust: for `stored_policy.load_checkpoint`.

    Returns:
        A row for each checkpoint: `checkpoint` and the fields of ActorShift.

    Raises:
        CheckpointError, DatasetError: as `checkpoint_models.models`.
    """
    models = checkpoint_models.models(
        checkpoints, dataset, only=ALGO_NAME, most=most, device=device, trust=trust
    )
    rows = [
        {"checkpoint": str(path)} | asdict(of_model(algo, held_out))
        for path, (algo, (held_out,)) in zip(checkpoints, models, strict=True)
    ]
    return pd.DataFrame(rows)
