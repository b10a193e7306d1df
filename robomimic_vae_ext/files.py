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

from robomimic_vae_ext.errors import ConfigError


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


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists, unless it may be replaced.

    Raises:
        ConfigError: it exists.
    """
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} exists", "a path that does not", "Choose another --out, or add --overwrite."
        )
