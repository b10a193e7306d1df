"""Draws a contact sheet: pictures of a dataset's demonstrations side by side, to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from PIL import Image, ImageDraw

from robomimic_vae_ext import files
from robomimic_vae_ext.data.hdf5 import demo_names, open_dataset
from robomimic_vae_ext.errors import DatasetError

_LABEL: Final = 12  # height of a row's title [pixel]
_GAP: Final = 2


def write_contact_sheet(
    dataset: Path, path: Path, demos: int = 12, columns: int = 8, overwrite: bool = False
) -> None:
    """Write one row per demonstration and camera, from its first to its last picture.

    Args:
        dataset: with pictures (T, H, W, 3) of uint8.
        path: of the PNG file.
        demos: largest number of demonstrations, evenly over the file.
        columns: pictures per row.
        overwrite: an existing file may be replaced.

    Raises:
        OutputError: `path` exists already.
        DatasetError: the dataset has no pictures.
    """
    files.check_output(path, overwrite, "--sheet")
    rows: list[tuple[str, list[np.ndarray]]] = []
    with open_dataset(dataset) as file:
        names = demo_names(file, dataset)
        for index in sorted({round(i) for i in np.linspace(0, len(names) - 1, demos)}):
            demo = file["data"][names[index]]
            for key, array in sorted(demo.get("obs", {}).items()):
                if isinstance(array, h5py.Dataset) and _is_picture(array):
                    steps = np.linspace(0, len(array) - 1, columns).round().astype(int)
                    rows.append((f"{names[index]} {key}", [array[step] for step in steps]))
    if not rows:
        raise DatasetError(
            f"{dataset} has no pictures", "observations (T, H, W, 3) of uint8", "Add --cameras."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    _draw(rows).save(partial, "PNG")
    os.replace(partial, path)


def _is_picture(array: h5py.Dataset) -> bool:
    return array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8 and len(array) > 0


def _draw(rows: list[tuple[str, list[np.ndarray]]]) -> Image.Image:
    """Return the sheet."""
    height = max(pictures[0].shape[0] for _, pictures in rows)
    width = max(pictures[0].shape[1] for _, pictures in rows)
    size = ((width + _GAP) * len(rows[0][1]), (height + _GAP + _LABEL) * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, pictures) in enumerate(rows):
        top = row * (height + _GAP + _LABEL)
        draw.text((2, top), title, fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (column * (width + _GAP), top + _LABEL))
    return sheet
