"""Opens a dataset and reads what identifies it: demonstrations and environment metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.errors import DatasetError

SHOW: Final = 12  # names listed in a message before it is cut


def open_dataset(path: Path) -> h5py.File:
    """Open the file for reading."""
    if not path.is_file():
        raise DatasetError(
            f"no file {path}", "a dataset", "Make one with scripts/collect_dataset.py."
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read as HDF5 ({str(error).splitlines()[0]})",
            "a complete HDF5 file",
            "It is truncated, still open for writing, or of another format: make or copy it again.",
        ) from error


def demo_names(file: h5py.File, path: Path) -> tuple[str, ...]:
    """Return the names of the demonstrations, by number."""
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        raise DatasetError(
            f"{path} has no group 'data' (it has {list_names(file)})",
            "robomimic's layout data/demo_N",
            "Convert it to that layout first.",
        )
    for name in data:
        if data.get(name) is None:
            raise DatasetError(
                f"{path}: data/{name} is a link to nothing",
                "a demonstration",
                "Remove it, or bring back what it led to.",
            )
    demos = [name for name in data if isinstance(data[name], h5py.Group)]
    if not demos:
        raise DatasetError(
            f"{path} has no demonstrations", "at least one data/demo_N", "Collect it again."
        )
    bad = [name for name in demos if not re.fullmatch("demo_[0-9]+", name)]
    if bad:
        raise DatasetError(
            f"{path}: demonstrations named {list_names(bad)}",
            "names demo_0, demo_1, ..., whose number robomimic sorts by",
            "Rename them.",
        )
    return tuple(sorted(demos, key=lambda name: int(name.removeprefix("demo_"))))


def read_env_args(file: h5py.File, path: Path) -> dict[str, Any]:
    """Return the environment metadata."""
    text = file["data"].attrs.get("env_args")
    action = "Add the JSON attribute env_args to the group data, as robomimic's datasets have it."
    if text is None:
        raise DatasetError(f"{path}: data has no attribute env_args", "env_args", action)
    try:
        env_args = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: env_args is not JSON ({error})", "a JSON object", action
        ) from error
    wanted = ("env_name", "type", "env_kwargs")
    absent = [key for key in wanted if not isinstance(env_args, dict) or key not in env_args]
    if absent:
        raise DatasetError(
            f"{path}: env_args without {list_names(absent)}",
            f"the keys {list_names(wanted)}",
            action,
        )
    if not isinstance(env_args["env_kwargs"], dict):
        raise DatasetError(
            f"{path}: env_args has env_kwargs {json.dumps(env_args['env_kwargs'])}",
            "a JSON object, {} if there is nothing to say",
            "Repair the attribute env_args of the group data.",
        )
    return dict(env_args)


def collected_as(path: Path) -> Any:
    """Settings that a dataset says it was collected with; None if it says nothing."""
    with open_dataset(path) as file:
        notes = file["data"].attrs.get("notes", "{}") if "data" in file else "{}"
    return json.loads(notes).get("collect")


def find_array(group: h5py.Group, key: str, where: str) -> Any:
    """Return an array of numbers (h5py.Dataset), or None if there is nothing of that name.

    Args:
        group: to look in.
        key: name of the array.
        where: name of `group` for messages.

    Raises:
        DatasetError: something else has that name.
    """
    if group.get(key, getlink=True) is None:
        return None
    item = group.get(key)
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
        return item
    kinds = {h5py.Dataset: "of type " + str(getattr(item, "dtype", "")), h5py.Group: "a group"}
    raise DatasetError(
        f"{where}/{key} is {kinds.get(type(item), 'a link to nothing')}",
        "an array of numbers",
        "Repair or leave out this demonstration.",
    )


def find_group(group: h5py.Group, key: str, where: str) -> Any:
    """Return a group, or None if there is nothing of that name; else as `find_array`."""
    if group.get(key, getlink=True) is None:
        return None
    item = group.get(key)
    if isinstance(item, h5py.Group):
        return item
    raise DatasetError(
        f"{where}/{key} is {'a link to nothing' if item is None else 'an array'}",
        "a group with one array per key",
        "Repair or leave out this demonstration.",
    )


def read_array(array: h5py.Dataset, where: str) -> np.ndarray:
    """Return all values.

    Raises:
        DatasetError: the file is damaged there.
    """
    try:
        values: np.ndarray = array[()]
    except OSError as error:
        raise DatasetError(
            f"{where} cannot be read ({str(error).splitlines()[0]})",
            "an undamaged file",
            "Copy or make it again, or leave out this demonstration.",
        ) from error
    return values


def list_names(names: Iterable[Any]) -> str:
    """Return names joined by commas, cut after a dozen."""
    names = [str(name) for name in names]
    more = [f"... {len(names) - SHOW} more"] if len(names) > SHOW else []
    return ", ".join(names[:SHOW] + more)
