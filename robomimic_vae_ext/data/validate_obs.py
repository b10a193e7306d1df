"""Checks the observations of a dataset; see `validate`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.description import Column, Demonstration, Description
from robomimic_vae_ext.data.env_metadata import LARGEST_SIDE
from robomimic_vae_ext.data.hdf5 import list_names, read_array
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)
CONVERT: Final = "lapo convert IN OUT"
LARGEST: Final = 1e15  # of an observation: float32 holds its square
#: Types that robomimic hands to torch, and torch takes.
TYPES: Final = frozenset(
    np.dtype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")
)
_PICTURE_NAME: Final = re.compile("image|rgb|depth", re.IGNORECASE)


def reference_shapes(found: Description, obs_keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of one observation per key, from the first demonstration.

    Args:
        found: the dataset.
        obs_keys: keys that must exist; empty for all keys of the demonstration.
    """
    first, path = found.demonstrations[0], found.path
    where = f"{path}: data/{first.name}"
    columns = found.observations
    nested = [name for name in first.nested if name.startswith("obs/")]
    asked = {f"obs/{key}" for key in obs_keys}
    for name in nested:
        if not obs_keys or name in asked:
            raise DatasetError(
                f"{where}/{name} is a group",
                "an array of numbers",
                f"Leave it out with {CONVERT}.",
            )
    if not columns:
        raise DatasetError(
            f"{where} has no observations",
            "data/demo_N/obs/KEY",
            f"If it has simulator states, make observations from them with {CONVERT} --replay.",
        )
    for key in obs_keys:
        if key in columns:
            continue
        if key.endswith("_image"):
            cameras = [k.removesuffix("_image") for k in columns if k.endswith("_image")]
            raise DatasetError(
                f"{path} has no images of camera {key.removesuffix('_image')!r}",
                f"one of its cameras ({list_names(cameras) or 'none'})",
                "Use one of these in observation.modalities, or collect with --cameras.",
            )
        raise DatasetError(
            f"{path} has no observation {key!r}",
            f"one of its keys ({list_names(columns)})",
            "Use one of these in observation.modalities.",
        )
    shapes = {}
    for key in obs_keys or sorted(columns):
        shapes[key] = columns[key].shape
        if 0 in shapes[key]:
            raise DatasetError(
                f"{where}/obs/{key} is {first.columns[f'obs/{key}'].shape}",
                "at least one number per step",
                "Leave it out.",
            )
        check_column(columns[key], key, f"{where}/obs/{key}")
    return shapes


def check_column(column: Column, key: str, where: str) -> None:
    """Check what one step of an observation is, as far as its shape and type tell.

    Args:
        column: of one step: (), (D,), (H, W) or (H, W, C).
        key: its name.
        where: its name for messages.
    """
    if column.dtype not in TYPES:
        raise DatasetError(
            f"{where} is of type {column.dtype} ({column.dtype.byteorder})",
            "float32, float64 or uint8 in the machine's byte order, which torch takes",
            "Write it as float32.",
        )
    shape = column.shape
    if len(shape) == 2 and (column.dtype == np.uint8 or _PICTURE_NAME.search(key)):
        raise DatasetError(
            f"{where} has pictures of shape {shape}",
            "(height, width, 3), or (height, width, 1) for depth",
            "Add the last axis: array[..., None] for depth; grey pictures repeated to three "
            "channels.",
        )
    if len(shape) == 3:
        _check_picture(column, where)


def _check_picture(column: Column, where: str) -> None:
    """Check that images are uint8 (H, W, 3), or depth (H, W, 1), as robomimic reads them."""
    shape = column.shape
    if shape[-1] not in (1, 3):
        raise DatasetError(
            f"{where} has images of shape {shape}",
            "(height, width, 3), or (height, width, 1) for depth",
            "Move the channels to the last axis." if shape[0] in (1, 3) else "Leave it out.",
        )
    if shape[-1] == 3 and column.dtype != np.uint8:
        raise DatasetError(
            f"{where} has images of type {column.dtype}",
            "uint8 from 0 to 255, which robomimic divides by 255",
            "Write them as uint8, times 255 if they are in [0, 1].",
        )
    if max(shape[:2]) > LARGEST_SIDE:
        raise DatasetError(
            f"{where} has images of {shape[0]}x{shape[1]} pixels",
            f"at most {LARGEST_SIDE} a side",
            "Scale them down.",
        )


def check_observations(
    group: h5py.Group,
    demo: Demonstration,
    where: str,
    reference: Mapping[str, tuple[int, ...]],
    first: str,
    need_next: bool,
    read_pictures: bool = False,
) -> None:
    """Compare observations with those of the first demonstration; find NaN and infinity.

    Args:
        group: of the demonstration.
        demo: its description.
        where: its name for messages.
        reference: shapes from `reference_shapes`.
        first: name of the first demonstration.
        need_next: whether `next_obs` must exist.
        read_pictures: whether to read uint8 images too.
    """
    for part in ("obs", "next_obs") if need_next else ("obs",):
        if not demo.keys(part):
            raise DatasetError(
                f"{where} has no {part}",
                f"{part}, which a critic learns from",
                f"Add them with {CONVERT}.",
            )
        for key, shape in reference.items():
            name = f"{where}/{part}/{key}"
            column = _column(demo, part, key, where, first)
            if column.shape[1:] != shape or column.rows not in (demo.length, demo.length + 1):
                raise DatasetError(
                    f"{name} is {column.shape}",
                    f"{(demo.length, *shape)}, from its number of actions and data/{first}",
                    "Leave out this demonstration or collect it again.",
                )
            check_column(Column(shape, column.dtype), key, name)
            # uint8 images, most of a file, are always finite: they are read only to find damage.
            if column.dtype.kind == "f" or len(shape) < 3 or read_pictures:
                values = read_array(group[f"{part}/{key}"], name, demo.length)
                check_finite(values, name)
                _check_size(values, name)


def _column(demo: Demonstration, part: str, key: str, where: str, first: str) -> Column:
    column: Any = demo.columns.get(f"{part}/{key}")
    if column is None:
        if f"{part}/{key}" in demo.nested:
            raise DatasetError(
                f"{where}/{part}/{key} is a group", "an array of numbers", "Leave it out."
            )
        raise DatasetError(
            f"{where}/{part} has no {key!r}",
            f"the key that data/{first}/obs has",
            "Leave out this demonstration or this key.",
        )
    return Column(column.shape, column.dtype)


def check_finite(values: np.ndarray, where: str) -> None:
    """Raise a `DatasetError` that names the first step that is NaN or infinite."""
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DatasetError(
            f"{where} is NaN or infinite at step {step}",
            "finite numbers",
            "Repair or leave out this demonstration.",
        )


def _check_size(values: np.ndarray, where: str) -> None:
    if values.dtype.kind != "f" or values.dtype.itemsize < 4:
        return
    largest = max(float(values.max()), -float(values.min()))
    if largest > LARGEST:
        raise DatasetError(
            f"{where} reaches {largest:.3g}",
            f"numbers up to {LARGEST:g}, whose squares float32 can hold",
            "Repair or leave out this demonstration.",
        )
    if values.ndim == 4 and (largest > 1 or values.min() < 0):
        LOGGER.warning("%s is not in [0, 1], to which robomimic clips depth", where)
