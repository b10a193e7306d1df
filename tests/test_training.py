"""Stock train.py and our wrapper: from a dataset to checkpoints, and honest ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import pytest

from robomimic_vae_ext import compat
from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.errors import ConfigError, DatasetError, SimulationError
from robomimic_vae_ext.training import training_config, training_run
from robomimic_vae_ext.training.training_run import TrainOptions
from tests.conftest import REPOSITORY, image_settings, merge, write_dataset


def write_config(path: Path, dataset: Path, output: Path, changes: dict[str, Any]) -> Path:
    short = {
        "algo_name": "lapo",
        "experiment": {
            "name": "short", "validate": True, "epoch_every_n_steps": 2,
            "validation_epoch_every_n_steps": 1, "rollout": {"enabled": False},
            "render_video": False, "save": {"every_n_epochs": 1},
        },
        "train": {
            "data": str(dataset), "output_dir": str(output), "num_epochs": 2, "batch_size": 4,
            "hdf5_validation_filter_key": "valid",
        },
    }  # fmt: skip
    path.write_text(json.dumps(merge(merge(image_settings(), short), changes)))
    return path


def run(*words: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, capture_output=True, text=True,
        timeout=240, stdin=subprocess.DEVNULL, env=dict(os.environ) | environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", ["module", "file"])
def test_stock_train_runs_unmodified_from_another_folder(
    dataset: Path, tmp_path: Path, way: str
) -> None:
    import robomimic

    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", {})
    file = Path(robomimic.__file__).parent / "scripts" / "train.py"
    start = ["-m", "robomimic.scripts.train"] if way == "module" else [file]
    result = run(*start, "--config", config, folder=tmp_path)
    assert "finished run successfully!" in result.stdout, result.stdout[-2000:]
    assert len(list(tmp_path.glob("out/short/*/models/model_epoch_*.pth"))) == 2
    assert "obs and next_obs share storage" in result.stdout


@pytest.mark.slow
def test_stock_dataset_class_is_used_when_the_replay_is_off(dataset: Path, tmp_path: Path) -> None:
    off = {"algo": {"replay": {"enabled": False}}}
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", off)
    result = run("-m", "robomimic.scripts.train", "--config", config, folder=tmp_path)
    assert "finished run successfully!" in result.stdout, result.stdout[-2000:]
    assert "ReplayDataset" not in result.stdout


@pytest.mark.slow
def test_two_runs_of_one_name_have_folders_of_their_own(dataset: Path, tmp_path: Path) -> None:
    """Started together, into a relative folder, which is relative to the current one."""
    config = write_config(tmp_path / "c.json", dataset, Path("relative_out"), {})
    command = [
        sys.executable, "-m", "robomimic_vae_ext", "train", "--config", str(config), "--epochs",
        "3", "--set", "experiment.save.every_n_epochs=2", "--seed",
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            [*command, str(seed)], cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    folders = []
    for seed, process in enumerate(processes, 1):
        lines = process.communicate(timeout=240)[0].splitlines()
        assert process.returncode == 0, lines[-20:]
        (first,) = [line for line in lines if line.startswith("run folder: ")]
        folder = Path(first.removeprefix("run folder: "))
        assert folder.is_relative_to(tmp_path / "relative_out" / "short")
        assert lines[-1] == f"2 checkpoints, logs and videos: {folder}"
        assert json.loads((folder / "config.json").read_text())["train"]["seed"] == seed
        # The last epoch is there, though every second one is to be saved.
        assert {path.name for path in (folder / "models").iterdir()} == {
            "model_epoch_2.pth", "model_epoch_3.pth",
        }  # fmt: skip
        folders.append(folder)
    assert len(set(folders)) == 2


def test_a_folder_that_another_run_took_in_the_same_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = training_config.config_from(
        {"algo_name": "lapo", "train": {"output_dir": str(tmp_path)}}, "test"
    )
    calls = []

    def factory(config: Any) -> list[str]:
        calls.append(input("overwrite? "))
        if len(calls) < 3:
            raise FileExistsError
        return [str(tmp_path / "run" / "logs")]

    monkeypatch.setattr(training_run.stock.TrainUtils, "get_exp_dir", factory)
    monkeypatch.setattr(training_run.time, "sleep", lambda seconds: None)
    (tmp_path / "run").mkdir()
    run = training_run.ResumableTraining({}, training_run.Saving(), False, None)
    with training_run._own_folder(run, None, None):
        training_run.stock.TrainUtils.get_exp_dir(config)
    assert calls == ["n", "n", "n"]
    assert run.run == tmp_path / "run"
    assert training_run.stock.TrainUtils.get_exp_dir is factory


@pytest.mark.slow
def test_a_failure_inside_training_exits_non_zero(dataset: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "train.py"
    broken = {"observation": {"encoder": {"rgb": {"core_class": "NoSuchCore"}}}}
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", broken)
    result = run(script, "--config", config, folder=tmp_path)
    assert result.returncode == 2
    assert "lapo train: training failed with" in result.stderr.splitlines()[-1]
    assert "NoSuchCore" in result.stderr


def test_pictures_that_do_not_fit_their_crop_are_one_line(dataset: Path, tmp_path: Path) -> None:
    crop = {
        "obs_randomizer_class": "CropRandomizer",
        "obs_randomizer_kwargs": {
            "crop_height": 999, "crop_width": 999, "num_crops": 1, "pos_enc": False,
        },
    }  # fmt: skip
    changes = {"observation": {"encoder": {"rgb": crop}}}
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", changes)
    with pytest.raises(ConfigError, match="pixels and its crop 999x999; expected pictures larger"):
        training_run.train(TrainOptions(str(config)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rollout_envs", "name"),
    [({}, "Lift"), ({"env": "LiftFast"}, "LiftFast"), ({"additional_envs": ["Stack"]}, "Lift")],
)
def test_goals_that_robosuite_cannot_give_are_refused_before_an_epoch(
    dataset: Path, tmp_path: Path, rollout_envs: dict[str, Any], name: str
) -> None:
    goals = {
        "experiment": {"rollout": {"enabled": True}} | rollout_envs,
        "observation": {"modalities": {"goal": {"low_dim": ["robot0_eef_pos"]}}},
        "train": {"goal_mode": "last"},
    }
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", goals)
    with pytest.raises(ConfigError, match=f"robosuite's {name} has no _get_goal; expected"):
        training_run.train(TrainOptions(str(config)))
    assert not (tmp_path / "out").exists()
    if rollout_envs:
        return
    goals["experiment"] = {"rollout": {"enabled": False}}
    training_run.train(TrainOptions(str(write_config(config, dataset, tmp_path / "out", goals))))


@pytest.mark.parametrize("part", ["pictures", "videos", "neither"])
def test_nothing_is_trained_where_rollouts_cannot_be_rendered(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def refuse(otherwise: str) -> None:
        raise SimulationError("no EGL", "EGL", f"Or {otherwise}.")

    monkeypatch.setattr(envs, "require_rendering", refuse)
    monkeypatch.setattr(training_run.stock, "train", mock.Mock(side_effect=KeyboardInterrupt))
    changes: dict[str, Any] = {
        "experiment": {"rollout": {"enabled": True}, "render_video": part == "videos"}
    }
    if part != "pictures":
        changes["observation"] = {"modalities": {"obs": {"rgb": []}}}
    flags = str(write_config(tmp_path / "c.json", dataset, tmp_path / "out", changes))
    if part == "neither":  # training begins
        with pytest.raises(KeyboardInterrupt):
            training_run.train(TrainOptions(flags))
        return
    advice = {"pictures": "train with experiment.rollout", "videos": "set experiment.render_video"}
    with pytest.raises(SimulationError, match=f"Or {advice[part]}"):
        training_run.train(TrainOptions(flags))
    assert not (tmp_path / "out").exists()


def test_too_large_a_dataset_is_refused_before_it_is_read(dataset: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "train.py"
    small = {"algo": {"replay": {"max_gib": 1e-6}}}
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", small)
    result = run(script, "--config", config, folder=tmp_path)
    assert result.returncode == 2
    assert "algo.replay.max_gib" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("way", ["stock", "lapo"])
@pytest.mark.parametrize("entry", ["path", "dict"])
def test_a_list_of_one_dataset(dataset: Path, tmp_path: Path, way: str, entry: str) -> None:
    data = str(dataset) if entry == "path" else {"path": str(dataset)}
    changes = {"train": {"data": [data], "num_epochs": 1}}
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", changes)
    if way == "lapo":
        assert training_run.train(TrainOptions(str(config))).is_dir()
        return
    result = run("-m", "robomimic.scripts.train", "--config", config, folder=tmp_path)
    assert "finished run successfully!" in result.stdout, result.stdout[-2000:]


def test_several_datasets_are_trained_on_or_refused(dataset: Path, tmp_path: Path) -> None:
    changes = {"train": {"data": [str(dataset), {"path": str(dataset)}]}}
    config = write_config(tmp_path / "c.json", dataset, tmp_path / "out", changes)
    if not compat.has_time_folder():
        with pytest.raises(ConfigError, match="names 2 datasets"):
            training_run.train(TrainOptions(str(config)))
        return
    off = {"algo.replay.enabled": False}
    assert training_run.train(TrainOptions(str(config), settings=off)).is_dir()


def bad_config(tmp_path: Path, kind: str) -> str:
    path = tmp_path / "bad.json"
    if kind == "not json":
        path.write_text("{")
    if kind == "no algo_name":
        path.write_text("{}")
    if kind == "unknown algorithm":
        path.write_text('{"algo_name": "lapoo"}')
    if kind == "unknown key":
        path.write_text('{"algo_name": "lapo", "algo": {"critc": {}}}')
    if kind == "unknown key of bc":
        path.write_text('{"algo_name": "bc", "trian": {}}')
    if kind == "no data":
        path.write_text('{"algo_name": "lapo"}')
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "bad.json"),
        ("not json", "is not JSON"),
        ("no algo_name", "no 'algo_name'"),
        ("unknown algorithm", "'lapoo'"),
        ("unknown key", "algo.critc"),
        ("unknown key of bc", "trian"),
        ("no data", "train.data is null"),
    ],
)
def test_bad_configs_are_one_line(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        training_run.train(TrainOptions(bad_config(tmp_path, kind)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def break_dataset(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        with h5py.File(path, "r+") as file:
            demo = file["data/demo_1"]
            if kind == "no next_obs":
                del demo["next_obs"]
            if kind == "nan":
                demo["actions"][2, 3] = float("nan")
            if kind == "camera":
                for name in file["data"]:
                    del file[f"data/{name}/obs/agentview_image"]
            if kind == "robosuite":
                env_args = json.loads(file["data"].attrs["env_args"]) | {"env_version": "1.4.1"}
                file["data"].attrs["env_args"] = json.dumps(env_args)
            if kind == "mask":
                del file["mask/train"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "tiny.hdf5"),
        ("truncated", "tiny.hdf5"),
        ("no next_obs", "next_obs"),
        ("nan", "demo_1"),
        ("camera", "camera 'agentview'"),
        ("mask", "train"),
        ("robosuite", "made with robosuite 1.4.1"),
    ],
)
def test_bad_datasets_are_refused_before_anything_is_written(
    tmp_path: Path, kind: str, message: str
) -> None:
    path = tmp_path / "tiny.hdf5"
    write_dataset(path, lengths=(4, 5, 6))
    break_dataset(path, kind)
    rollouts = {"experiment": {"rollout": {"enabled": True}}}
    config = write_config(tmp_path / "c.json", path, tmp_path / "out", rollouts)
    with pytest.raises(DatasetError) as caught:
        training_run.train(TrainOptions(str(config)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
