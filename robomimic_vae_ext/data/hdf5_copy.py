"""Copies HDF5 datasets; a copy appears when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py

from robomimic_vae_ext import files
from robomimic_vae_ext.data.hdf5 import (
    MIB,
    check_size,
    explain_damage,
    first_line,
    item_of,
    read_array,
    refuse_foreign_storage,
)
from robomimic_vae_ext.errors import DatasetError, OutputError, VaeExtError

FULL: Final = MIB  # a disk with less free space than this counts as full [byte]


@contextmanager
def new_file(target: Path, source: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a path to write to, which becomes `target` when the block ends without an error.

    Args:
        target: the file to make.
        source: the file that it is made from, which must be another one.
        overwrite: an existing target may be replaced.

    Raises:
        OutputError: `target` exists already, is the source, or the disk is full.
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
            f"{target} cannot be created ({first_line(error)})",
            "a folder to write to",
            "Choose another name.",
        ) from error
    try:
        yield unfinished
        os.replace(unfinished, target)
    except VaeExtError:
        raise
    except Exception as error:
        if shutil.disk_usage(target.parent).free > FULL:
            raise
        raise OutputError(
            f"{target} cannot be written ({first_line(error)}), and its disk is full",
            "space for the whole copy",
            "Free some, or choose another --out.",
        ) from error
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
    above: tuple[Any, ...] = (),
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
        above: the groups that `source` is in.
    """
    above = (*above, source)
    for name in source:
        if name in done:
            continue
        item = item_of(source, name, where)
        if isinstance(item, h5py.Group):
            if item in above:
                raise DatasetError(
                    f"{where}/{name} is a link to a group that it is in",
                    "groups that do not contain themselves",
                    "Remove the link.",
                )
            inner = target.create_group(name)
            copy_attributes(item, inner)
            copy_rest(item, inner, f"{where}/{name}", (), length, dropped, above)
        elif not isinstance(item, h5py.Dataset):
            source.copy(item, target, name)  # a named type
        elif dropped and item.shape and item.shape[0] in (length, length + 1):
            copy_rows(item, target, name, f"{where}/{name}", item.shape[0] - dropped)
        else:
            copy_array(item, target, name, f"{where}/{name}")


def copy_array(array: h5py.Dataset, target: h5py.Group, name: str, where: str) -> None:
    """Copy an array as it is stored."""
    refuse_foreign_storage(array, where)
    with explain_damage(where):
        if array.is_virtual or array.external:
            copy_rows(array, target, name, where, len(array))
        else:
            if array.shape is not None:
                check_size(array, where, in_memory=False)
            array.parent.copy(array, target, name)


def copy_rows(array: h5py.Dataset, target: h5py.Group, name: str, where: str, rows: int) -> None:
    """Copy the first rows of an array with its attributes, stored as it is."""
    refuse_foreign_storage(array, where)
    values = read_array(array, where, rows)
    target.create_dataset(name, data=values, **storage_of(array, values.shape))
    copy_attributes(array, target[name])


def storage_of(array: h5py.Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the compression and chunks of an array, for an array of another length."""
    # A chunk may be as long as the old array, but HDF5 refuses one longer than the new array.
    chunks = array.chunks and tuple(map(min, array.chunks, shape))
    options = {"compression": array.compression, "compression_opts": array.compression_opts}
    return options | {"chunks": chunks, "shuffle": array.shuffle or None}
