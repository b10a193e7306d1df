"""Training that cannot write, or whose numbers are not finite."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import CheckpointError, ConfigError, DatasetError, OutputError
from robomimic_vae_ext.lapo import replay_dataset
from robomimic_vae_ext.training import resumable, resume_file, training_run
from robomimic_vae_ext.training.training_run import Saving, TrainingError, TrainOptions
from tests.conftest import merge, write_dataset
from tests.reliability import killing


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.hdf5"
    write_dataset(path, lengths=(12, 9, 13, 11))
    return path


def options(folder: Path, data: Path, changes: dict[str, Any] | None = None, **kw: Any) -> Any:
    values = killing.config("lapo", data, folder / "out", rollouts=False)
    path = folder / "config.json"
    path.write_text(json.dumps(merge(values, changes or {})))
    return TrainOptions(str(path), **kw)


def the_run(folder: Path) -> Path:
    return killing.only_run(folder / "out")


class Full:
    """A disk that is full from the n-th write of a kind of file on."""

    def __init__(self, suffix: str, number: int, code: int) -> None:
        self.suffix, self.left, self.code = suffix, number, code
        self.original = files._to_disk

    def __call__(self, path: Path) -> None:
        if path.name.endswith(self.suffix):
            self.left -= 1
            if self.left <= 0:
                raise OSError(self.code, os.strerror(self.code), str(path))
        self.original(path)


@pytest.mark.parametrize(
    ("what", "code"),
    [("resume.pth", errno.ENOSPC), ("model_epoch_2", errno.ENOSPC), ("model_epoch_2", errno.EROFS)],
)
def test_what_cannot_be_written_ends_the_run_and_is_continued(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    suffix = "resume.pth.partial" if what == "resume.pth" else ".pth.partial"
    with monkeypatch.context() as patch:
        # resume.pth: 1 before the first step, then one after each epoch; a checkpoint after that.
        patch.setattr(files, "_to_disk", Full(suffix, 3 if what == "resume.pth" else 5, code))
        with pytest.raises(OutputError) as caught:
            training_run.train(options(tmp_path, data))
    run = the_run(tmp_path)
    assert os.strerror(code) in caught.value.found and what in caught.value.found
    assert str(run) in caught.value.action and "--resume" in caught.value.action
    assert not list(run.rglob("*.partial"))
    for path in run.glob("models/*.pth"):
        torch.load(path, weights_only=True)
    assert training_run.train(TrainOptions(resume=str(run))) == run  # as the message says
    assert len(list(run.glob("models/*.pth"))) == killing.EPOCHS
    again = training_run.train(TrainOptions(resume=str(run.parent)))  # nothing is left to do
    assert again == run


def test_a_file_too_large_for_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    with pytest.raises(OSError), files.replacing(path) as partial:
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, "full")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["state"]


def test_nan_in_the_data_is_named_at_its_step(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(data, monkeypatch)
    with pytest.raises(TrainingError) as caught:
        training_run.train(options(tmp_path, data))
    # An n-step return holds the reward for the steps before it too.
    assert "rewards is not finite at demo_1 step " in caught.value.found
    assert " at step " in caught.value.found and "epoch 1" in caught.value.found
    run = the_run(tmp_path)
    state = resume_file.read(run)
    assert not state["finished"]
    for value in killing.flatten(state["model"]).values():
        if isinstance(value, torch.Tensor):
            assert bool(value.isfinite().all())


def test_nan_steps_can_be_left_out(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(data, monkeypatch)
    run = training_run.train(options(tmp_path, data, skip_non_finite=True))
    last = torch.load(next(run.glob(f"models/model_epoch_{killing.EPOCHS}*.pth")))
    assert all(bool(value.isfinite().all()) for value in last["model"]["nets"].values())
    found = killing.content(run)["Train/critic/loss"]
    assert found and all(value == value for value in found)  # of the steps that were made


def test_data_that_is_all_nan_ends_even_with_skipping(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(data, monkeypatch, everywhere=True)
    changes = {"experiment": {"epoch_every_n_steps": 20}}
    with pytest.raises(TrainingError, match="10 steps were left out"):
        training_run.train(options(tmp_path, data, changes, skip_non_finite=True))


def poison(data: Path, monkeypatch: pytest.MonkeyPatch, everywhere: bool = False) -> None:
    """A reward that is NaN, in data that nobody has checked."""
    with h5py.File(data, "r+") as file:
        for demo in file["data"].values() if everywhere else [file["data/demo_1"]]:
            demo["rewards"][slice(None) if everywhere else 4] = float("nan")
    # Both checks before training would refuse the file.
    monkeypatch.setattr(training_run, "_check_dataset", lambda config: None)
    monkeypatch.setattr(replay_dataset, "check_datasets", lambda config: None)


def test_weights_that_overflow_are_not_saved(tmp_path: Path, data: Path) -> None:
    changes = {"algo": {"optim_params": {"critic": {"learning_rate": {"initial": 1e38}}}}}
    with pytest.raises(TrainingError) as caught:
        training_run.train(options(tmp_path, data, changes))
    assert "finite" in caught.value.expected
    for path in the_run(tmp_path).glob("models/*.pth"):
        loaded = killing.flatten(torch.load(path)["model"]["nets"])
        assert all(bool(value.isfinite().all()) for value in loaded.values())


def interrupt(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Raise KeyboardInterrupt in the n-th step."""
    calls = iter(range(1, 1000))
    original = resumable.EpochOfTraining._one_step

    def one_step(self: Any, guard: Any) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        original(self, guard)

    monkeypatch.setattr(resumable.EpochOfTraining, "_one_step", one_step)


@pytest.fixture
def interrupted(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        interrupt(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            training_run.train(options(tmp_path, data))
    return the_run(tmp_path)


def test_auto_continues_the_same_config_and_begins_another(
    interrupted: Path, tmp_path: Path, data: Path
) -> None:
    other = training_run.train(options(tmp_path, data, {"train": {"seed": 7}}, resume="auto"))
    assert other != interrupted
    assert training_run.train(options(tmp_path, data, resume="auto")) == interrupted
    assert training_run.train(options(tmp_path, data, resume="auto")) not in (interrupted, other)


def test_an_experiment_means_its_unfinished_run(
    interrupted: Path, tmp_path: Path, data: Path
) -> None:
    finished = training_run.train(options(tmp_path, data))
    assert finished.name > interrupted.name
    assert training_run.train(TrainOptions(resume=str(interrupted.parent))) == interrupted


def test_a_run_in_use_or_on_other_data_is_refused(
    interrupted: Path, tmp_path: Path, data: Path
) -> None:
    lock = resume_file.lock(interrupted)
    with pytest.raises(CheckpointError, match="another process"):
        training_run.train(TrainOptions(resume=str(interrupted)))
    os.close(lock)
    with h5py.File(data, "r+") as file:
        file["data/demo_0/actions"][0] = 0.5
    with pytest.raises(DatasetError, match="has changed"):
        training_run.train(TrainOptions(resume=str(interrupted)))


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_runs_without_a_usable_state(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    if content is not None:
        (tmp_path / "run" / resume_file.NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"resume\.pth"):
        training_run.train(TrainOptions(resume=str(tmp_path / "run")))


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_impossible_numbers_of_checkpoints(tmp_path: Path, data: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.save\.keep_last"):
        training_run.train(options(tmp_path, data, {"experiment": {"save": {"keep_last": value}}}))


def test_keep_last_keeps_the_best(tmp_path: Path) -> None:
    names = [
        "model_epoch_1_best_validation_2.5_Lift_return_0.1_Lift_success_0.5.pth",
        "model_epoch_2_Lift_return_-1.5e-05.pth",
        "model_epoch_3_best_validation_1.5.pth",
        "model_epoch_9.pth",
        "model_epoch_10.pth",
        "model_epoch_11.pth",
    ]
    for name in [*names, "other.pth"]:
        (tmp_path / name).touch()
    resumable.remove_old(tmp_path, keep_last=2)
    kept = [*names[:3], "model_epoch_10.pth", "model_epoch_11.pth", "other.pth"]
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_keep_last_in_a_run(tmp_path: Path, data: Path) -> None:
    save = {"keep_last": 1, "on_best_validation": False}
    run = training_run.train(options(tmp_path, data, {"experiment": {"save": save}}))
    assert [path.name for path in run.glob("models/*")] == [f"model_epoch_{killing.EPOCHS}.pth"]


def test_a_new_position_in_a_pass_gives_the_same_batches(make_batches: Callable[..., Any]) -> None:
    whole = make_batches(begin=0)
    for begin in range(1, len(whole)):
        rest = make_batches(begin=begin)
        assert all(torch.equal(a, b) for a, b in zip(whole[begin:], rest, strict=True)), begin


@pytest.fixture(params=[0, 2], ids=["alone", "two_workers"])
def make_batches(request: pytest.FixtureRequest) -> Callable[..., Any]:
    from torch.utils.data import DataLoader, TensorDataset

    from robomimic_vae_ext.training import loader_pass

    def make(begin: int, count: int = 12) -> list[torch.Tensor]:
        """Three passes of four batches, with random numbers drawn between them."""
        dataset = TensorDataset(torch.arange(18))
        loader = DataLoader(
            dataset, batch_size=4, shuffle=True, drop_last=True, num_workers=request.param
        )
        torch.manual_seed(0)
        batches, one = [], loader_pass.LoaderPass(loader)
        for step in range(count):
            if step == begin and begin > 0:
                from robomimic_vae_ext.training import random_state

                position, state = one.position(), random_state.snapshot()
                torch.manual_seed(99)
                one = loader_pass.LoaderPass(loader, position)
                random_state.restore(state)
                batches = []
            batches.append(one.next_batch()[0])
            assert one.indices == batches[-1].tolist()
            torch.rand(3)
        return batches

    return make


def test_saving_between_steps_is_by_number_or_time() -> None:
    run = resumable.ResumableTraining({}, Saving(minutes=60, steps=3), False, None)
    assert [run.is_due(steps) for steps in (1, 2, 3)] == [False, False, True]
    assert resumable.ResumableTraining({}, Saving(minutes=0), False, None).is_due(1)
