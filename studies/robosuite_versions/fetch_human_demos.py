"""Fetch the human demonstrations that older wheels of robosuite carry: states and actions.

Downloads two wheels (290 MB) with pip into a temporary folder, installs nothing, and writes one
demo file each; `lapo convert --replay` turns them into datasets. robosuite 1.0 keeps the models
beside its file, so they are put into it.

Example:
  python studies/robosuite_versions/fetch_human_demos.py --out datasets/human
  lapo convert datasets/human/lift_1.4.1.hdf5 datasets/lift_human.hdf5 --replay --cameras agentview
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py

from robomimic_vae_ext import errors, files

VERSIONS = ("1.4.1", "1.0.1")
FOLDER = "robosuite/models/assets/demonstrations/"


def fetch(out: Path, overwrite: bool = False, wheels: Path | None = None) -> list[Path]:
    """Write the demo files of both wheels to a folder; return their paths.

    Args:
        out: the folder.
        overwrite: existing files may be replaced.
        wheels: folder with wheels that were downloaded before.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as temporary:
        for version in VERSIONS:
            folder = wheels or Path(temporary)
            name = f"robosuite-{version}-py3-none-any.whl"
            if not (folder / name).is_file():
                command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
                subprocess.run([sys.executable, *command, f"robosuite=={version}"], check=True)
            with zipfile.ZipFile(folder / name) as wheel:
                for inside in wheel.namelist():
                    if inside.startswith(FOLDER) and inside.endswith("demo.hdf5"):
                        written.append(_extract(wheel, inside, version, out, overwrite))
    return written


def _extract(wheel: zipfile.ZipFile, inside: str, version: str, out: Path, overwrite: bool) -> Path:
    """Write one demo file, with its models."""
    task = inside.removeprefix(FOLDER).split("/")[0].replace("-", "_")
    path = out / f"{task}_{version}.hdf5"
    files.check_output(path, overwrite)
    partial = path.with_suffix(".partial")
    partial.write_bytes(wheel.read(inside))
    with h5py.File(partial, "r+") as file:
        for demo in file["data"].values():
            model = str(demo.attrs.get("model_file", ""))
            beside = f"{inside.rsplit('/', 1)[0]}/models/{model}"
            if beside in wheel.namelist():
                demo.attrs["model_file"] = wheel.read(beside).decode()
    partial.replace(path)
    return path


def main() -> int:
    """Fetch the files; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that are there already")
    args = parser.parse_args()
    try:
        for path in fetch(args.out, args.overwrite, args.wheels):
            print(path)
    except subprocess.CalledProcessError as error:
        raise errors.DatasetError(
            f"pip ended with exit code {error.returncode}",
            "wheels of robosuite from a package registry",
            "Check the network, or download them by hand and name their folder with --wheels.",
        ) from error
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("fetch_human_demos", main))
