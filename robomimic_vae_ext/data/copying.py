"""Copies parts of a dataset into a new file, which appears when it is complete."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from robomimic_vae_ext.data.hdf5 import read_array
from robomimic_vae_ext.errors import DatasetError


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `target` when the block ends without an error.

    Raises:
        DatasetError: `target` exists or cannot be made.
    """
    if target.exists():
        raise DatasetError(f"{target} exists already", "a new file", "Choose another name.")
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        h5py.File(unfinished, "w").close()
    except OSError as error:
        raise DatasetError(
            f"{target} cannot be made ({str(error).splitlines()[0]})",
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
    """Copy what a group holds as it is, whatever it may mean.

    Args:
        source: a group.
        target: to copy to.
        where: name of `source` for messages.
        done: names in `source` that are not to be copied.
        length: number of steps of the demonstration.
        dropped: number of its last steps that are left out: arrays of one value for each of the
            `length` steps, or for each of the states between them, lose as many.
    """
    for name in source:
        if name in done:
            continue
        item = source.get(name)
        if item is None:
            raise DatasetError(
                f"{where}/{name} is a link to nothing",
                "what it once led to",
                "Repair or remove it.",
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
    """Return compression and chunks of an array, for one of another length."""
    # A chunk may be as long as the old array, and HDF5 takes none that is longer than the new one.
    chunks = array.chunks and tuple(map(min, array.chunks, shape))
    options = {"compression": array.compression, "compression_opts": array.compression_opts}
    return options | {"chunks": chunks, "shuffle": array.shuffle or None}
