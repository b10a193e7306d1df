"""Collected files: schema, determinism, resuming, and what stands in the way."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.cli import verb_collect
from robomimic_vae_ext.data.schema import make_masks
from robomimic_vae_ext.data.simulation import collect as collecting
from robomimic_vae_ext.data.simulation import envs, experts
from robomimic_vae_ext.data.simulation.collect import collect
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError, OutputError, SimulationError
from tests.conftest import run_script
from tests.data.conftest import SCRIPTS, assert_same_content

pytestmark = pytest.mark.simulator


def test_schema(lift_images: Path) -> None:
    info = validate_dataset(lift_images, obs_keys=["agentview_image", "object"])
    assert info.env_args["env_name"] == "LiftFast"
    assert info.env_args["type"] == 1
    with h5py.File(lift_images) as file:
        assert file["data"].attrs["total"] == info.transitions
        demo = file["data/demo_0"]
        length = demo.attrs["num_samples"]
        assert demo["obs/agentview_image"].shape == (length, 16, 16, 3)
        assert demo["obs/agentview_image"].dtype == np.uint8
        for key in demo["obs"]:
            np.testing.assert_array_equal(demo[f"obs/{key}"][1:], demo[f"next_obs/{key}"][:-1])
        assert len(demo["states"]) == length
        assert "<mujoco" in demo.attrs["model_file"]
        assert str(Path.home()) not in demo.attrs["model_file"]
        notes = json.loads(file["data"].attrs["notes"])
        assert sum(count["episodes"] for count in notes["behaviours"].values()) == 3


def test_success_is_terminal_and_rewarded_once(lift_images: Path) -> None:
    with h5py.File(lift_images) as file:
        for demo in file["data"].values():
            assert demo.attrs["success"]
            expected = np.eye(demo.attrs["num_samples"])[-1]
            np.testing.assert_array_equal(demo["rewards"][()], expected)
            np.testing.assert_array_equal(demo["dones"][()], expected)


def test_time_out_is_not_terminal(tmp_path: Path, make_settings: Any) -> None:
    report = collect(make_settings(n=1, horizon=5, quality="random"), tmp_path / "x.hdf5")
    assert (report.successes, report.transitions) == (0, 5)
    with h5py.File(report.path) as file:
        assert file["data/demo_0/dones"][()].sum() == 0
        assert not any(name.endswith("_image") for name in file["data/demo_0/obs"])


def test_two_workers_give_the_same_file(
    tmp_path: Path, lift_images: Path, make_settings: Any
) -> None:
    other = tmp_path / "two.hdf5"
    collect(make_settings(cameras=("agentview",)), other, workers=2)
    assert_same_content(lift_images, other)
    assert other.read_bytes() == lift_images.read_bytes()


def test_longer_dataset_begins_with_the_shorter(tmp_path: Path, make_settings: Any) -> None:
    actions = []
    for n in (1, 2):
        report = collect(make_settings(n=n, horizon=8, quality="mixed"), tmp_path / f"{n}.hdf5")
        with h5py.File(report.path) as file:
            actions.append(file["data/demo_0/actions"][()])
    np.testing.assert_array_equal(*actions)


def test_compression_changes_no_content(
    tmp_path: Path, lift_images: Path, make_settings: Any
) -> None:
    path = tmp_path / "small.hdf5"
    collect(make_settings(cameras=("agentview",), compress="gzip"), path)
    with h5py.File(path) as small, h5py.File(lift_images) as plain:
        pictures = small["data/demo_1/obs/agentview_image"]
        assert pictures.compression == "gzip"
        assert pictures.chunks == (1, 16, 16, 3)
        np.testing.assert_array_equal(pictures[()], plain["data/demo_1/obs/agentview_image"][()])


def test_killed_run_leaves_no_file_and_resumes(tmp_path: Path, make_settings: Any) -> None:
    settings = make_settings(n=12, horizon=12, seed=0, quality="mixed")
    out, whole = tmp_path / "killed.hdf5", tmp_path / "whole.hdf5"
    command = [sys.executable, str(SCRIPTS / "collect_dataset.py"), "--size", "16"]
    command += ["--n", "12", "--horizon", "12", "--seed", "0", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "killed.hdf5.partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("episode_*.hdf5")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(list(partial.glob("episode_*.hdf5"))) < 12
    assert not out.exists()
    with pytest.raises(DatasetError, match="--resume"):
        collect(settings, out)
    with pytest.raises(DatasetError, match="other settings"):
        collect(make_settings(n=11, horizon=12, seed=0, quality="mixed"), out, resume=True)
    collect(settings, out, resume=True)
    assert not partial.exists()
    collect(settings, whole)
    assert_same_content(out, whole)


def test_dead_worker_is_named(tmp_path: Path, make_settings: Any) -> None:
    out = tmp_path / "x.hdf5"

    def kill_one() -> None:
        while not list(tmp_path.glob("x.hdf5.partial/episode_*.hdf5")):
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(SimulationError, match=r"worker process died.*--resume"):
        collect(make_settings(n=400, horizon=40, quality="noisy"), out, workers=2)
    assert not out.exists()


def test_existing_file_is_kept(tmp_path: Path, make_settings: Any) -> None:
    out = tmp_path / "x.hdf5"
    out.write_text("precious")
    settings = make_settings(n=1, horizon=2)
    with pytest.raises(OutputError, match="--overwrite"):
        collect(settings, out)
    assert out.read_text() == "precious"
    collect(settings, out, overwrite=True)
    validate_dataset(out)


def test_a_folder_in_the_way_is_named_before_anything_is_collected(
    tmp_path: Path, make_settings: Any
) -> None:
    with pytest.raises(OutputError, match="is a folder; expected a file to write"):
        collect(make_settings(n=1), tmp_path, overwrite=True)


def test_two_collectors_of_one_file_are_refused(tmp_path: Path, make_settings: Any) -> None:
    """The second one would throw away, or mix with, what the first one makes."""
    out = tmp_path / "x.hdf5"
    with collecting._alone(out.with_name("x.hdf5.partial")) as partial:
        (partial / "episode_000000.hdf5").touch()
        for flags in ({"overwrite": True}, {"resume": True}, {}):
            with pytest.raises(DatasetError, match="is in use by another process"):
                collect(make_settings(n=1), out, **flags)
        assert (partial / "episode_000000.hdf5").exists()


def test_an_empty_episode_is_collected_again(tmp_path: Path, make_settings: Any) -> None:
    settings, out = make_settings(n=2, horizon=2), tmp_path / "x.hdf5"
    with collecting._alone(tmp_path / "x.hdf5.partial") as partial:
        collecting._prepare_partial(settings, partial, resume=False, overwrite=False)
        (partial / "episode_000000.hdf5").touch()
    assert collect(settings, out, resume=True).episodes == 2
    validate_dataset(out)


def test_failure_leaves_old_file(
    tmp_path: Path, make_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    out = tmp_path / "x.hdf5"
    out.write_text("precious")
    monkeypatch.setattr(collecting, "write_dataset", fail)
    with pytest.raises(OSError, match="disk full"):
        collect(make_settings(n=1, horizon=2), out, overwrite=True)
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": "perfect"}, "quality 'perfect'.*expert, mixed"),
        ({"task": "Door"}, "environment 'Door'.*Lift, Stack"),
        ({"n": 0}, "--n 0"),
        ({"seed": -1}, "--seed -1"),
        ({"horizon": -1}, "--horizon -1"),
        ({"compress": "zip"}, "compression 'zip'"),
        ({"size": 0}, "size 0"),
    ],
)
def test_bad_settings(make_settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        make_settings(**changes)


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    with collecting._alone(tmp_path / "new" / "folder" / "x.hdf5.partial") as partial:
        assert partial.is_dir()


def test_masks() -> None:
    behaviours = ["clean"] * 12 + ["offset"] * 8
    masks = make_masks(behaviours, [b == "clean" for b in behaviours], seed=0)
    everything = {f"demo_{i}" for i in range(20)}
    assert len(masks["valid"]) == 2
    assert set(masks["train"]) | set(masks["valid"]) == everything
    assert not set(masks["train"]) & set(masks["valid"])
    assert masks["success"] == masks["clean"] == [f"demo_{i}" for i in range(12)]
    assert masks["failure"] == masks["offset"]
    for name in ("success", "failure", "clean", "offset"):
        share = set(masks[name]) & set(masks["train"])
        assert set(masks.get(f"{name}_train", [])) == share
    assert all(masks.values())


def test_episodes_with_one_start_stay_on_one_side_of_the_split() -> None:
    starts = [index // 2 for index in range(40)]
    masks = make_masks(["a", "b"] * 20, [True, False] * 20, 3, starts)
    held_out = [int(name.removeprefix("demo_")) for name in masks["valid"]]
    assert len(held_out) == 4
    assert {index ^ 1 for index in held_out} == set(held_out)
    alone = make_masks(["a"] * 40, [True] * 40, 3, list(range(40)))
    assert alone == make_masks(["a"] * 40, [True] * 40, 3)


def test_one_episode_is_for_training() -> None:
    assert make_masks(["clean"], [True], 0)["train"] == ["demo_0"]
    assert "valid" not in make_masks(["clean"], [True], 0)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--env", "Door"], "'Door'"),
        (["--quality", "perfect"], "'perfect'"),
        (["--quality", "paired"], "'paired'"),  # with another task than PickPlaceCan
        (["--n", "0"], "--n 0"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, words: list[str], named: str) -> None:
    done = run_script("collect_dataset.py", "--out", tmp_path / "x", *words)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lapo collect: ") and named in last
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with mock.patch.dict(sys.modules, {"robomimic_vae_ext.data.simulation.collect": None}):
        assert run_script("collect_dataset.py", "--out", tmp_path / "x").returncode == 2


def test_the_command_offers_what_there_is() -> None:
    assert verb_collect.ENVIRONMENTS == envs.TASKS
    assert tuple(experts.QUALITIES) == verb_collect.QUALITIES


@pytest.mark.simulator
def test_a_false_start_leaves_nothing(tmp_path: Path, make_settings: Any) -> None:
    settings = make_settings(cameras=("nocam",), n=1)
    with pytest.raises(SimulationError, match=r"lacks one of the cameras nocam .*agentview"):
        collect(settings, tmp_path / "x.hdf5")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(make_settings: Any) -> None:
    with pytest.raises(
        DatasetError, match=r"/proc/nope/x.hdf5.partial cannot be created \(No such"
    ):
        collect(make_settings(n=1), Path("/proc/nope/x.hdf5"))
