"""Time and memory of batches: robomimic's SequenceDataset, `ReplayDataset` in memory and on disk.

Both through a DataLoader, as in stock train.py.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import robomimic.utils.train_utils as train_utils
import torch
from torch.utils.data import DataLoader

from robomimic_vae_ext.benchmark import peers, synthetic_dataset, timing

# Changes of the config for each way to load.
WAYS: dict[str, dict[str, Any]] = {
    "replay": {"algo": {"replay": {"enabled": True}}},
    "replay_disk": {"algo": {"replay": {"enabled": True, "storage": "disk"}}},
    "stock_low_dim_cache": {
        "algo": {"replay": {"enabled": False}},
        "train": {"hdf5_cache_mode": "low_dim"},
    },
    "stock_full_cache": {
        "algo": {"replay": {"enabled": False}},
        "train": {"hdf5_cache_mode": "all"},
    },
}
# Measured inside training too; the stock way is the one that fits large image datasets.
TRAINED = ("replay", "stock_low_dim_cache")
PHASES = {
    "data": "Time_Data_Loading",
    "process": "Time_Process_Batch",
    "train": "Time_Train_Batch",
    "log": "Time_Log_Info",
    "whole": "Time_Epoch",
}


@dataclass(frozen=True)
class LoadingPlan:
    """Sizes of the part `data`.

    Args:
        dataset: size of the synthetic dataset, at least one batch.
        batch_size: of loading alone.
        epoch_steps: gradient steps of an epoch of loading inside training.
    """

    dataset: synthetic_dataset.DatasetSize
    batch_size: int
    epoch_steps: int


def measure(
    settings: tuple[peers.Setting, ...],
    plan: LoadingPlan,
    device: torch.device,
    rounds: int,
    folder: Path,
) -> dict[str, Any]:
    """Measure loading alone, memory, and loading inside training.

    Args:
        settings: encoders to train with; the first one's observations make the dataset.
        plan: sizes.
        device: of the training.
        rounds: samples of each.
        folder: for the dataset.

    Returns:
        `batch_size`, `transitions`, `raw_image_bytes`; `batch`: way to samples [s]; `memory`: way
        to bytes; `epochs`: setting to way to phase to one number a round [s].
    """
    first = peers.load_config(settings[0], peers.OURS[0])
    path = folder / "synthetic.hdf5"
    synthetic_dataset.write(path, peers.raw_shapes(first, settings[0].image_size), plan.dataset)
    peers.announce_observations(first)
    memory, contenders = {}, []
    for way in WAYS:
        dataset = _dataset(settings[0], way, path)
        memory[way] = held_bytes(dataset)
        batches = _endless(_loader(dataset, plan.batch_size))
        contenders.append(timing.Contender(way, partial(next, batches)))
    batch = timing.interleave(contenders, rounds, title="loading")
    del contenders
    return {
        "batch_size": plan.batch_size,
        "transitions": plan.dataset.demos * plan.dataset.steps,
        "raw_image_bytes": raw_image_bytes(path, first),
        "batch": batch,
        "memory": memory,
        "epochs": {s.name: _epochs(s, plan, device, rounds, path) for s in settings},
    }


def _dataset(setting: peers.Setting, way: str, path: Path) -> Any:
    config = peers.load_config(setting, peers.OURS[0], WAYS[way])
    with config.values_unlocked():
        config.train.hdf5_filter_key = None
        config.train.data = _data_entry(config, path)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return train_utils.dataset_factory(config, obs_keys=sorted(config.all_obs_keys))


def _data_entry(config: Any, path: Path) -> Any:
    """robomimic 0.5.0's factory wants a list where configs have a path. Drop with robomimic 0.3."""
    return [{"path": str(path)}] if "action_config" in config.train else str(path)


def _loader(dataset: Any, batch_size: int) -> DataLoader:
    sampler = dataset.get_dataset_sampler()
    return DataLoader(
        dataset,
        sampler=sampler,
        shuffle=sampler is None,
        batch_size=batch_size,
        num_workers=0,
        drop_last=True,
    )


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def held_bytes(root: Any) -> int:
    """Bytes of all arrays and tensors that an object refers to, shared memory counted once.

    Memory-mapped files do not count: the operating system can drop their pages.

    Args:
        root: a dataset; its attributes are followed recursively.
    """
    seen: set[int] = set()
    buffers: dict[int, int] = {}
    stack = [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, str | bytes | int | float | type(None)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            buffers[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, np.memmap):
            continue
        elif isinstance(item, np.ndarray):
            while isinstance(item.base, np.ndarray):
                item = item.base
            buffers[item.__array_interface__["data"][0]] = item.nbytes
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set):
            stack.extend(item)
        elif type(item).__module__.startswith(("robomimic", "robomimic_vae_ext")):
            stack.extend(vars(item).values())
    return sum(buffers.values())


def raw_image_bytes(path: Path, config: Any) -> int:
    """Size of the images of a dataset as uint8, every observation once."""
    with h5py.File(path) as file:
        return sum(
            int(np.prod(demo[f"obs/{key}"].shape))
            for demo in file["data"].values()
            for key in config.observation.modalities.obs.rgb
        )


def _epochs(
    setting: peers.Setting, plan: LoadingPlan, device: torch.device, rounds: int, path: Path
) -> dict[str, dict[str, list[float]]]:
    """Run robomimic's epochs with both ways to load, in turn; return its time statistics."""
    config = peers.load_config(setting, peers.OURS[0])
    model = peers.build(config, peers.raw_shapes(config, setting.image_size), device)
    loaders = {way: _loader(_dataset(setting, way, path), setting.batch_size) for way in TRAINED}
    times: dict[str, dict[str, list[float]]] = {
        way: {phase: [] for phase in PHASES} for way in TRAINED
    }

    def epoch(way: str, steps: int) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return train_utils.run_epoch(model, loaders[way], epoch=1, num_steps=steps)

    def timed(way: str) -> None:
        log = epoch(way, plan.epoch_steps)
        for phase, name in PHASES.items():
            times[way][phase].append(60 * log[name])  # robomimic's are in minutes

    for way in TRAINED:
        epoch(way, timing.WARM_UP_CALLS)
    contenders = [timing.Contender(way, partial(timed, way)) for way in TRAINED]
    timing.interleave(
        contenders, rounds, title=f"loading in training, {setting.name}", warm_up=False
    )
    return times
