"""robomimic's HDF5 layout: episodes, filter keys (masks), and the whole file.

data                      attrs: total, env_args
  demo_0                  attrs: num_samples, model_file (and ours: behaviour, success, ...)
    obs/KEY               (T, ...)
    next_obs/KEY          (T, ...)
    actions rewards dones states
mask/NAME                 names of demonstrations
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.errors import DatasetError

VALID_SHARE: Final = 0.1
STEP_ARRAYS: Final = ("actions", "rewards", "dones", "states")


@dataclass(frozen=True)
class DatasetSummary:
    """Totals of a written dataset.

    Args:
        transitions: number of transitions.
        successes: number of successful episodes.
    """

    transitions: int
    successes: int


def write_episode(group: h5py.Group, episode: dict[str, Any]) -> None:
    """Write one episode from `run_episode`: T + 1 observations, each stored once."""
    for key, values in episode["obs"].items():
        group.create_dataset(f"obs/{key}", data=values)
    for key in STEP_ARRAYS:
        group.create_dataset(key, data=episode[key])
    for key, value in episode["attrs"].items():
        group.attrs[key] = value


def write_dataset(
    path: Path,
    episodes: Sequence[Path],
    env_args: dict[str, Any],
    notes: dict[str, Any],
    seed: int,
    compress: str = "",
) -> DatasetSummary:
    """Join episode files into one robomimic dataset.

    Args:
        path: of the file to write; replaced if it exists.
        episodes: files written by `write_episode`, in the order of the demonstrations.
        env_args: robomimic's environment metadata.
        notes: JSON values to keep in an attribute of `data`.
        seed: of the split into train and valid.
        compress: `gzip`, `lzf` or empty, for images.

    Returns:
        Totals.
    """
    total, behaviours, successes, starts = 0, [], [], []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for index, episode_path in enumerate(episodes):
            with h5py.File(episode_path, "r") as episode:
                total += _copy_episode(episode, data.create_group(f"demo_{index}"), compress)
                behaviours.append(str(episode.attrs["behaviour"]))
                successes.append(bool(episode.attrs["success"]))
                starts.append(episode.attrs.get("seed", f"demo_{index}"))
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
        masks = make_masks(behaviours, successes, seed, starts)
        for name, demos in masks.items():
            file.create_dataset(f"mask/{name}", data=np.array(demos, dtype="S"))
        data.attrs["notes"] = json.dumps(notes | count_episodes(behaviours, successes), indent=4)
    return DatasetSummary(total, sum(successes))


def count_episodes(behaviours: Sequence[str], successes: Sequence[bool]) -> dict[str, Any]:
    """Return the counts of episodes and successes for a dataset's notes."""
    pairs = list(zip(behaviours, successes, strict=True))
    counts = {
        name: {
            "episodes": behaviours.count(name),
            "successes": sum(success for behaviour, success in pairs if behaviour == name),
        }
        for name in sorted(set(behaviours))
    }
    return {"behaviours": counts, "success_rate": sum(successes) / len(successes)}


def _copy_episode(source: h5py.File, target: h5py.Group, compress: str) -> int:
    """Copy an episode, writing next observations explicitly; return its length."""
    length: int = source["actions"].shape[0]
    for key, values in source["obs"].items():
        write_observations(target, key, values[()], compress)
    for key in STEP_ARRAYS:
        target.create_dataset(key, data=source[key][()])
    for key, value in source.attrs.items():
        target.attrs[key] = value
    target.attrs["num_samples"] = length
    return length


def write_observations(target: h5py.Group, key: str, values: np.ndarray, compress: str) -> None:
    """Write T + 1 observations as `obs` and `next_obs` of T transitions."""
    options: dict[str, Any] = {}
    if compress and values.ndim == 4:
        # One chunk per image: training reads single time steps in random order.
        options = {"compression": compress, "chunks": (1, *values.shape[1:])}
    target.create_dataset(f"obs/{key}", data=values[:-1], **options)
    target.create_dataset(f"next_obs/{key}", data=values[1:], **options)


def check_compression(compress: str) -> None:
    """Raise a `DatasetError` if this is not a known compression."""
    if compress not in ("", "gzip", "lzf"):
        raise DatasetError(f"compression {compress!r}", "gzip or lzf", "Change or omit --compress.")


def make_masks(
    behaviours: Sequence[str],
    successes: Sequence[bool],
    seed: int,
    starts: Sequence[Any] | None = None,
    demos: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Return the filter keys of a dataset; none of them is empty.

    Args:
        behaviours: name of every episode's behaviour.
        successes: whether it succeeded.
        seed: of the split.
        starts: identifies every episode's initial state; episodes with the same one are never on
            both sides of the split. None: all differ.
        demos: names of the demonstrations; empty for demo_0, demo_1, ...

    Returns:
        `train` and `valid` (a tenth, at least one of two or more), one key per behaviour,
        `success`, `failure`, and the part of each of these in either split, named as by robomimic's
        `split_train_val.py --filter_key`: `success_train`, `success_valid`, ...
    """
    count = len(behaviours)
    names = list(range(count)) if starts is None else [str(start) for start in starts]
    distinct = list(dict.fromkeys(names))
    valid_count = max(int(VALID_SHARE * len(distinct)), min(1, len(distinct) - 1))
    order = np.random.default_rng([seed, len(distinct)]).permutation(len(distinct))
    held_out = {distinct[i] for i in order[:valid_count]}
    valid = {i for i in range(count) if names[i] in held_out}
    groups = {"success": [i for i in range(count) if successes[i]]}
    groups["failure"] = [i for i in range(count) if not successes[i]]
    for name in sorted(set(behaviours)):
        groups[name] = [i for i in range(count) if behaviours[i] == name]
    indices = {
        "train": [i for i in range(count) if i not in valid],
        "valid": sorted(valid),
    }
    for name, members in groups.items():
        indices[name] = members
        indices[f"{name}_train"] = [i for i in members if i not in valid]
        indices[f"{name}_valid"] = [i for i in members if i in valid]
    demos = demos or [f"demo_{i}" for i in range(count)]
    return {name: [demos[i] for i in members] for name, members in indices.items() if members}
