"""Compares a config with a dataset before anything is trained: what two files say must agree."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from robomimic_vae_ext.data.description import Column, Demonstration, Description
from robomimic_vae_ext.data.rewards import returns_of
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import ConfigError, DatasetError

LOGGER: Final = logging.getLogger(__name__)

_BOUNDS_TOLERANCE: Final = 1e-3  # relative to the width of the bounds


@dataclass(frozen=True)
class Request:
    """What a training asks of a dataset, and what the file was when it was asked.

    Args:
        path: of the file.
        identity: changes when the file does.
        obs_keys: observations that must exist.
        masks: that must exist.
        need_transitions: whether next_obs, rewards and dones must exist.
        any_actions: whether actions may lie outside of [-1, 1].
    """

    path: Path
    identity: tuple[int, ...]
    obs_keys: tuple[str, ...]
    masks: tuple[str, ...]
    need_transitions: bool
    any_actions: bool


def check_dataset(
    config: Any, path: str | Path, mask: str | None = None, strict_bounds: bool = True
) -> Description:
    """Check a dataset, and that it fits the config; the same for every way to train.

    Args:
        config: of any algorithm.
        path: of one of its datasets.
        mask: that the dataset's entry in the config asks for, instead of the config's.
        strict_bounds: whether `check_bounds` refuses, or warns.

    Returns:
        What is in it.

    Raises:
        DatasetError: it cannot be trained on.
        ConfigError: config and dataset contradict each other.
    """
    path = Path(path)
    train, valid = config.train.hdf5_filter_key, config.train.hdf5_validation_filter_key
    masks = (mask, mask) if mask else (train, valid if config.experiment.validate else None)
    stat = path.stat() if path.is_file() else None
    identity = (stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else ()
    keys = tuple(sorted(config.all_obs_keys))
    wanted = tuple(dict.fromkeys(name for name in masks if name))
    need = bool(config.train.hdf5_load_next_obs)
    found = _validated(Request(path, identity, keys, wanted, need, _normalizes(config)))
    check_modalities(config, found)
    check_crops(config, found.obs_shapes)
    for name in dict.fromkeys(masks):
        if name is not None or masks[0] is None:
            demos = found.of_mask(name)
            check_batch_size(config, found, name, demos)
            try:
                check_bounds(config, found, demos)
            except ConfigError as error:
                if strict_bounds:
                    raise
                LOGGER.warning("%s", error)
    _compare_horizon(config, found)
    return found


@functools.lru_cache(maxsize=4)
def _validated(asked: Request) -> Description:
    """Read a file once for all that ask; a change of the file is another request."""
    return validate_dataset(
        asked.path,
        asked.obs_keys,
        asked.masks,
        need_transitions=asked.need_transitions,
        any_actions=asked.any_actions,
        compare_version=False,
    )


def _normalizes(config: Any) -> bool:
    """Whether actions are scaled to [-1, 1] when they are read (robomimic 0.5.0)."""
    actions = (config.train.get("action_config") or {}).get("actions") or {}
    return actions.get("normalization") is not None


def _modalities(config: Any) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Sections of observation keys: (where, modality, keys), of hierarchical algorithms too."""
    sections = {"observation": config.observation}
    sections |= {
        f"observation.{name}": part
        for name, part in config.observation.items()
        if isinstance(part, Mapping) and "modalities" in part
    }
    for prefix, section in sections.items():
        for use, modalities in (section.get("modalities") or {}).items():
            for modality, keys in modalities.items():
                yield f"{prefix}.modalities.{use}", modality, keys


def check_modalities(config: Any, found: Description) -> None:
    """Check that every observation is what its modality reads.

    Raises:
        ConfigError: a key under two modalities, or under one that cannot read it.
    """
    seen: dict[str, str] = {}
    for where, modality, keys in _modalities(config):
        for key in keys:
            if seen.setdefault(key, modality) != modality:
                raise ConfigError(
                    f"{where}.{modality} has {key!r}, which is under {seen[key]}, too",
                    "each key under one modality",
                    "Remove it from one of them.",
                )
            if key in found.observations:
                _check_modality(f"{where}.{modality}", modality, key, found)


def _check_modality(where: str, modality: str, key: str, found: Description) -> None:
    column = found.observations[key]
    problem = _PROBLEMS.get(modality, lambda _: None)(column)
    if problem is None:
        return
    expected, action = problem
    raise ConfigError(
        f"{where} has {key!r}, which is {column.shape} of {column.dtype} in {found.path}",
        expected,
        action,
    )


def _rgb_problem(column: Column) -> tuple[str, str] | None:
    if len(column.shape) == 3 and column.shape[-1] == 3 and column.dtype == np.uint8:
        return None
    if len(column.shape) == 1:
        action = "Move it to low_dim."
    elif column.shape[-1] == 3:
        action = "Write it as uint8, times 255 if it is in [0, 1]."
    else:
        action = (
            "Repeat a grey picture to three channels; move depth, (height, width, 1) of "
            "floating-point numbers, to the modality depth."
        )
    return "pictures (height, width, 3) of uint8", action


def _depth_problem(column: Column) -> tuple[str, str] | None:
    if len(column.shape) == 3 and column.shape[-1] == 1 and column.dtype.kind == "f":
        return None
    if column.shape[-1:] == (3,):
        action = "Move it to rgb."
    elif column.dtype.kind != "f":
        action = "Write it as float32, divided by its range: robomimic clips depth to [0, 1]."
    else:
        action = "Add the last axis: array[..., None]."
    return "pictures (height, width, 1) of floating-point numbers in [0, 1]", action


def _low_dim_problem(column: Column) -> tuple[str, str] | None:
    if len(column.shape) in (1, 2):
        return None
    if len(column.shape) == 0:
        return "a vector per step", "Write it with a second axis: array[:, None]."
    return "a vector per step", "Move pictures to rgb or depth."


_PROBLEMS: Final = {"rgb": _rgb_problem, "depth": _depth_problem, "low_dim": _low_dim_problem}


def check_crops(config: Any, obs_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse pictures that are not larger than their crop, as robomimic's crops have to be.

    Args:
        config: of any algorithm.
        obs_shapes: observation key to shape (H, W, C), as the dataset stores it.
    """
    for modality, keys in (config.observation.get("modalities") or {}).get("obs", {}).items():
        encoder = config.observation.encoder.get(modality)
        if encoder is None or "CropRandomizer" not in str(encoder.obs_randomizer_class):
            continue
        crop = tuple(encoder.obs_randomizer_kwargs.get(f"crop_{it}") for it in ("height", "width"))
        for key in keys:
            size = obs_shapes[key][:2]
            if None not in crop and any(c >= s for c, s in zip(crop, size, strict=True)):
                raise ConfigError(
                    f"{key} has {size[0]}x{size[1]} pixels and its crop {crop[0]}x{crop[1]}",
                    "pictures larger than the crop on both sides",
                    f"Change observation.encoder.{modality}.obs_randomizer_kwargs.",
                )


def check_batch_size(
    config: Any, found: Description, mask: str | None, demos: Sequence[Demonstration]
) -> None:
    """Refuse fewer transitions than a batch: stock train.py drops the last, incomplete one."""
    count = sum(demo.length for demo in demos)
    if count < config.train.batch_size:
        raise DatasetError(
            f"{f'mask {mask!r} of ' if mask else ''}{found.path} holds {count} transitions",
            f"at least one batch of {config.train.batch_size}",
            "Lower train.batch_size, or collect more.",
        )


def check_bounds(config: Any, found: Description, demos: Sequence[Demonstration]) -> None:
    """Refuse bounds of the value function that cut off returns which the dataset shows.

    Raises:
        ConfigError: a discounted return lies beyond `algo.critic.value_bounds`.
    """
    critic = config.algo.get("critic") or {}
    bounds, discount = critic.get("value_bounds"), config.algo.get("discount")
    paid = [demo for demo in demos if demo.rewards is not None]
    if not bounds or discount is None or not paid:
        return
    returns = [returns_of(demo.rewards, demo.dones, discount) for demo in paid]  # type: ignore[arg-type]
    low, high = min(map(np.min, returns)), max(map(np.max, returns))
    tolerance = _BOUNDS_TOLERANCE * (bounds[1] - bounds[0])
    if low >= bounds[0] - tolerance and high <= bounds[1] + tolerance:
        return
    wide = _enough(paid, discount, float(low), float(high))
    null = "" if critic.get("loss") == "hl_gauss" else ", or to null"
    raise ConfigError(
        f"algo.critic.value_bounds is {list(bounds)}, and the discounted returns of {found.path} "
        f"reach from {low:.4g} to {high:.4g} (rewards {found.reward_kind.value})",
        "bounds that hold every return, since values beyond them are cut off",
        f"Set algo.critic.value_bounds to {wide}{null}.",
    )


def _enough(
    demos: Sequence[Demonstration], discount: float, low: float, high: float
) -> list[float]:
    """Bounds that hold what is recorded, and what goes on after an end that is no done."""
    for demo in demos:
        goes_on = demo.rewards is not None and (demo.dones is None or not demo.dones[-1])
        if goes_on and discount < 1 and demo.rewards is not None:
            forever = float(demo.rewards[-1]) / (1.0 - discount)
            low, high = min(low, forever), max(high, forever)
    digits = 4
    step = 10.0 ** (np.floor(np.log10(max(abs(low), abs(high), 1e-9))) - digits + 1)
    # Rounded outwards, so that following the advice is enough; 0 is in: failures return it.
    ends = np.floor(min(low, 0.0) / step) * step, np.ceil(max(high, 0.0) / step) * step
    return [float(f"{end:.6g}") for end in ends]


def _compare_horizon(config: Any, found: Description) -> None:
    """Warn of rollouts that end before most demonstrations do."""
    rollout = config.experiment.rollout
    middle = float(np.median([demo.length for demo in found.demonstrations]))
    if rollout.enabled and rollout.horizon < middle:
        LOGGER.warning(
            "experiment.rollout.horizon is %d, and half of the demonstrations of %s take %d steps "
            "or more: rollouts may end before they can succeed",
            rollout.horizon, found.path, middle,
        )  # fmt: skip
