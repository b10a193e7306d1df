"""Files that appear when they are complete, and locks that end with their process."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from robomimic_vae_ext.errors import OutputError

PARTIAL: Final = ".partial"  # ends the name of a file that is not finished


def check_output(path: Path, overwrite: bool = False, flag: str = "--out") -> None:
    """Refuse to write where something is: the one rule for every output file.

    Args:
        path: of the file to write.
        overwrite: an existing file may be replaced; a folder never is.
        flag: of the command line that named it.

    Raises:
        OutputError: something is there.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "a file to write", f"Choose another {flag}.")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already", "a new file", f"Choose another {flag} or add --overwrite."
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` when the block ends well.

    Until then `path` is what it was; after it, the new content is on the disk, also if the power
    fails. The file is `PATH.partial`, and a failure removes it.

    Args:
        path: to replace or to create, in a folder that exists.

    Yields:
        The file to write.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a table, its head being the first row, as `write_text`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write plain types, as `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def try_lock(file: IO[Any] | int) -> bool:
    """Lock an open file, or a descriptor of a folder; False if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
