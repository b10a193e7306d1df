"""In-memory replay that serves stock `train.py`: n-step transitions by whole-batch indexing.

robomimic's SequenceDataset cuts one window per sample in Python and copies n observations and n
next observations out of it; an n-step target needs the first and the last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from robomimic_vae_ext import compat
from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.lapo import losses

logger = logging.getLogger(__name__)

GIB = 2.0**30


class ReadyBatch(dict):
    """A batch that is collated already; torch's default_collate passes it through."""


def _pass_through(batch: list[ReadyBatch], *, collate_fn_map: Any = None) -> dict[str, Any]:
    return dict(batch[0])


# torch's documented way to teach default_collate a new type; stock train.py offers no other.
default_collate_fn_map[ReadyBatch] = _pass_through


class ReplayDataset(Dataset):
    """All transitions of a dataset in memory, each frame once.

    Args:
        sequences: robomimic's SequenceDataset of the same data, without cache; it keeps the demo
            list, masks and normalisation statistics.
        n_step: transitions per target.
        discount: gamma per step.
        max_gib: refuse to use more memory than this [GiB].

    Raises:
        DatasetError: the frames need more memory than `max_gib`.
    """

    def __init__(self, sequences: Any, n_step: int, discount: float, max_gib: float) -> None:
        self.sequences = sequences
        self._max_gib = max_gib
        self._extra = 0  # bytes of next observations that need storage of their own
        self._refuse_if_too_large()
        self._lay_out()
        self._load_steps(n_step, discount)
        self.frames: dict[str, torch.Tensor] = {}
        self.next_frames: dict[str, torch.Tensor] = {}
        for key in sequences.obs_keys:
            self._load_frames(key)
        sequences.close_and_delete_hdf5_handle()

    def _demo(self, name: str) -> Any:
        return self.sequences.hdf5_file[f"data/{name}"]

    def _lay_out(self) -> None:
        """Give every demo T + 1 rows of frame storage: T observations and the final one."""
        lengths = [int(self._demo(name).attrs["num_samples"]) for name in self.sequences.demos]
        self.starts = np.concatenate([[0], np.cumsum([t + 1 for t in lengths])])
        row = [start + np.arange(t) for start, t in zip(self.starts[:-1], lengths, strict=True)]
        self.rows = torch.from_numpy(np.concatenate(row))  # (N,) frame row of each transition
        self.first_rows = torch.from_numpy(np.repeat(self.starts[:-1], lengths))  # (N,)
        self.last_rows = torch.from_numpy(np.repeat(self.starts[1:] - 1, lengths))  # (N,)

    def _load_steps(self, n_step: int, discount: float) -> None:
        names = self.sequences.demos
        columns = {
            key: [np.asarray(self._demo(name)[key], dtype=np.float32) for name in names]
            for key in ("actions", "rewards", "dones")
        }
        self.actions = torch.from_numpy(np.concatenate(columns["actions"]))  # (N, A)
        parts = []
        for rewards, dones in zip(columns["rewards"], columns["dones"], strict=True):
            steps = torch.arange(len(rewards))[:, None] + torch.arange(n_step)  # (T, n)
            padded = steps >= len(rewards)
            steps = steps.clamp(max=len(rewards) - 1)
            reward_windows = torch.from_numpy(rewards).flatten()[steps]
            done_windows = torch.from_numpy(dones).flatten()[steps]
            parts.append(losses.n_step_return(reward_windows, done_windows, padded, discount))
        self.rewards, self.discounts, last = (
            torch.cat(column) for column in zip(*parts, strict=True)
        )
        self.next_rows = self.rows + last + 1  # (N,) frame row of the bootstrap observation

    def _load_frames(self, key: str) -> None:
        """Read one observation key; obs and next_obs share storage where the file allows it.

        Row t of a demo holds observation t, and the last row the final next observation. Where
        observations and next observations were recorded apart, row t + 1 of a second array holds
        next observation t; its first rows are never read.
        """
        names = self.sequences.demos
        first = self._demo(names[0])[f"obs/{key}"]
        frames = np.empty((self.starts[-1], *first.shape[1:]), dtype=first.dtype)
        separate = None
        for name, start in zip(names, self.starts[:-1], strict=True):
            obs = self._demo(name)[f"obs/{key}"][()]
            next_obs = self._demo(name)[f"next_obs/{key}"][()]
            length = len(obs)
            frames[start : start + length] = obs
            frames[start + length] = next_obs[-1]
            if separate is None and not np.array_equal(obs[1:], next_obs[:-1]):
                # Recorded apart (noise, latency): keep both, as the file does.
                self._refuse_if_too_large(extra=frames.nbytes)
                separate = frames.copy()
            if separate is not None:
                separate[start + 1 : start + 1 + length] = next_obs
        self.frames[key] = torch.from_numpy(frames)
        self.next_frames[key] = self.frames[key] if separate is None else torch.from_numpy(separate)

    def _refuse_if_too_large(self, extra: int = 0) -> None:
        self._extra += extra
        total = self._extra
        for name in self.sequences.demos:
            for key in self.sequences.obs_keys:
                data = self._demo(name)[f"obs/{key}"]
                total += int(np.prod(data.shape)) * data.dtype.itemsize
        logger.info("in-memory replay: %.2f GiB of observations", total / GIB)
        if total > self._max_gib * GIB:
            raise DatasetError(
                f"{self.sequences.hdf5_path} holds {total / GIB:.1f} GiB of observations",
                f"at most algo.replay.max_gib = {self._max_gib} GiB",
                'Raise max_gib, or set "algo": {"replay": {"enabled": false}} to read from disk.',
            )

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One transition, with a leading batch axis of size 1 removed."""
        return {
            key: {k: v[0] for k, v in value.items()} if isinstance(value, dict) else value[0]
            for key, value in self.gather(torch.tensor([index])).items()
        }

    def __getitems__(self, indices: list[int]) -> list[ReadyBatch]:
        """A whole batch at once; torch's DataLoader calls this where it exists."""
        return [ReadyBatch(self.gather(torch.as_tensor(indices)))]

    def gather(self, index: torch.Tensor) -> dict[str, Any]:
        """Collect transitions.

        Args:
            index: (B,) int64.

        Returns:
            `obs`, `next_obs`: key to (B, F, ...) as stored; `actions` (B, A); `rewards`,
            `discounts` (B,); `goal_obs` if the config asks for it.
        """
        stack = torch.arange(self.sequences.n_frame_stack - 1, -1, -1)  # F - 1, ..., 0 steps back
        first = self.first_rows[index][:, None]
        rows = (self.rows[index][:, None] - stack).clamp(min=first)  # (B, F)
        next_rows = (self.next_rows[index][:, None] - stack).clamp(min=first)
        batch: dict[str, Any] = {
            "obs": {key: frames[rows] for key, frames in self.frames.items()},
            "next_obs": {key: self._next(key, next_rows) for key in self.frames},
            "actions": self.actions[index],
            "rewards": self.rewards[index],
            "discounts": self.discounts[index],
        }
        if self.sequences.goal_mode == "last":
            last = self.last_rows[index]
            batch["goal_obs"] = {key: frames[last] for key, frames in self.next_frames.items()}
        return batch

    def _next(self, key: str, rows: torch.Tensor) -> torch.Tensor:
        """Stack of the observations before, and the newest as next observation: (B, F, ...)."""
        newest = self.next_frames[key][rows[:, -1:]]
        if rows.shape[1] == 1:
            return newest
        return torch.cat([self.frames[key][rows[:, :-1]], newest], dim=1)

    def get_dataset_sampler(self) -> None:
        """None: uniform sampling, as robomimic's datasets."""
        return self.sequences.get_dataset_sampler()

    def get_obs_normalization_stats(self) -> Any:
        """Mean and std per key, as robomimic's datasets."""
        return self.sequences.get_obs_normalization_stats()

    def get_action_normalization_stats(self) -> Any:
        """Offset and scale of the actions (robomimic 0.5.0)."""
        return self.sequences.get_action_normalization_stats()

    def __repr__(self) -> str:
        """Summary for the training log."""
        apart = [key for key in self.frames if self.frames[key] is not self.next_frames[key]]
        stored = [*self.frames.values(), *(self.next_frames[key] for key in apart)]
        size = sum(frames.nbytes for frames in stored) / GIB
        note = f"next_obs stored apart: {apart}" if apart else "obs and next_obs share storage"
        return f"ReplayDataset: {len(self)} transitions, {size:.2f} GiB ({note}) of\n" + repr(
            self.sequences
        )


def replay_from_config(
    stock: Callable[..., Any], config: Any, obs_keys: Any, *args: Any, **kwargs: Any
) -> ReplayDataset:
    """Build the replay with the arguments of robomimic's `dataset_factory`.

    Args:
        stock: robomimic's own `dataset_factory`.
        config: a LAPO config; the others are handed on to `stock`.

    Raises:
        ConfigError: a setting that only SequenceDataset can serve.
        DatasetError: too large for memory, or too small for one batch.
    """
    _refuse_what_it_cannot_serve(config)
    uncached = config.deepcopy()
    with uncached.unlocked():
        uncached.train.hdf5_cache_mode = None
    sequences = stock(uncached, obs_keys, *args, **kwargs)
    algo = config.algo
    replay = ReplayDataset(sequences, algo.n_step, algo.discount, algo.replay.max_gib)
    if len(replay) < config.train.batch_size:
        # Stock train.py drops the last incomplete batch, and dies of a StopIteration without text.
        raise DatasetError(
            f"mask '{sequences.filter_by_attribute}' of {sequences.hdf5_path} holds {len(replay)} "
            "transitions",
            f"at least one batch of {config.train.batch_size}",
            "Lower train.batch_size, or collect more.",
        )
    return replay


def _refuse_what_it_cannot_serve(config: Any) -> None:
    train = config.train
    action_config = train.get("action_config") or {}
    refused = {
        f"{len(compat.dataset_paths(config))} datasets": len(compat.dataset_paths(config)) != 1,
        "other action keys than 'actions'": list(train.get("action_keys", ["actions"]))
        != ["actions"],
        "normalised actions": any(v.get("normalization") for v in action_config.values()),
        "train.pad_frame_stack = false": not train.pad_frame_stack,
        "language observations": "lang_emb" in config.all_obs_keys,
    }
    for what, asked in refused.items():
        if asked:
            raise ConfigError(
                f"the config asks for {what}",
                "what the in-memory replay can serve",
                'Set "algo": {"replay": {"enabled": false}}.',
            )
