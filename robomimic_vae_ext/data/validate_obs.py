"""Checks the observations of a dataset; see `validate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from robomimic_vae_ext.data.hdf5 import find_array, find_group, list_names, read_array
from robomimic_vae_ext.errors import DatasetError

CONVERT: Final = "lapo convert IN OUT"


def reference_shapes(
    demo: h5py.Group, where: str, path: Path, obs_keys: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of one observation per key of the first demonstration.

    Args:
        demo: the first demonstration.
        where: its name for messages.
        path: of the dataset.
        obs_keys: keys that must exist; empty for all keys of the demonstration.
    """
    obs = find_group(demo, "obs", where)
    if not obs:
        raise DatasetError(
            f"{where} has no observations",
            "data/demo_N/obs/KEY",
            f"If it has simulator states, make observations from them with {CONVERT} --replay.",
        )
    for key in obs_keys:
        if key in obs:
            continue
        if key.endswith("_image"):
            cameras = [k.removesuffix("_image") for k in obs if k.endswith("_image")]
            raise DatasetError(
                f"{path} has no images of camera {key.removesuffix('_image')!r}",
                f"one of its cameras ({list_names(cameras) or 'none'})",
                "Use one of these in observation.modalities, or collect with --cameras.",
            )
        raise DatasetError(
            f"{path} has no observation {key!r}",
            f"one of its keys ({list_names(obs)})",
            "Use one of these in observation.modalities.",
        )
    shapes = {}
    for key in obs_keys or sorted(obs):
        array = find_array(obs, key, f"{where}/obs")
        shapes[key] = tuple(array.shape[1:])
        if 0 in shapes[key]:
            raise DatasetError(
                f"{where}/obs/{key} is {array.shape}",
                "at least one number per step",
                "Leave it out.",
            )
        if len(shapes[key]) == 3:
            _check_picture(array, f"{where}/obs/{key}")
    return shapes


def _check_picture(array: h5py.Dataset, where: str) -> None:
    """Check that images are uint8 (H, W, 3), or depth (H, W, 1), as robomimic reads them."""
    shape = tuple(array.shape[1:])
    if shape[-1] not in (1, 3):
        raise DatasetError(
            f"{where} has images of shape {shape}",
            "(height, width, 3), or (height, width, 1) for depth",
            "Move the channels to the last axis." if shape[0] in (1, 3) else "Leave it out.",
        )
    if shape[-1] == 3 and array.dtype != np.uint8:
        raise DatasetError(
            f"{where} has images of type {array.dtype}",
            "uint8 from 0 to 255, which robomimic divides by 255",
            "Write them as uint8, times 255 if they are in [0, 1].",
        )


def check_observations(
    demo: h5py.Group,
    where: str,
    length: int,
    reference: dict[str, tuple[int, ...]],
    first: str,
    need_next: bool,
    read_pictures: bool = False,
) -> None:
    """Compare observations with those of the first demonstration; find NaN and infinity.

    Args:
        demo: a demonstration.
        where: its name for messages.
        length: its number of actions.
        reference: shapes from `reference_shapes`.
        first: name of the first demonstration.
        need_next: whether `next_obs` must exist.
        read_pictures: whether to read uint8 images too.
    """
    for part in ("obs", "next_obs") if need_next else ("obs",):
        group = find_group(demo, part, where)
        if group is None:
            raise DatasetError(
                f"{where} has no {part}",
                f"{part}, which a critic learns from",
                f"Add them with {CONVERT}.",
            )
        for key, shape in reference.items():
            array = find_array(group, key, f"{where}/{part}")
            if array is None:
                raise DatasetError(
                    f"{where}/{part} has no {key!r}",
                    f"the key that data/{first}/obs has",
                    "Leave out this demonstration or this key.",
                )
            if array.shape != (length, *shape):
                raise DatasetError(
                    f"{where}/{part}/{key} is {array.shape}",
                    f"{(length, *shape)}, from its number of actions and data/{first}",
                    "Leave out this demonstration or collect it again.",
                )
            if len(shape) == 3:
                _check_picture(array, f"{where}/{part}/{key}")
            # uint8 images, most of a file, are always finite: they are read only to find damage.
            if array.dtype.kind == "f" or len(shape) < 3 or read_pictures:
                name = f"{where}/{part}/{key}"
                check_finite(read_array(array, name), name)


def check_finite(values: np.ndarray, where: str) -> None:
    """Raise a `DatasetError` that names the first step that is NaN or infinite."""
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DatasetError(
            f"{where} is NaN or infinite at step {step}",
            "finite numbers",
            "Repair or leave out this demonstration.",
        )
