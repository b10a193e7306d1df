"""Pictures in memory-mapped files: written once, uncompressed, shared by all that train on them.

One .npy file a key, with every demonstration of the dataset, whatever the mask: training,
validation and other seeds map the same file, and the operating system keeps its pages once.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import h5py
import numpy as np
import robomimic.utils.log_utils as log_utils

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.lapo.frames import (
    GIB,
    FrameKind,
    Frames,
    Layout,
    map_file,
    read_blocks,
    read_key,
)

logger = logging.getLogger(__name__)

FORMAT = 1  # counts changes of the rows' order; files of another format are written anew
SPOT_CHECKS = 32  # demonstrations whose ends are compared with the dataset before a file is used
_OTHER_FOLDER = "Set algo.replay.folder to a folder on a local disk with enough space."


@dataclass(frozen=True)
class Store:
    """Where the files of one dataset are.

    Args:
        folder: of the files.
        identity: changes when the dataset does.
    """

    folder: Path
    identity: str

    @classmethod
    def of(cls, dataset: Path, folder: str | None) -> Store:
        """Find the files of a dataset: beside it, or in a folder that many datasets share."""
        dataset = dataset.resolve()
        stat = dataset.stat()
        name = f"{dataset.name}.frames"
        if folder is not None:
            name = f"{dataset.name}-{_digest(str(dataset))}.frames"
        place = dataset.parent if folder is None else Path(folder).expanduser().absolute()
        return cls(place / name, _digest(f"{FORMAT} {stat.st_size} {stat.st_mtime_ns}"))

    def path(self, key: str) -> Path:
        """File of an observation key."""
        return self.folder / f"{quote(key, safe='')}-{self.identity}.npy"

    def remove_leftovers(self, key: str) -> None:
        """Remove what other identities, damage and killed writers left of a key.

        Who has mapped one of these files keeps it until the end.
        """
        for path in self.folder.iterdir():
            if path.name.rpartition("-")[0] == quote(key, safe=""):
                path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_or_write(
    file: h5py.File, kinds: Sequence[FrameKind], layout: Layout, folder: str | None
) -> dict[str, Frames]:
    """Map the files of pictures, after writing those that are not there.

    Args:
        file: the dataset.
        kinds: pictures.
        layout: of all demonstrations.
        folder: where to put the files; None: beside the dataset.

    Raises:
        DatasetError: no space, or a folder that cannot be written to.
    """
    store = Store.of(Path(file.filename), folder)
    found = {kind.key: _open(store, file, kind, layout) for kind in kinds}
    if None in found.values():
        with _locked(store.folder):
            # Again: who held the lock may have written them meanwhile.
            found = {kind.key: _open(store, file, kind, layout) for kind in kinds}
            missing = [kind for kind in kinds if found[kind.key] is None]
            for kind in missing:
                store.remove_leftovers(kind.key)
            _refuse_if_full(store.folder, sum(layout.rows * kind.nbytes for kind in missing))
            for kind in missing:
                found[kind.key] = _write(store, file, kind, layout)
    opened = {key: frames for key, frames in found.items() if frames is not None}
    size = sum(frames.array.nbytes for frames in opened.values()) / GIB
    logger.info("replay: %.2f GiB of pictures in %s", size, store.folder)
    return opened


def _open(store: Store, file: h5py.File, kind: FrameKind, layout: Layout) -> Frames | None:
    """Map the file of a key; None where there is none, or not the one that is wanted."""
    path = store.path(kind.key)
    if not path.is_file():
        return None
    try:
        array = map_file(path)
    except (OSError, ValueError, EOFError) as error:  # numpy's ways to say cut off, not .npy
        logger.warning("%s is damaged (%s) and will be written anew", path, error)
        return None
    shapes = [(blocks * layout.rows, *kind.shape) for blocks in (1, 2)]
    if array.shape not in shapes or array.dtype != kind.dtype:
        logger.warning(
            "%s holds %s of %s, and will be written anew", path, array.shape, array.dtype
        )
        return None
    frames = Frames(array, layout.rows)
    if not _agrees(frames, file, kind, layout):
        logger.warning("%s differs from its dataset and will be written anew", path)
        return None
    return frames


def _agrees(frames: Frames, file: h5py.File, kind: FrameKind, layout: Layout) -> bool:
    """Compare the ends of some demonstrations with the dataset: a spot check, no checksum."""
    count = len(layout.names)
    for index in np.unique(np.linspace(0, count - 1, SPOT_CHECKS).astype(int)):
        demo, last = file[f"data/{layout.names[index]}"], layout.lengths[index] - 1
        start, end = layout.starts[index], layout.starts[index + 1]
        wanted = {
            start: demo[f"obs/{kind.key}"][0],
            end - 2: demo[f"obs/{kind.key}"][last],
            frames.offset + start + 1: demo[f"next_obs/{kind.key}"][0],
            frames.offset + end - 1: demo[f"next_obs/{kind.key}"][last],
        }
        for row, frame in wanted.items():
            if not np.array_equal(frames.array[row], frame.astype(kind.dtype)):
                return False
    return True


def _write(store: Store, file: h5py.File, kind: FrameKind, layout: Layout) -> Frames:
    """Write the file of a key, whole or not at all."""
    path = store.path(kind.key)
    partial = path.with_suffix(".partial")

    def write(apart: bool) -> Frames:
        shape = ((1 + apart) * layout.rows, *kind.shape)
        size = shape[0] * kind.nbytes
        _refuse_if_full(store.folder, size)
        title = f"replay: writing {kind.key}, {size / GIB:.2f} GiB, to {store.folder}"
        head = {"descr": np.lib.format.dtype_to_descr(kind.dtype), "fortran_order": False}
        # Not through a memmap: there a full disk is no exception but a bus error.
        with (
            open(partial, "wb") as out,
            log_utils.custom_tqdm(total=size, desc=title, unit="B", unit_scale=True) as bar,
        ):
            np.lib.format.write_array_header_1_0(out, head | {"shape": shape})
            for block in read_blocks(file, kind, layout, apart):
                out.write(np.ascontiguousarray(block).data)
                bar.update(block.nbytes)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
        return Frames(map_file(path), layout.rows)

    try:
        return read_key(write)
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error})", "a folder to write to", _OTHER_FOLDER
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _refuse_if_full(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DatasetError(
            f"the pictures take {size / GIB:.2f} GiB and {folder} has {free / GIB:.2f} GiB free",
            "space for all of them",
            _OTHER_FOLDER,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process write; the lock ends with its process, however that ends."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / "lock", "w"))
            _lock(file, folder)
        except OSError as error:  # read-only, full, or a network file system without locks
            raise DatasetError(
                f"{folder} cannot be written to and locked ({error})",
                "a folder to write to",
                _OTHER_FOLDER,
            ) from error
        yield


def _lock(file: IO[str], folder: Path) -> None:
    if not files.try_lock(file):
        logger.warning("another process writes the pictures to %s: waiting for it", folder)
        fcntl.flock(file, fcntl.LOCK_EX)
