"""The replay: the same batches from memory and from disk, files that heal, batches ahead."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.lapo import frames, frames_on_disk
from robomimic_vae_ext.lapo import replay_dataset as replay_module
from tests.conftest import CAMERAS, damage, data_entry

Make = Callable[..., Any]
GOALS = {
    "train": {"goal_mode": "last"},
    "observation": {"modalities": {"goal": {"low_dim": ["object"], "rgb": ["agentview_image"]}}},
}


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> Path:
    """A copy whose neighbourhood and time stamp belong to one test."""
    return Path(shutil.copy(dataset, tmp_path / "data.hdf5"))


@pytest.fixture
def make_replay(make_config: Make, data: Path) -> Make:
    """Replay of some storage, as stock train.py makes it."""

    def make(
        storage: str = "memory", mask: str = "train", path: Path = data, **changes: Any
    ) -> Any:
        import robomimic.utils.train_utils as train_utils

        config = make_config(changes.pop("config", None))
        with config.values_unlocked():
            config.train.data = data_entry(path)
            config.algo.replay.storage = storage
            config.algo.replay.update(changes)
        return train_utils.dataset_factory(
            config, obs_keys=config.all_obs_keys, filter_by_attribute=mask
        )

    return make


def files(path: Path) -> dict[str, Path]:
    """Camera to its file beside the dataset."""
    found = path.with_name(f"{path.name}.frames").glob("*.npy")
    return {file.name.rpartition("-")[0]: file for file in found}


def assert_same(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    else:
        assert one.dtype == two.dtype
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def everything(replay: Any) -> dict[str, Any]:
    return replay.gather(torch.arange(len(replay)))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("mask", ["train", "valid"])
@pytest.mark.parametrize(
    "config", [{}, {"train": {"frame_stack": 3}}, GOALS], ids=["plain", "stack", "goals"]
)
def test_memory_and_disk_give_the_same_batches(
    make_replay: Make, data: Path, config: dict[str, Any], mask: str, apart: bool
) -> None:
    if apart:
        with h5py.File(data, "r+") as file:
            # Not in the first demonstrations: what was written until then has to be given up.
            file["data/demo_2/next_obs/agentview_image"][1] ^= 1
    memory, disk = (make_replay(kind, mask, config=config) for kind in ("memory", "disk"))
    assert_same(everything(disk), everything(memory))
    assert_same(disk[3], memory[3])
    assert {key for key, value in disk.frames.items() if value.path} == set(CAMERAS)
    assert set(files(data)) == set(CAMERAS)
    assert "GiB of pictures in" in repr(disk)
    assert ("stored apart: ['agentview_image']" in repr(disk)) == apart


def test_the_file_is_shared_by_masks_and_runs_until_the_dataset_changes(
    make_replay: Make, data: Path
) -> None:
    make_replay("disk", "train")
    first = {key: path.stat() for key, path in files(data).items()}
    make_replay("disk", "valid")
    again = {key: path.stat() for key, path in files(data).items()}
    assert {k: (v.st_ino, v.st_mtime_ns) for k, v in first.items()} == {
        k: (v.st_ino, v.st_mtime_ns) for k, v in again.items()
    }
    before = files(data)
    with h5py.File(data, "r+") as file:
        file["data/demo_0/obs/agentview_image"][0, 0, 0, 0] ^= 1
    os.utime(data, ns=(0, 0))
    assert_same(everything(make_replay("disk")), everything(make_replay("memory")))
    assert files(data).keys() == before.keys()
    assert not set(files(data).values()) & set(before.values())  # and the old ones are gone


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def blank(path: Path) -> None:
    """Zeros at the end, as after a power cut."""
    size = path.stat().st_size
    os.truncate(path, size - 5000)
    os.truncate(path, size)


def other_shape(path: Path) -> None:
    np.save(path, np.zeros((3, 44, 44, 3), np.uint8))


@pytest.mark.parametrize(
    "damage",
    [cut, blank, other_shape, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x" * 999)],
    ids=["cut", "blank", "shape", "empty", "foreign"],
)
def test_a_damaged_file_is_written_anew(
    make_replay: Make, data: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    make_replay("disk")
    damage(files(data)["agentview_image"])
    whole = files(data)["robot0_eye_in_hand_image"].stat().st_ino
    caplog.clear()
    disk = make_replay("disk")
    assert "written anew" in caplog.text
    assert_same(everything(disk), everything(make_replay("memory")))
    assert files(data)["robot0_eye_in_hand_image"].stat().st_ino == whole
    caplog.clear()
    make_replay("disk")
    assert not caplog.text


def test_a_full_disk_is_one_line_before_anything_is_written(
    make_replay: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        DatasetError, match=r"pictures take .* free.*algo\.replay\.folder"
    ) as caught:
        make_replay("disk")
    assert "\n" not in str(caught.value)
    assert not files(data)


def test_a_writer_that_dies_leaves_no_file(
    make_replay: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = frames_on_disk.read_blocks

    def failing(*args: Any) -> Any:
        yield next(read(*args))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(frames_on_disk, "read_blocks", failing)
        with pytest.raises(DatasetError, match=r"cannot be written .*No space left"):
            make_replay("disk")
    folder = data.with_name("data.hdf5.frames")
    assert [path.name for path in folder.iterdir()] == ["lock"]
    # A killed process cannot clean up; the next one does.
    (folder / "agentview_image-0123.partial").write_bytes(b"x")
    assert_same(everything(make_replay("disk")), everything(make_replay("memory")))
    assert not list(folder.glob("*.partial"))


def test_a_folder_that_cannot_be_made_is_named(make_replay: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/.*cannot be written.*algo\.replay\.folder"):
        make_replay("disk", folder=str(tmp_path / "file"))


def test_datasets_of_one_name_share_a_folder(make_replay: Make, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / data.name
    other.parent.mkdir()
    shutil.copy2(data, other)  # same size and time stamp
    with h5py.File(other, "r+") as file:
        file["data/demo_1/obs/agentview_image"][2] ^= 1
        file["data/demo_1/next_obs/agentview_image"][1] ^= 1
    os.utime(other, ns=(data.stat().st_atime_ns, data.stat().st_mtime_ns))
    shared = str(tmp_path / "shared")
    for path in (data, other):
        disk = make_replay("disk", path=path, folder=shared)
        assert_same(everything(disk), everything(make_replay("memory", path=path)))
    assert len(list(Path(shared).iterdir())) == 2
    assert not files(data)


def test_two_that_start_together_write_once(
    make_replay: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = frames_on_disk._write, []

    def counted(store: Any, file: Any, kind: Any, layout: Any) -> Any:
        written.append(kind.key)
        return write(store, file, kind, layout)

    monkeypatch.setattr(frames_on_disk, "_write", counted)
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda m=mask: made.append(make_replay("disk", m)))
        for mask in ("train", "valid")
    ]
    with frames_on_disk._locked(data.with_name("data.hdf5.frames")):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=0.5)
        assert not files(data) and all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(written) == sorted(CAMERAS)
    for disk in made:
        memory = make_replay("memory", disk.sequences.filter_by_attribute)
        assert_same(everything(disk), everything(memory))


def test_what_does_not_fit_is_refused_or_stays_on_disk(
    make_replay: Make, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(frames.TooLargeError, match=r'max_gib = 0\.0001 .*storage to "disk"'):
        make_replay("memory", max_gib=1e-4)
    assert not files(data)
    small = make_replay("auto", max_gib=1e-4)  # low-dimensional observations still fit
    assert set(files(data)) == set(CAMERAS)
    assert "stay on disk" in caplog.text
    assert small.frames["agentview_image"].path and not small.frames["robot0_eef_pos"].path
    large = make_replay("auto")
    assert not large.frames["agentview_image"].path
    assert_same(everything(small), everything(large))
    with pytest.raises(frames.TooLargeError, match="max_gib"):
        make_replay("disk", max_gib=0.0)


def test_more_than_the_machine_has_free_is_refused(
    make_replay: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(available=10_000)
    monkeypatch.setattr(frames.psutil, "virtual_memory", lambda: free)
    with pytest.raises(frames.TooLargeError, match=r"0\.00 GiB are free now"):
        make_replay("memory")


def test_twice_the_memory_is_asked_for_before_it_is_taken(make_replay: Make, data: Path) -> None:
    once = sum(value.array.nbytes for value in make_replay("memory").frames.values()) / frames.GIB
    with h5py.File(data, "r+") as file:
        file["data/demo_3/next_obs/agentview_image"][1] ^= 1
    make_replay("memory", max_gib=1.6 * once)
    with pytest.raises(frames.TooLargeError):
        make_replay("memory", max_gib=1.1 * once)


def test_observations_that_do_not_fit_the_actions_are_named(make_replay: Make, data: Path) -> None:
    with h5py.File(data, "r+") as file:
        name = "data/demo_1/next_obs/agentview_image"
        values = file[name][:-1]
        del file[name]
        file[name] = values
    for kind in ("memory", "disk"):
        with pytest.raises(DatasetError, match=r"demo_1/next_obs/agentview_image is \(8, "):
            make_replay(kind)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_damaged_pictures_are_named(make_replay: Make, data: Path, kind: str) -> None:
    damage(data, "data/demo_1/obs/agentview_image")
    with pytest.raises(DatasetError, match="data/demo_1/obs/agentview_image cannot be read"):
        make_replay(kind)


@pytest.mark.parametrize("key", ["robot0_eef_pos", "agentview_image"])
def test_demonstrations_may_differ_in_precision_but_not_in_kind(
    make_replay: Make, data: Path, key: str
) -> None:
    expected = make_replay("memory").frames["robot0_eef_pos"].array.astype(np.float32)
    with h5py.File(data, "r+") as file:
        for part in ("obs", "next_obs"):
            values = file[f"data/demo_1/{part}/{key}"][()]
            del file[f"data/demo_1/{part}/{key}"]
            file[f"data/demo_1/{part}/{key}"] = values.astype(np.float32)
    if key == "robot0_eef_pos":
        found = make_replay("memory").frames[key].array
        np.testing.assert_array_equal(found.astype(np.float32), expected)
    else:
        with pytest.raises(DatasetError, match=r"demo_1/obs/agentview_image .* of type float32"):
            make_replay("memory")


@pytest.mark.parametrize("columns", [["actions"], ["rewards", "dones"], ["obs", "next_obs"]])
def test_a_row_after_the_last_transition_is_never_read(
    make_replay: Make, make_model: Make, data: Path, columns: list[str]
) -> None:
    """Recorders that store the state after the last action, or an action or reward with it."""
    expected = everything(make_replay())
    with h5py.File(data, "r+") as file:
        for demo in file["data"].values():
            arrays = [f"{c}/{k}" for c in columns for k in (demo[c] if "obs" in c else ())]
            for name in arrays or columns:
                values = demo[name][()]
                del demo[name]
                demo[name] = np.concatenate([values, 7 * np.ones_like(values[:1])])
    for storage in ("memory", "disk"):
        assert_same(everything(make_replay(storage)), expected)
    # robomimic's own SequenceDataset, too.
    off = {"algo": {"replay": {"enabled": False}}}
    windows = next(iter(DataLoader(make_replay(config=off, enabled=False), batch_size=42)))
    torch.testing.assert_close(windows["actions"][:, 0], expected["actions"], check_dtype=False)
    reduced = make_model().process_batch_for_training(windows)
    torch.testing.assert_close(reduced["rewards"], expected["rewards"])


@pytest.mark.parametrize(
    ("cuda", "available", "pin"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_batches_are_page_locked_for_a_gpu_alone(
    make_replay: Make, monkeypatch: pytest.MonkeyPatch, cuda: bool, available: bool, pin: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    replay = make_replay(config={"train": {"cuda": cuda}})
    asked: list[bool] = []
    empty = torch.empty

    def recorded(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", recorded)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: asked.append(True) or tensor)
    replay.gather(torch.arange(4))
    assert set(asked) == {pin}
    # In a worker process there is no GPU context.
    asked.clear()
    monkeypatch.setattr(replay_module, "get_worker_info", lambda: object())
    replay.gather(torch.arange(4))
    assert set(asked) == {False}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_page_locked_batches_hold_the_same(make_replay: Make) -> None:
    gpu, cpu = (make_replay(config={"train": {"cuda": cuda}}) for cuda in (True, False))
    batch = everything(gpu)
    assert batch["obs"]["agentview_image"].is_pinned() and batch["rewards"].is_pinned()
    assert_same(batch, everything(cpu))


def loader(replay: Any, **changes: Any) -> DataLoader:
    """As stock train.py makes it."""
    sampler = replay.get_dataset_sampler()
    return DataLoader(replay, sampler=sampler, **{"batch_size": 8, "drop_last": True} | changes)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_gathered_ahead_are_those_of_a_plain_shuffle(
    make_replay: Make, workers: int
) -> None:
    ours, plain = make_replay(), make_replay()
    passes = []
    for made in (
        loader(ours, num_workers=workers),
        DataLoader(plain, batch_size=8, shuffle=True, drop_last=True, num_workers=workers),
    ):
        torch.manual_seed(3)
        passes.append([batch for _ in range(3) for batch in made])
    assert len(passes[0]) == len(passes[1]) == 15
    for one, two in zip(*passes, strict=True):
        assert_same(one, two)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_spawned_workers_get_the_file_and_not_a_copy(make_replay: Make, storage: str) -> None:
    replay = make_replay(storage)
    for _ in zip(range(2), loader(replay), strict=False):
        pass  # the thread is there and has a batch
    text = pickle.dumps(replay)
    size = sum(frames.array.nbytes for frames in replay.frames.values())
    assert (len(text) > size) == (storage == "memory")
    assert_same(everything(pickle.loads(text)), everything(replay))
