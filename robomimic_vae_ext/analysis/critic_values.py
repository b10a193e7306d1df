"""Q of a checkpoint on held-out demonstrations, and the returns that these really had.

Works for every robomimic algorithm; one without a critic has no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import robomimic.algo as robomimic_algo
import robomimic.utils.obs_utils as obs_utils
import scipy.signal
import scipy.stats
import torch
from torch import Tensor

from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.data.description import length_of
from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.rollout import stored_policy

BATCH: Final = 128  # observations evaluated at once; bounds the memory

Values = Callable[[dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class HeldOut:
    """Every transition of some demonstrations (mostly the held-out ones), in the mask's order.

    Args:
        obs: key to (N, ...), as stored: pictures (N, H, W, C) uint8.
        actions: (N, A).
        rewards: one array (T,) per demonstration.
    """

    obs: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: tuple[np.ndarray, ...]

    def returns(self, discount: float) -> np.ndarray:
        """Discounted return from every step to the end of its demonstration: (N,)."""
        return np.concatenate([discounted_returns(r, discount) for r in self.rewards])

    def succeeds(self) -> np.ndarray:
        """Whether the demonstration that a step is from is rewarded at any time: (N,) bool."""
        return np.concatenate([np.full(len(r), bool(np.any(r > 0))) for r in self.rewards])


def discounted_returns(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Sum of rewards from every step on, those k steps later times discount^k.

    No value is added after the last step: a demonstration that was cut by its horizon counts with
    the rewards that it had.

    Args:
        rewards: (T,).
        discount: per step.
    """
    backwards = np.asarray(rewards, dtype=float)[::-1]
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -discount], backwards)[::-1])


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a positive scores above a negative; ties count half.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        From 0 to 1; None where one class is missing or a score is not finite.
    """
    if positive.all() or not positive.any() or not np.isfinite(scores).all():
        return None
    above = scores[positive], scores[~positive]
    test = scipy.stats.mannwhitneyu(*above, method="asymptotic")
    return float(test.statistic / (len(above[0]) * len(above[1])))


def load_held_out(
    path: Path, keys: list[str], mask: str = "valid", most: int | None = None
) -> HeldOut:
    """Read the demonstrations of a mask.

    Args:
        path: dataset.
        keys: observation keys.
        mask: name of the list of demonstrations below `mask/`.
        most: demonstrations to read, evenly spaced in that list; None: all.

    Raises:
        DatasetError: unreadable file, no such list or an empty one, or no such observations.
    """
    with hdf5.open_dataset(path) as file:
        names = [name.decode() for name in file.get(f"mask/{mask}", ())]
        if not names:
            raise DatasetError(
                f"{path} has no demonstrations in mask/{mask}",
                "demonstrations to measure values on",
                "Add the mask, for instance with robomimic's split_train_val.py.",
            )
        absent = [name for name in names if f"data/{name}" not in file]
        if absent:
            raise DatasetError(
                f"mask/{mask} of {path} names {absent[0]}, which is not in the file",
                "names of demonstrations in data/",
                "Make the mask anew, for instance with robomimic's split_train_val.py.",
            )
        if most is not None:
            names = [names[index] for index in evenly(len(names), most)]
        demos = [file[f"data/{name}"] for name in names]
        lengths = [length_of(it.attrs.get("num_samples"), len(it["actions"])) for it in demos]
        missing = [key for key in keys if f"obs/{key}" not in demos[0]]
        if missing:
            raise DatasetError(
                f"{path} has no observations {missing}",
                f"all observations of the policy: {keys}",
                "Give the dataset that it was trained on, or one with the same cameras and keys.",
            )

        def read(key: str) -> list[np.ndarray]:
            return [
                hdf5.read_array(demo[key], f"{path}: {demo.name}/{key}", length)
                for demo, length in zip(demos, lengths, strict=True)
            ]

        return HeldOut(
            obs={key: np.concatenate(read(f"obs/{key}")) for key in keys},
            actions=np.concatenate(read("actions")),
            rewards=tuple(read("rewards")),
        )


def evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` values, both ends among them: (min(count, most),)."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def value_function(algo: Any) -> Values | None:
    """Q(s, a) of an algorithm in eval mode: observations and actions (B, A) to (B,).

    Most algorithms have `get_state_action_value`: LAPO mixes both critics by its `doubleq_min`;
    BCQ, CQL and TD3-BC take the first. IQL lacks it; its own code takes the minimum of the ensemble
    wherever it needs one value, and so does this function.

    Returns:
        The function, or None for an algorithm without a critic (BC).
    """
    if not isinstance(algo, robomimic_algo.ValueAlgo):
        return None
    stock = type(algo).get_state_action_value is robomimic_algo.ValueAlgo.get_state_action_value
    if stock and "critic" not in algo.nets:
        return None

    def values(obs: dict[str, Tensor], actions: Tensor) -> Tensor:
        with torch.no_grad():
            if not stock:
                return algo.get_state_action_value(obs, actions).reshape(-1)
            ensemble = [critic(obs, actions, None) for critic in algo.nets["critic"]]
            return torch.cat(ensemble, dim=1).min(dim=1).values

    return values


def load_policy(checkpoint: dict[str, Any], device: str | None = None) -> Any:
    """The algorithm of a checkpoint in eval mode.

    Args:
        checkpoint: from `stored_policy.load_checkpoint`.
        device: torch device name; None takes the GPU if the checkpoint's config asks for one.

    Raises:
        CheckpointError: as `stored_policy.load_policy`.
    """
    policy = stored_policy.load_policy(checkpoint, device)
    policy.start_episode()
    return policy.policy


def held_out_values(algo: Any, held_out: HeldOut) -> np.ndarray | None:
    """Q of every held-out transition: (N,), or None without a critic.

    Observations are processed as those of a rollout: pictures to (C, H, W) in [0, 1], cropped in
    the middle since the networks are in eval mode.
    """
    values = value_function(algo)
    if values is None:
        return None
    parts = []
    for obs, actions in batches(algo, held_out):
        parts.append(values(obs, actions).cpu().numpy())
    return np.concatenate(parts).astype(np.float64)


def batches(algo: Any, held_out: HeldOut) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Observations, ready for the networks, and actions (B, A) of all transitions, in order."""
    for start in range(0, len(held_out.actions), BATCH):
        rows = slice(start, start + BATCH)
        obs = {key: process(frames[rows], key, algo) for key, frames in held_out.obs.items()}
        yield obs, torch.from_numpy(held_out.actions[rows]).float().to(algo.device)


def process(frames: np.ndarray, key: str, algo: Any) -> Tensor:
    """Observations as stored, ready for the networks: float32 on the algorithm's device."""
    return obs_utils.process_obs(torch.from_numpy(frames).to(algo.device), obs_key=key).float()


def critic_measures(q: np.ndarray, returns: np.ndarray, succeeds: np.ndarray) -> dict[str, Any]:
    """Measures of one checkpoint.

    Args:
        q: (N,) values of held-out transitions.
        returns: (N,) their discounted returns.
        succeeds: (N,) whether their demonstration succeeds.

    Returns:
        `critic_error` (mean squared difference), `auc` (of q for `succeeds`), `q_mean`, `q_std`,
        `correlation` (None where one side is constant).
    """
    varies = np.isfinite(q).all() and q.std() > 0 and returns.std() > 0
    return {
        "critic_error": float(np.mean((q - returns) ** 2)),
        "auc": auc(q, succeeds),
        "q_mean": float(q.mean()),
        "q_std": float(q.std()),
        "correlation": float(np.corrcoef(q, returns)[0, 1]) if varies else None,
    }
