"""Replay that serves stock `train.py`: n-step transitions by whole-batch indexing.

robomimic's SequenceDataset cuts one window per sample in Python and copies n observations and n
next observations out of it; an n-step target needs the first and the last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from robomimic_vae_ext import compat
from robomimic_vae_ext.data import config_fit, hdf5
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.lapo import frames as frame_storage
from robomimic_vae_ext.lapo import losses, prefetch
from robomimic_vae_ext.lapo.batches import Horizon
from robomimic_vae_ext.lapo.frames import GIB, FrameKind, Frames, Layout

logger = logging.getLogger(__name__)


class ReadyBatch(dict):
    """A batch that is collated already; torch's default_collate passes it through."""


def _pass_through(batch: list[ReadyBatch], *, collate_fn_map: Any = None) -> dict[str, Any]:
    return dict(batch[0])


# torch's documented way to teach default_collate a new type; stock train.py offers no other.
default_collate_fn_map[ReadyBatch] = _pass_through


@dataclass(frozen=True)
class Storage:
    """Where frames are kept; see `algo.replay` in the config.

    Args:
        kind: "memory", "disk" or "auto".
        max_gib: most memory for frames [GiB].
        folder: of the files on disk; None: beside the dataset.
    """

    kind: str
    max_gib: float
    folder: str | None

    def load(self, sequences: Any) -> tuple[dict[str, Frames], Layout]:
        """Load all observation keys.

        Args:
            sequences: robomimic's SequenceDataset.

        Returns:
            Key to frames, and which demonstrations they hold.

        Raises:
            TooLargeError: more memory needed than allowed.
            DatasetError: no space on disk, or frames that do not fit each other.
        """
        file, names = sequences.hdf5_file, sequences.demos
        kinds = [FrameKind.of(file, names[0], key) for key in sequences.obs_keys]
        if self.kind != "disk":
            layout = Layout.of(file, names)
            try:
                return frame_storage.load_in_memory(file, kinds, layout, self.max_gib), layout
            except frame_storage.TooLargeError as error:
                if self.kind == "memory":
                    raise
                logger.warning("%s; its pictures stay on disk", error.found)
        return self._on_disk(file, kinds)

    def _on_disk(self, file: Any, kinds: list[FrameKind]) -> tuple[dict[str, Frames], Layout]:
        # Not at the top: it locks files, which not every system can that needs no such files.
        from robomimic_vae_ext.lapo import frames_on_disk

        layout = Layout.of(file, hdf5.demo_names(file, Path(file.filename)))
        pictures = [kind for kind in kinds if kind.is_picture]
        others = [kind for kind in kinds if not kind.is_picture]
        found = frames_on_disk.open_or_write(file, pictures, layout, self.folder)
        found |= frame_storage.load_in_memory(file, others, layout, self.max_gib)
        return {kind.key: found[kind.key] for kind in kinds}, layout


class ReplayDataset(Dataset):
    """All transitions of a dataset, each frame once.

    Args:
        sequences: robomimic's SequenceDataset of the same data, without cache; it keeps the demo
            list, masks and normalisation statistics.
        horizon: how far a training step looks ahead.
        storage: where pictures are and how much memory they may use.
        pin: whether batches go to a GPU, and so into page-locked memory.

    Raises:
        TooLargeError: the frames need more memory than allowed.
        DatasetError: they cannot be written to disk, or do not fit each other.
    """

    def __init__(
        self, sequences: Any, horizon: Horizon, storage: Storage, pin: bool = False
    ) -> None:
        self.sequences = sequences
        self.horizon = horizon
        self.pin = pin
        self.frames, layout = storage.load(sequences)
        self._lay_out(layout)
        self._load_steps()
        self._prefetcher = prefetch.Prefetcher()
        sequences.close_and_delete_hdf5_handle()

    def _lay_out(self, layout: Layout) -> None:
        """Find the rows of every transition; the layout may hold more demonstrations than we do."""
        place = {name: index for index, name in enumerate(layout.names)}
        demos = [place[name] for name in self.sequences.demos]
        starts, lengths = layout.starts[demos], [layout.lengths[demo] for demo in demos]
        row = [start + np.arange(t) for start, t in zip(starts, lengths, strict=True)]
        self.rows = torch.from_numpy(np.concatenate(row))  # (N,) frame row of each transition
        self.first_rows = torch.from_numpy(np.repeat(starts, lengths))  # (N,)
        self.last_rows = torch.from_numpy(np.repeat(starts + lengths, lengths))  # (N,)

    def _load_steps(self) -> None:
        n_step, discount = self.horizon.n_step, self.horizon.discount
        demos = [self.sequences.hdf5_file[f"data/{name}"] for name in self.sequences.demos]
        lengths = [int(demo.attrs["num_samples"]) for demo in demos]

        def read(key: str) -> list[np.ndarray]:
            # A row for the state after the last transition is not read, as by robomimic.
            pairs = zip(demos, lengths, strict=True)
            arrays = (hdf5.read_array(demo[key], f"{demo.name}/{key}", t) for demo, t in pairs)
            return [np.asarray(array, dtype=np.float32) for array in arrays]

        columns = {key: read(key) for key in ("actions", "rewards", "dones")}
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
        self.last_steps = last  # (N,) of the window, 0 for a window of one transition

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
        return [ReadyBatch(self._prefetcher.take(torch.as_tensor(indices), self.gather))]

    def gather(self, index: torch.Tensor) -> dict[str, Any]:
        """Collect transitions.

        Args:
            index: (B,) int64.

        Returns:
            `obs`, `next_obs`: key to (B, F, ...) as stored; `actions` (B, A); `rewards`,
            `discounts` (B,); `goal_obs`, `later`, `action_window` (B, N, A) and `action_valid`
            (B, N) if the config asks for them, as `batches.reduce_windows` makes them.
        """
        # A worker process has no GPU context, and its batches travel through other memory.
        pin = self.pin and get_worker_info() is None
        stack = torch.arange(self.sequences.n_frame_stack - 1, -1, -1)  # F - 1, ..., 0 steps back
        first = self.first_rows[index][:, None]

        def stacked(rows: torch.Tensor) -> torch.Tensor:
            return (rows[:, None] - stack).clamp(min=first)  # (B, F)

        def after(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            rows = stacked(rows)
            return {key: frames.take_next(rows, pin) for key, frames in self.frames.items()}

        rows = stacked(self.rows[index])
        batch: dict[str, Any] = {
            "obs": {key: frames.take(rows, pin) for key, frames in self.frames.items()},
            "next_obs": after(self.next_rows[index]),
        }
        last = self.last_steps[index]
        if self.horizon.later_steps is not None:
            steps = last.clamp(max=self.horizon.later_steps - 1)
            batch["later"] = {"obs": after(self.rows[index] + steps + 1)}
        if self.horizon.action_window:
            steps = torch.arange(self.horizon.n_step)
            batch["action_valid"] = steps <= last[:, None]  # (B, N)
            # Past the end of the window stands its last action, which nobody is to read.
            steps = torch.minimum(steps, last[:, None])
            batch["action_window"] = self.actions[index[:, None] + steps]  # (B, N, A)
        for name in ("actions", "rewards", "discounts"):
            values = getattr(self, name)[index]
            batch[name] = values.pin_memory() if pin else values
        if self.sequences.goal_mode == "last":
            rows = self.last_rows[index][:, None]
            batch["goal_obs"] = {
                key: frames.take_next(rows, pin)[:, 0] for key, frames in self.frames.items()
            }
        return batch

    def get_dataset_sampler(self) -> prefetch.AnnouncingSampler:
        """Uniform sampling as DataLoader's `shuffle`, announced to the prefetcher."""
        return prefetch.AnnouncingSampler(self, self._prefetcher)

    def get_obs_normalization_stats(self) -> Any:
        """Mean and std per key, as robomimic's datasets."""
        return self.sequences.get_obs_normalization_stats()

    def get_action_normalization_stats(self) -> Any:
        """Offset and scale of the actions (robomimic 0.5.0)."""
        return self.sequences.get_action_normalization_stats()

    def __repr__(self) -> str:
        """Summary for the training log."""
        apart = [key for key, frames in self.frames.items() if frames.offset]
        note = f"next_obs stored apart: {apart}" if apart else "obs and next_obs share storage"
        sizes = {True: 0, False: 0}
        for frames in self.frames.values():
            sizes[frames.path is not None] += frames.array.nbytes
        where = f"{sizes[False] / GIB:.2f} GiB in memory"
        if sizes[True]:
            folders = {str(f.path.parent) for f in self.frames.values() if f.path is not None}
            where += f", {sizes[True] / GIB:.2f} GiB of pictures in {folders.pop()}"
        return f"ReplayDataset: {len(self):,} transitions, {where} ({note}) of\n" + repr(
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
        DatasetError: too large for memory.
    """
    _refuse_what_it_cannot_serve(config)
    uncached = config.deepcopy()
    with uncached.unlocked():
        uncached.train.hdf5_cache_mode = None
    sequences = stock(uncached, obs_keys, *args, **kwargs)
    algo = config.algo
    storage = Storage(algo.replay.storage, algo.replay.max_gib, algo.replay.folder)
    with hdf5.explain_damage(sequences.hdf5_path):
        return ReplayDataset(sequences, Horizon.of(algo), storage, goes_to_gpu(config))


def check_datasets(config: Any) -> None:
    """Check that the datasets can be trained on with this config; see `config_fit`.

    Differs from `lapo train`: bounds that cut off returns are a warning, since who calls
    robomimic's dataset_factory may want the batches alone.
    """
    for entry in compat.dataset_entries(config):
        config_fit.check_dataset(
            config, entry["path"], entry.get("filter_key"), strict_bounds=False
        )


def goes_to_gpu(config: Any) -> bool:
    """Whether stock train.py will train on a GPU, by the rule it uses itself."""
    return bool(config.train.cuda) and torch.cuda.is_available()


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
                "what the replay can serve",
                'Set "algo": {"replay": {"enabled": false}}.',
            )
