"""What stands in the way of a demo is named before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from robomimic_vae_ext import demo
from tests.conftest import REPOSITORY


def write_dataset(folder: Path, collected: dict[str, object] | None) -> None:
    """Write what `check_dataset` reads of a collected dataset."""
    with h5py.File(demo.Files(folder).dataset, "w") as file:
        data = file.create_group("data")
        if collected is not None:
            data.attrs["notes"] = json.dumps({"collect": collected})


@pytest.mark.parametrize("fast", [True, False])
def test_a_demo_takes_no_other_data_than_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    commands: list[str] = []

    def stop(*words: object) -> None:
        commands.append(str(words[1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_command", stop)
    own, other = (demo.FAST, demo.FULL) if fast else (demo.FULL, demo.FAST)
    write_dataset(tmp_path, {"n": other.episodes, "quality": "mixed", "seed": 0})
    with pytest.raises(demo.DemoError, match=f"has n {other.episodes}.*n {own.episodes}.*--out"):
        demo.run(tmp_path, fast)
    write_dataset(tmp_path, None)
    with pytest.raises(demo.DemoError, match="has n None"):
        demo.run(tmp_path, fast)
    assert commands == []
    write_dataset(tmp_path, {"n": own.episodes, "quality": "mixed", "seed": 0})
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path, fast)
    assert commands == ["robomimic.scripts.train"]  # the dataset is taken


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, str(REPOSITORY / "scripts/demo.py"), "--out", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"demo.py: {tmp_path}/file is a file; expected a folder. " + (
        "Choose another --out.\n"
    )
