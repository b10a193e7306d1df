"""Which run and which checkpoint a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from robomimic_vae_ext import runs
from robomimic_vae_ext.errors import CheckpointError


def make_run(folder: Path, *epochs: str) -> Path:
    (folder / "models").mkdir(parents=True)
    for epoch in epochs:
        (folder / "models" / f"model_epoch_{epoch}.pth").touch()
    return folder


def test_the_newest_checkpoint_of_the_newest_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "vae_joint"
    make_run(experiment / "20260101000000", "50")
    newest = make_run(experiment / "20260102000000", "2", "10", "10_best_validation_0.1", "9")
    (experiment / "notes").mkdir()
    checkpoint = newest / "models" / "model_epoch_10.pth"
    for path in (experiment, newest, checkpoint):
        assert runs.find_run(path) == newest
    for path in (experiment, newest, newest / "models", checkpoint):
        assert runs.find_checkpoint(path) == checkpoint
    printed = capsys.readouterr().out
    assert newest.name in printed and checkpoint.name in printed


def test_a_run_that_ended_before_its_first_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_run(tmp_path / "vae" / "1", "2")
    broken = make_run(tmp_path / "vae" / "2")
    assert runs.find_checkpoint(tmp_path / "vae").parent.parent == good
    assert broken.name in capsys.readouterr().out
    assert runs.find_run(tmp_path / "vae") == broken  # its logs may still be of interest


def test_epochs_are_numbers_not_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "9", "100")
    assert runs.find_checkpoint(run).name == "model_epoch_100.pth"


@pytest.mark.parametrize("kind", ["missing", "empty", "no checkpoint", "one level too high"])
def test_where_it_looked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "here"
    if kind == "empty":
        path.mkdir()
    if kind == "no checkpoint":
        make_run(path)
    if kind == "one level too high":
        make_run(path / "experiment" / "run", "1")
    with pytest.raises(CheckpointError) as caught:
        runs.find_checkpoint(path)
    assert str(path) in caught.value.found
    if kind == "one level too high":
        assert str(path / "experiment") in caught.value.found
