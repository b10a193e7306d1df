"""Opens, reads and copies HDF5 datasets; a copy appears when it is complete."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import DatasetError, OutputError

SHOW: Final = 12  # names listed in a message at most


def open_dataset(path: Path) -> h5py.File:
    """Open the file for reading."""
    if not path.is_file():
        raise DatasetError(f"no file {path}", "a dataset", "Make one with `lapo collect`.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read as HDF5 ({str(error).splitlines()[0]})",
            "a complete HDF5 file",
            "It is truncated, open for writing, or of another format: create or copy it again.",
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
                f"{path}: data/{name} is a broken link",
                "a demonstration",
                "Remove the link, or restore its target.",
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
            "a JSON object, which may be empty",
            "Repair the attribute env_args of the group data.",
        )
    return dict(env_args)


def collected_as(path: Path) -> Any:
    """Settings that a dataset was collected with, from its notes; None if they do not say."""
    with open_dataset(path) as file:
        notes = file["data"].attrs.get("notes", "{}") if "data" in file else "{}"
    return json.loads(notes).get("collect")


def find_array(group: h5py.Group, key: str, where: str) -> Any:
    """Return an array of numbers (h5py.Dataset), or None if there is none of that name.

    Args:
        group: of the demonstration.
        key: name of the array.
        where: name of `group` for messages.

    Raises:
        DatasetError: that name is not an array of numbers.
    """
    if group.get(key, getlink=True) is None:
        return None
    item = group.get(key)
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
        return item
    kinds = {h5py.Dataset: "of type " + str(getattr(item, "dtype", "")), h5py.Group: "a group"}
    raise DatasetError(
        f"{where}/{key} is {kinds.get(type(item), 'a broken link')}",
        "an array of numbers",
        "Repair or leave out this demonstration.",
    )


def find_group(group: h5py.Group, key: str, where: str) -> Any:
    """Return a group, or None if there is none of that name; otherwise as `find_array`."""
    if group.get(key, getlink=True) is None:
        return None
    item = group.get(key)
    if isinstance(item, h5py.Group):
        return item
    raise DatasetError(
        f"{where}/{key} is {'a broken link' if item is None else 'an array'}",
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
            "Copy or create the file again, or leave out this demonstration.",
        ) from error
    return values


def list_names(names: Iterable[Any]) -> str:
    """Return names joined by commas, at most a dozen of them."""
    names = [str(name) for name in names]
    more = [f"... {len(names) - SHOW} more"] if len(names) > SHOW else []
    return ", ".join(names[:SHOW] + more)


@contextmanager
def new_file(target: Path, source: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a path to write to, which becomes `target` when the block ends without an error.

    Args:
        target: the file to make.
        source: the file that it is made from, which must be another one.
        overwrite: an existing target may be replaced.

    Raises:
        OutputError: `target` exists already, or is the source.
        DatasetError: `target` cannot be made.
    """
    files.check_output(target, overwrite)
    if target.exists() and target.samefile(source):
        raise OutputError(
            f"{target} is the source",
            "another file, since the source is never changed",
            "Choose another target.",
        )
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        h5py.File(unfinished, "w").close()
    except OSError as error:
        raise DatasetError(
            f"{target} cannot be created ({str(error).splitlines()[0]})",
            "a folder to write to",
            "Choose another name.",
        ) from error
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def copy_attributes(source: h5py.Group, target: h5py.Group) -> None:
    """Copy all attributes."""
    for key, value in source.attrs.items():
        target.attrs[key] = value


def copy_outside(
    old: h5py.File, new: h5py.File, source: Path, demos: Collection[str]
) -> h5py.Group:
    """Copy everything but the demonstrations, and return the new group for these."""
    copy_attributes(old, new)
    copy_rest(old, new, str(source), ("data",))
    data = new.create_group("data")
    copy_attributes(old["data"], data)
    copy_rest(old["data"], data, f"{source}: data", demos)
    return data


def copy_rest(
    source: h5py.Group,
    target: h5py.Group,
    where: str,
    done: Collection[str] = (),
    length: int = 0,
    dropped: int = 0,
) -> None:
    """Copy the content of a group as it is, including arrays that this package does not know.

    Args:
        source: a group.
        target: to copy to.
        where: name of `source` for messages.
        done: names in `source` that are not copied.
        length: number of steps of the demonstration.
        dropped: number of its last steps that are left out, also from arrays with one value per
            step or per state (`length` or `length` + 1 rows).
    """
    for name in source:
        if name in done:
            continue
        item = source.get(name)
        if item is None:
            raise DatasetError(
                f"{where}/{name} is a broken link",
                "data",
                "Repair or remove the link.",
            )
        if isinstance(item, h5py.Group):
            inner = target.create_group(name)
            copy_attributes(item, inner)
            copy_rest(item, inner, f"{where}/{name}", (), length, dropped)
        elif dropped and item.shape and item.shape[0] in (length, length + 1):
            values = read_array(item, f"{where}/{name}")[:-dropped]
            target.create_dataset(name, data=values, **storage_of(item, values.shape))
            copy_attributes(item, target[name])
        else:
            source.copy(item, target, name)


def storage_of(array: h5py.Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the compression and chunks of an array, for an array of another length."""
    # A chunk may be as long as the old array, but HDF5 refuses one longer than the new array.
    chunks = array.chunks and tuple(map(min, array.chunks, shape))
    options = {"compression": array.compression, "compression_opts": array.compression_opts}
    return options | {"chunks": chunks, "shuffle": array.shuffle or None}
