"""What stands in the way of a demo is named before anything runs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from robomimic_vae_ext import demo
from robomimic_vae_ext.cli import main


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
    commands: list[list[str]] = []

    def stop(shown: list[str], command: list[str]) -> None:
        commands.append(shown)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_run", stop)
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
        demo.run(tmp_path, fast)  # the dataset is taken, and stock robomimic's training is next
    config = demo.Files(tmp_path).config
    assert commands == [["python", "-m", "robomimic.scripts.train", "--config", str(config)]]
    assert json.loads(config.read_text())["train"]["num_epochs"] == own.epochs


def test_printed_commands_are_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", start)
    with pytest.raises(demo.DemoError, match="lapo collect --env Lift"):
        demo.run(tmp_path / "a folder", fast=True)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    shown = shlex.split(line[2:])
    assert shown[:2] == ["lapo", "collect"]
    assert started == [[sys.executable, "-m", "robomimic_vae_ext", *shown[1:]]]


def test_a_file_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/file is a file" in line


def test_workers_must_be_a_positive_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--workers", "0"]) == 2
    assert "--workers 0" in capsys.readouterr().err
