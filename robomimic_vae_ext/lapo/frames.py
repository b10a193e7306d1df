"""Frames of a dataset: every observation once, in memory or in memory-mapped files.

Both ways hold the same rows in the same order, so that a batch does not depend on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil  # type: ignore[import-untyped]  # robomimic depends on it
import robomimic.utils.log_utils as log_utils
import torch
from torch import Tensor

from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.errors import DatasetError

logger = logging.getLogger(__name__)

GIB = 2.0**30


class TooLargeError(DatasetError):
    """Frames that need more memory than there is, or than is allowed."""


class RecordedApart(Exception):
    """Next observations that are not the observations after (noise, latency)."""


@dataclass(frozen=True)
class Layout:
    """Which demonstrations are stored, and in which rows.

    A demonstration of T transitions has T + 1 rows: its observations and the final next one.

    Args:
        names: of the demonstrations.
        lengths: transitions of each.
        starts: (len(names) + 1,) first row of each, and the number of rows.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    starts: np.ndarray

    @classmethod
    def of(cls, file: h5py.File, names: Sequence[str]) -> Layout:
        """Lay out these demonstrations of a file, one after the other."""
        lengths = tuple(int(file[f"data/{name}"].attrs["num_samples"]) for name in names)
        starts = np.concatenate([[0], np.cumsum([length + 1 for length in lengths])])
        return cls(tuple(names), lengths, starts.astype(np.int64))

    @property
    def rows(self) -> int:
        """Rows of a block that holds all of them."""
        return int(self.starts[-1])


@dataclass(frozen=True)
class FrameKind:
    """One observation key as the file stores it.

    Args:
        key: name of the observation.
        shape: of one frame.
        dtype: of its numbers.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, file: h5py.File, name: str, key: str) -> FrameKind:
        """Read it off a demonstration."""
        data = file[f"data/{name}/obs/{key}"]
        return cls(key, tuple(data.shape[1:]), data.dtype.newbyteorder("="))

    @property
    def is_picture(self) -> bool:
        """Whether it is worth a file of its own."""
        return len(self.shape) >= 2

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Frames:
    """All frames of one observation key.

    Row t of a demonstration holds observation t, its last row the final next observation. Where
    next observations were recorded apart, a second block of as many rows follows, whose row t + 1
    holds next observation t; its first rows are never read.

    Args:
        array: (rows, ...) or (2 * rows, ...); a memmap stays on disk.
        rows: of one block.
    """

    def __init__(self, array: np.ndarray, rows: int) -> None:
        self.array = array
        self.rows = rows

    @property
    def offset(self) -> int:
        """Rows from an observation to the next observation of the step before."""
        return len(self.array) - self.rows

    @property
    def path(self) -> Path | None:
        """File that the frames stay in; None: they are in memory."""
        name = getattr(self.array, "filename", None)
        return None if name is None else Path(name)

    def take(self, rows: Tensor, pin: bool = False) -> Tensor:
        """Copy observations (B, F) into a tensor (B, F, ...), in page-locked memory or not."""
        dtype = torch.from_numpy(np.empty(0, self.array.dtype)).dtype
        out = torch.empty((*rows.shape, *self.array.shape[1:]), dtype=dtype, pin_memory=pin)
        # Frames are copied as whole blocks; indexing a tensor goes number by number, five times
        # slower. "clip" lets numpy write straight into `out`; rows are never out of bounds.
        np.take(self.array, rows.numpy(), axis=0, out=out.numpy(), mode="clip")
        return out

    def take_next(self, rows: Tensor, pin: bool = False) -> Tensor:
        """The same with the newest frame of every stack as a next observation."""
        rows = rows.clone()
        rows[:, -1] += self.offset
        return self.take(rows, pin)

    def __getstate__(self) -> dict[str, Any]:
        # Spawned workers open the file again: pickling a memmap would copy all of it.
        on_disk = self.path is not None
        return {"array": self.path if on_disk else self.array, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        array = state["array"]
        self.array = map_file(array) if isinstance(array, Path) else array
        self.rows = state["rows"]


def map_file(path: Path) -> np.ndarray:
    """Map a .npy file, read-only: Linux refuses writable maps of more than the whole memory."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def read_blocks(
    file: h5py.File, kind: FrameKind, layout: Layout, apart: bool
) -> Iterator[np.ndarray]:
    """Read the rows of one key, in their order.

    Args:
        file: the dataset.
        kind: what to read.
        layout: of the rows.
        apart: whether to add the second block; see `Frames`.

    Raises:
        RecordedApart: a second block is needed.
        DatasetError: a demonstration with more or fewer observations than transitions.
    """
    for name, length in zip(layout.names, layout.lengths, strict=True):
        obs, next_obs = (_part(file, name, part, kind, length) for part in ("obs", "next_obs"))
        if not apart and not np.array_equal(obs[1:], next_obs[:-1]):
            raise RecordedApart
        yield obs
        yield next_obs[-1:]
    for name, length in zip(layout.names, layout.lengths, strict=True) if apart else ():
        next_obs = _part(file, name, "next_obs", kind, length)
        yield next_obs[:1]
        yield next_obs


def _part(file: h5py.File, name: str, part: str, kind: FrameKind, length: int) -> np.ndarray:
    where = f"data/{name}/{part}/{kind.key}"
    array = file[where]
    # A row for the state after the last transition is not read, as by robomimic.
    surplus = bool(array.shape) and len(array) == length + 1
    frames = hdf5.read_array(array, f"{file.filename}: {where}", length if surplus else None)
    # Demonstrations may differ in precision, but numbers must not become pixels.
    castable = np.can_cast(frames.dtype, kind.dtype, "same_kind")
    if frames.shape != (length, *kind.shape) or not castable:
        raise DatasetError(
            f"{file.filename}: {where} is {frames.shape} of {frames.dtype}",
            f"{(length, *kind.shape)} of {kind.dtype}, by its number of transitions and the "
            "first demonstration",
            "Check it with `lapo validate`.",
        )
    return frames.astype(kind.dtype, copy=False)


def read_key(write: Callable[[bool], Frames]) -> Frames:
    """Write one key with one block of rows, or with two where it needs two."""
    try:
        return write(False)
    except RecordedApart:
        pass  # and let go of the first attempt, which the exception still holds here
    return write(True)


def load_in_memory(
    file: h5py.File, kinds: Sequence[FrameKind], layout: Layout, max_gib: float
) -> dict[str, Frames]:
    """Read frames into memory.

    Args:
        file: the dataset.
        kinds: what to read.
        layout: of the rows.
        max_gib: most memory to use [GiB].

    Raises:
        TooLargeError: they need more, or more than is available now.
    """
    total = sum(layout.rows * kind.nbytes for kind in kinds)
    _refuse_if_too_large(file, total, total, max_gib)
    loaded: dict[str, Frames] = {}
    title = f"replay: {sum(layout.lengths):,} transitions, {total / GIB:.2f} GiB in memory"
    logger.info("%s", title)
    with log_utils.custom_tqdm(total=total, desc=title, unit="B", unit_scale=True) as bar:

        def read(kind: FrameKind, apart: bool) -> Frames:
            if apart:
                held = sum(frames.array.nbytes for frames in loaded.values())
                bar.n, bar.total = held, bar.total + layout.rows * kind.nbytes
                _refuse_if_too_large(file, bar.total, bar.total - held, max_gib)
            array = np.empty(((1 + apart) * layout.rows, *kind.shape), dtype=kind.dtype)
            row = 0
            for block in read_blocks(file, kind, layout, apart):
                array[row : row + len(block)] = block
                row += len(block)
                bar.update(block.nbytes)
            return Frames(array, layout.rows)

        for kind in kinds:
            loaded[kind.key] = read_key(partial(read, kind))
    return loaded


def _refuse_if_too_large(file: h5py.File, total: int, new: int, max_gib: float) -> None:
    available = psutil.virtual_memory().available
    if total <= max_gib * GIB and new <= available:
        return
    raise TooLargeError(
        f"{file.filename} holds {total / GIB:.2f} GiB of observations",
        f"at most algo.replay.max_gib = {max_gib} GiB, of which {available / GIB:.2f} GiB are free "
        "now",
        'Set algo.replay.storage to "disk" (pictures stay in a memory-mapped file), or raise '
        "max_gib on a machine with more memory.",
    )
