"""Opens and reads HDF5 files that may be damaged or made to do harm: the only door to h5py.

`open_dataset` turns every error of h5py inside its block into one `DatasetError`, and refuses links
to other files. `read_array` checks the size of an array before it takes memory for it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import psutil  # type: ignore[import-untyped]  # robomimic depends on it
from h5py import h5l

from robomimic_vae_ext.errors import DatasetError, VaeExtError

SHOW: Final = 12  # names listed in a message at most
LONGEST_NAME: Final = 60  # characters of a name in a message
MIB: Final = 2**20
SMALL: Final = 16 * MIB  # arrays up to this size are read whatever of them is stored
# A compressed array of more than this is refused if it unfolds to more than so many times the bytes
# that are stored: gzip reaches at most 1,032 times, real pictures 2 to 20 times.
LARGE: Final = 256 * MIB
MOST_UNFOLDING: Final = 200
COPY_AGAIN: Final = "Copy or create the file again."
FOLLOW: Final = "Copy it with `lapo convert --follow-links`, if you trust where it leads."

_follow_links: ContextVar[bool] = ContextVar("follow_links", default=False)


@contextmanager
def open_dataset(path: Path, follow_links: bool = False) -> Iterator[h5py.File]:
    """Open the file for reading; inside the block, errors of h5py become a `DatasetError`.

    Args:
        path: of the file.
        follow_links: whether what is stored in other files may be read.

    Raises:
        DatasetError: no file, not HDF5, damaged, or a link to another file.
    """
    if not path.is_file():
        raise DatasetError(f"no file {path}", "a dataset", "Make one with `lapo collect`.")
    try:
        file = _open(path)
    except Exception as error:
        raise DatasetError(
            f"{path} cannot be read as HDF5 ({first_line(error)})",
            "a complete HDF5 file",
            "It is truncated, open for writing, or of another format: create or copy it again.",
        ) from error
    token = _follow_links.set(follow_links)
    try:
        with explain_damage(path):
            if not follow_links:
                _refuse_external_links(file, path)
            yield file
    finally:
        _follow_links.reset(token)
        file.close()


def _open(path: Path) -> h5py.File:
    # As robomimic opens it: HDF5 refuses to open a file in two ways in one process.
    try:
        return h5py.File(path, "r", swmr=True, libver="latest")
    except OSError:
        return h5py.File(path, "r")


@contextmanager
def explain_damage(path: Path | str) -> Iterator[None]:
    """Turn errors that h5py raises inside the block into a `DatasetError`; leave all others."""
    try:
        yield
    except VaeExtError:
        raise
    except Exception as error:
        if not _comes_from_h5py(error):
            raise
        raise DatasetError(
            f"{path} cannot be read ({first_line(error)})", "an undamaged HDF5 file", COPY_AGAIN
        ) from error


def _comes_from_h5py(error: BaseException) -> bool:
    """Whether the function that raised the error is one of h5py."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "h5py" in Path(trace.tb_frame.f_code.co_filename).parts


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or else its kind."""
    lines = str(error).strip("'\" \n").splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_external_links(file: h5py.File, path: Path) -> None:
    # The low-level interface: visititems_links of h5py takes ten times as long.
    def find(name: bytes, link: Any) -> bytes | None:
        return name if link.type == h5l.TYPE_EXTERNAL else None

    found = file.id.links.visit(find, info=True)  # follows no link
    if found:
        raise DatasetError(
            f"{path}: {found.decode(errors='replace')} is a link to another file",
            "a file for itself",
            FOLLOW,
        )


def refuse_foreign_storage(array: h5py.Dataset, where: str) -> None:
    """Refuse an array whose numbers are in other files, unless `open_dataset` follows links."""
    if not _follow_links.get() and (array.is_virtual or array.external):
        raise DatasetError(f"{where} is stored in other files", "a file for itself", FOLLOW)


def item_of(group: h5py.Group, name: str, where: str) -> Any:
    """Return what a group has under a name; None if there is nothing.

    Raises:
        DatasetError: the name is a link that leads nowhere, or in a circle.
    """
    try:
        if group.get(name, getlink=True) is None:
            return None
        return group[name]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise DatasetError(
            f"{where}/{name} is a broken link ({first_line(error)})",
            "data",
            "Repair or remove the link.",
        ) from error


def demo_names(file: h5py.File, path: Path) -> tuple[str, ...]:
    """Return the names of the demonstrations, by number."""
    data = item_of(file, "data", str(path))
    if not isinstance(data, h5py.Group):
        raise DatasetError(
            f"{path} has no group 'data' (it has {list_names(file)})",
            "robomimic's layout data/demo_N",
            "Convert it to that layout first.",
        )
    demos = [name for name in data if isinstance(item_of(data, name, f"{path}: data"), h5py.Group)]
    if not demos:
        raise DatasetError(
            f"{path} has no demonstrations", "at least one data/demo_N", "Collect it again."
        )
    bad = [name for name in demos if not re.fullmatch("demo_[0-9]{1,9}", name)]
    if bad:
        raise DatasetError(
            f"{path}: demonstrations named {list_names(bad)}",
            "names demo_0, demo_1, ..., whose number robomimic sorts by",
            "Rename them.",
        )
    return tuple(sorted(demos, key=lambda name: int(name.removeprefix("demo_"))))


def read_json(text: Any, what: str, action: str) -> Any:
    """Parse a JSON attribute.

    Args:
        text: of the attribute.
        what: its name for messages.
        action: what to do about an attribute that is no JSON.
    """
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{what} is not JSON ({error})", "a JSON object", action) from error


def collected_as(path: Path) -> Any:
    """Settings that a dataset was collected with, from its notes; None if they do not say."""
    with open_dataset(path) as file:
        data = item_of(file, "data", str(path))
        text = data.attrs.get("notes", "{}") if isinstance(data, h5py.Group) else "{}"
    try:
        notes = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None  # notes of others
    return notes.get("collect") if isinstance(notes, dict) else None


def find_array(group: h5py.Group, key: str, where: str) -> Any:
    """Return an array of numbers (h5py.Dataset), or None if there is none of that name.

    Args:
        group: of the demonstration.
        key: name of the array.
        where: name of `group` for messages.

    Raises:
        DatasetError: that name is not an array of numbers.
    """
    item = item_of(group, key, where)
    if item is None:
        return None
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and item.shape is not None:
        refuse_foreign_storage(item, f"{where}/{key}")
        return item
    kinds = {h5py.Dataset: "of type " + str(getattr(item, "dtype", "")), h5py.Group: "a group"}
    raise DatasetError(
        f"{where}/{key} is {kinds.get(type(item), 'no array')}",
        "an array of numbers",
        "Repair or leave out this demonstration.",
    )


def find_group(group: h5py.Group, key: str, where: str) -> Any:
    """Return a group, or None if there is none of that name; otherwise as `find_array`."""
    item = item_of(group, key, where)
    if item is None or isinstance(item, h5py.Group):
        return item
    raise DatasetError(
        f"{where}/{key} is an array",
        "a group with one array per key",
        "Repair or leave out this demonstration.",
    )


def read_array(array: h5py.Dataset, where: str, rows: int | None = None) -> np.ndarray:
    """Return the values of an array.

    Args:
        array: of any type.
        where: its name for messages.
        rows: only so many of the first; None: all.

    Raises:
        DatasetError: the file is damaged there, or declares more than it stores or memory holds.
    """
    check_size(array, where)
    try:
        values: np.ndarray = array[()] if rows is None else array[:rows]
    except Exception as error:
        raise DatasetError(
            f"{where} cannot be read ({first_line(error)})",
            "an undamaged file",
            "Copy or create the file again, or leave out this demonstration.",
        ) from error
    return values


def check_size(array: h5py.Dataset, where: str, in_memory: bool = True) -> None:
    """Refuse an array that declares more than the file stores.

    Args:
        array: of any type.
        where: its name for messages.
        in_memory: whether it is to fit in the free memory, too.
    """
    if array.shape is None:
        raise DatasetError(f"{where} has no values", "an array", "Repair or remove it.")
    size = math.prod(map(int, array.shape)) * array.dtype.itemsize
    blocks = array.chunks or ()
    if blocks:  # one block may be longer than the array, and is read whole
        size = max(size, math.prod(map(int, blocks)) * array.dtype.itemsize)
    if size <= SMALL:
        return
    stored = array.id.get_storage_size()
    if blocks:
        axes = zip(array.shape, blocks, strict=True)
        needed = math.prod(-(-int(length) // int(block)) for length, block in axes)
        missing = array.id.get_num_chunks() < needed
    else:
        missing = stored == 0
    shape = tuple(map(int, array.shape))
    if (missing and not array.is_virtual) or (size > LARGE and size > MOST_UNFOLDING * stored > 0):
        raise DatasetError(
            f"{where} declares {shape}, {size / MIB:,.0f} MiB, and the file stores "
            f"{stored / MIB:,.2f} MiB of it",
            "an array that is stored",
            "Create it again, or remove it.",
        )
    available = psutil.virtual_memory().available
    if in_memory and size > available:
        raise DatasetError(
            f"{where} is {shape}, {size / MIB:,.0f} MiB",
            f"an array that fits in the free memory, {available / MIB:,.0f} MiB",
            "Split it into more demonstrations, or use a machine with more memory.",
        )


def list_names(names: Iterable[Any]) -> str:
    """Return names joined by commas, at most a dozen of them, long ones cut."""
    names = [str(name) for name in names]
    more = [f"... {len(names) - SHOW} more"] if len(names) > SHOW else []
    cut = [n if len(n) <= LONGEST_NAME else n[:LONGEST_NAME] + "..." for n in names[:SHOW]]
    return ", ".join(cut + more)
