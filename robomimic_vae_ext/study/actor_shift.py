"""What LAPO's actor does with the latent action z on held-out demonstrations: does it exploit Q?

The decoder's action for z = 0 is what the data would do there; the actor moves it to where Q is
larger. Moved far for little Q, the action is one that Q has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from robomimic_vae_ext import files, markdown
from robomimic_vae_ext.plugin import ALGO_NAME
from robomimic_vae_ext.study import inspection, measure


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


_NAMES: Final = tuple(field.name for field in fields(ActorShift))


def of_model(algo: Any, held_out: measure.HeldOut) -> ActorShift:
    """Measure a LAPO in eval mode.

    Args:
        algo: from `measure.load_policy`.
        held_out: from `measure.load_held_out`.
    """
    generator = torch.Generator().manual_seed(0)  # the same z for every model
    parts = [
        _of_batch(algo, obs, actions, generator) for obs, actions in measure.batches(algo, held_out)
    ]
    return ActorShift(*torch.cat(parts).mean(dim=0).tolist())


@torch.no_grad()
def _of_batch(
    algo: Any, obs: dict[str, Tensor], actions: Tensor, generator: torch.Generator
) -> Tensor:
    """The fields of ActorShift for every state: (B, 6)."""
    features = algo.policy_features(obs)
    shared = algo.policy_encoder is algo.obs_encoder
    seen = features if shared else algo.value_features(obs)
    z = algo.nets["actor"](features)  # (B, Z)
    bound = algo.algo_config.actor.max_latent_action
    random = torch.randn(z.shape, generator=generator).to(z.device).clamp(-bound, bound)
    at_zero, at_z, at_random = (
        algo.nets["actor_vae"].decode(features, x) for x in (torch.zeros_like(z), z, random)
    )
    columns = (
        z.abs().mean(dim=1) / bound,
        (at_z - at_zero).abs().mean(dim=1),
        (at_random - at_zero).abs().mean(dim=1),
        (at_zero - actions).abs().mean(dim=1),
        algo.mixed_q_of_features(seen, at_z) - algo.mixed_q_of_features(seen, at_zero),
        algo.mixed_q_of_features(seen, actions),
    )
    return torch.stack(columns, dim=1)


def of_checkpoints(
    checkpoints: list[Path], dataset: Path, device: str | None = None
) -> list[ActorShift]:
    """Measure one checkpoint after the other.

    Args:
        checkpoints: of LAPO.
        dataset: with demonstrations in mask/valid.
        device: torch device name; None takes the GPU if a checkpoint's config asks for one.

    Returns:
        As many as checkpoints.

    Raises:
        CheckpointError, DatasetError: as `inspection.models`.
    """
    models = inspection.models(checkpoints, dataset, only=ALGO_NAME, device=device)
    return [of_model(algo, held_out) for algo, (held_out,) in models]


def table(checkpoints: list[Path], found: list[ActorShift]) -> str:
    """One line a checkpoint, for people."""
    rows = [(str(path), *_numbers(shift)) for path, shift in zip(checkpoints, found, strict=True)]
    head = ("checkpoint", "\\|z\\|, 1 = bound", "shift by the actor", "shift by z ~ N(0, 1)",
            "error at z = 0", "gain in Q", "Q of the data")  # fmt: skip
    return markdown.table(head, rows)


def write_csv(path: Path, checkpoints: list[Path], found: list[ActorShift]) -> None:
    """One line a checkpoint, under the names of ActorShift's fields."""
    rows = [
        (str(name), *_numbers(shift, ".6g")) for name, shift in zip(checkpoints, found, strict=True)
    ]
    files.write_csv(path, [("checkpoint", *_NAMES), *rows])


def _numbers(shift: ActorShift, form: str = ".4f") -> list[str]:
    return [format(getattr(shift, name), form) for name in _NAMES]
