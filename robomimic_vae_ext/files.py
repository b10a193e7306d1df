"""Files that appear when they are complete, and locks that end with their process."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from robomimic_vae_ext.errors import OutputError


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


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


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
