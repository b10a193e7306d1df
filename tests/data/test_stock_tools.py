"""robomimic's own tools accept our files, unchanged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import robomimic

pytestmark = pytest.mark.simulator

TOOLS = Path(robomimic.__file__).parent / "scripts"


def run_tool(name: str, *arguments: str) -> str:
    # Importing us first stands for the installed start-up hook.
    run = f"runpy.run_path({str(TOOLS / name)!r}, run_name='__main__')"
    code = f"import robomimic_vae_ext, runpy; {run}"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def dataset(lift_images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(lift_images, tmp_path / "lift.hdf5"))


def test_get_dataset_info(dataset: Path) -> None:
    printed = run_tool("get_dataset_info.py", "--dataset", str(dataset))
    assert "total trajectories: 3" in printed
    assert "filter key success with 3 demos" in printed
    assert "LiftFast" in printed


def test_split_train_val(dataset: Path) -> None:
    arguments = ("--dataset", str(dataset), "--filter_key", "success", "--ratio", "0.4")
    run_tool("split_train_val.py", *arguments)
    with h5py.File(dataset) as file:
        assert len(file["mask/success_train"]) == 2
        assert len(file["mask/success_valid"]) == 1


def test_playback_dataset(dataset: Path, tmp_path: Path) -> None:
    video = tmp_path / "playback.mp4"
    run_tool(
        "playback_dataset.py",
        *("--dataset", str(dataset), "--n", "1", "--video_skip", "20"),
        *("--render_image_names", "agentview", "--video_path", str(video)),
    )
    assert video.stat().st_size > 1000
