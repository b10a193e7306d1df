"""Files of strangers: each ends in one message, whoever reads it, and no other file is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.cli import main
from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.data.conversion.convert import complete_dataset
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError

GIB = 2**30
DEEP = "[" * 100_000
POSITION = "data/demo_0/obs/robot0_eef_pos"


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def create(name: str, shape: tuple[int, ...], **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, shape=shape, **options)

    return change


def bomb(file: h5py.File) -> None:
    """1 GiB of zeros that take one MiB; each row of chunks is written once."""
    rows = 5
    del file[POSITION]
    array = file.create_dataset(
        POSITION, (rows, GIB // rows), "u1", chunks=(1, 2**24), compression="gzip"
    )
    row = np.zeros(array.shape[1], "u1")
    for index in range(rows):
        array[index] = row


def env(**changes: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        env_args = {"env_name": "Lift", "type": 1, "env_version": "1.5.2", "env_kwargs": {}}
        file["data"].attrs["env_args"] = json.dumps(env_args | changes)

    return change


def attribute(key: str, value: Any, group: str = "data/demo_0") -> Callable[[h5py.File], None]:
    return lambda file: file[group].attrs.__setitem__(key, value)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(5, 3), dtype="f8")
    layout[:] = h5py.VirtualSource(Path(file.filename).parent / "secret.hdf5", "x", shape=(5, 3))
    del file[POSITION]
    file.create_virtual_dataset(POSITION, layout)


def external(file: h5py.File) -> None:
    secret = str(Path(file.filename).parent / "secret.raw")
    del file[POSITION]
    file.create_dataset(POSITION, (5, 3), "f8", external=[(secret, 0, 120)])


def typed(name: str, dtype: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[name][()]
        del file[name]
        file[name] = values.astype(dtype)

    return change


STRINGS = h5py.string_dtype()

HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "external link": put(POSITION, h5py.ExternalLink("secret.hdf5", "/x")),
    "external demo": put("data/demo_2", h5py.ExternalLink("secret.hdf5", "/x")),
    "external link nobody reads": put("extra", h5py.ExternalLink("secret.hdf5", "/x")),
    "external mask": put("mask/train", h5py.ExternalLink("secret.hdf5", "/x")),
    "virtual": virtual,
    "external storage": external,
    "link to itself": put(POSITION, h5py.SoftLink("/" + POSITION)),
    "links in a circle": lambda f: (
        put("data/demo_0/actions", h5py.SoftLink("/b"))(f),
        put("b", h5py.SoftLink("/data/demo_0/actions"))(f),
    ),
    "demo links to itself": put("data/demo_7", h5py.SoftLink("/data/demo_7")),
    "masks link to themselves": put("mask", h5py.SoftLink("/mask")),
    "data links to itself": put("data", h5py.SoftLink("/data")),
    "52 GiB declared": create("data/demo_0/actions", (10**9, 7), dtype="f8"),
    "52 GiB in chunks": create("data/demo_0/actions", (10**9, 7), dtype="f8", chunks=(1000, 7)),
    "5 TiB observation": create(POSITION, (5, 2**37), dtype="f8"),
    "5 TiB mask": create("mask/train", (2**40,), dtype="S5"),
    "bomb": bomb,
    "more than 2^63": create(POSITION, (2**40, 2**20), dtype="f8", chunks=(1, 4)),
    "name is a list": env(env_name=["Lift"]),
    "name is a number": env(env_name=7),
    "name is empty": env(env_name=""),
    "type is a string": env(type="robosuite"),
    "type is a dict": env(type={}),
    "type is true": env(type=True),
    "type is 9": env(type=9),
    "version is a banana": env(env_version="banana"),
    "version is a dict": env(env_version={"major": 1}),
    "version of superscripts": env(env_version="².³"),
    "huge camera": env(env_kwargs={"camera_heights": 100_000}),
    "huge cameras": env(env_kwargs={"camera_widths": [84, 100_000]}),
    "robot is a number": env(env_kwargs={"robots": [3]}),
    "shaping is a string": env(env_kwargs={"reward_shaping": "no"}),
    "deep JSON": attribute("env_args", DEEP, "data"),
    "5,000 digits": attribute("env_args", '{"type": ' + "9" * 5000 + "}", "data"),
    "env_args are numbers": attribute("env_args", np.arange(3), "data"),
    "env_args are not UTF-8": attribute("env_args", np.bytes_(b"\xff\xfe{}"), "data"),
    "demo of 5,000 digits": lambda f: f.move("data/demo_0", "data/demo_" + "1" * 5000),
    "num_samples of 5,000 digits": attribute("num_samples", "9" * 5000),
    "mask not UTF-8": put("mask/train", np.array([b"demo_\xff"])),
    "mask of numbers": put("mask/train", np.arange(2)),
    "mask of nothing": put("mask/train", h5py.Empty("S6")),
    "name not UTF-8": lambda f: f["data/demo_0/obs"].move("robot0_eef_pos", b"\xff\x1b[2J"),
    "obs is no group": put("data/demo_0/obs", np.zeros((5, 3))),
    "obs of strings": put(POSITION, np.array([["a"] * 3] * 5, dtype=object).astype("S1")),
    "obs of objects": create(POSITION, (5, 3), dtype=STRINGS),
    "obs of references": create(POSITION, (5, 3), dtype=h5py.ref_dtype),
    "obs of compounds": create(POSITION, (5,), dtype=np.dtype([("x", "f8")])),
    "obs of nothing": put(POSITION, h5py.Empty("f8")),
    "obs of 1e300": lambda f: f[POSITION].__setitem__(0, 1e300),
    "uint64 observation": typed(POSITION, "u8"),
    "big-endian observation": typed(POSITION, ">f8"),
    "long double observation": typed(POSITION, "f16"),
    "uint64 actions": typed("data/demo_0/actions", "u8"),
    "bool actions": typed("data/demo_0/actions", "?"),
    "complex actions": typed("data/demo_0/actions", "c16"),
    "a reward of 1e30": lambda f: f["data/demo_0/rewards"].__setitem__(2, 1e30),
    "5,000 pixels a side": create(
        "data/demo_0/obs/agentview_image", (5, 5000, 5000, 3), dtype="u1", chunks=(1, 5000, 5000, 3)
    ),
    "model_file of bytes": attribute("model_file", np.void(b"\x00\xff\x13")),
    "model_file of junk": attribute("model_file", "PK\x03\x04"),
    "model_file is a number": attribute("model_file", 7),
}
#: Which of them only training minds, since a copy can keep what it does not use.
COPIED = {
    "num_samples of 5,000 digits",
    "obs of 1e300",
    "a reward of 1e30",
    "5,000 pixels a side",
} | {name for name in HOSTILE if name.endswith((" observation", " actions"))} - {
    "complex actions",
    "5 TiB observation",
}


@pytest.fixture
def hostile(tiny_dataset: Path, request: pytest.FixtureRequest) -> Path:
    with h5py.File(tiny_dataset.parent / "secret.hdf5", "w") as file:
        file["x"] = np.zeros((5, 3))
    (tiny_dataset.parent / "secret.raw").write_bytes(bytes(120))
    with h5py.File(tiny_dataset, "r+") as file:
        HOSTILE[request.param](file)
    return tiny_dataset


@pytest.mark.parametrize("hostile", HOSTILE, indirect=True)
def test_one_message_and_nothing_that_looks_finished(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: Any
) -> None:
    name = request.node.callspec.params["hostile"]
    assert main(["validate", str(hostile)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lapo validate: ") and err.count("\n") == 1 and err.isprintable() is False
    assert err.encode() and "Traceback" not in err and len(err) < 2000
    code = main(["convert", str(hostile), "--out", str(tmp_path / "new.hdf5")])
    err = capsys.readouterr().err
    if code == 0:
        assert name in COPIED or "not UTF-8" in name
        return
    assert code == 2 and err.startswith("lapo convert: ") and err.count("\n") == 1
    assert not list(tmp_path.glob("new.hdf5*"))


@pytest.mark.parametrize("hostile", ["external link", "virtual", "external storage"], indirect=True)
def test_links_are_followed_when_asked_for(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "whole.hdf5"
    command = ["convert", str(hostile), "--out", str(target), "--follow-links"]
    assert main(command) == 0  # the remedy
    (tmp_path / "secret.hdf5").unlink()
    (tmp_path / "secret.raw").unlink()
    validate_dataset(target)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file[POSITION][()], np.zeros((5, 3)))


def test_one_array_under_two_names(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        for demo in file["data"].values():
            for part in ("obs", "next_obs"):
                demo[f"{part}/again"] = demo[f"{part}/robot0_eef_pos"]
        file["data/demo_2"] = file["data/demo_0"]
        file["data/demo_3"] = h5py.SoftLink("/data/demo_1")
    for path in (tiny_dataset, complete_dataset(tiny_dataset, tmp_path / "new.hdf5").path):
        found = validate_dataset(path)
        assert found.demos == ("demo_0", "demo_1", "demo_2", "demo_3")
        assert found.obs_shapes["again"] == (3,)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_group_that_contains_itself(tiny_dataset: Path, tmp_path: Path, kind: str) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        demo = file["data/demo_0"]
        demo["deep/er"] = demo if kind == "hard" else h5py.SoftLink("/data/demo_0")
    validate_dataset(tiny_dataset)
    with pytest.raises(DatasetError, match="deep/er is a link to a group that it is in"):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5")


def test_memory_is_checked_before_it_is_taken(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        values = np.random.default_rng(0).random((5, 2**19))  # 20 MiB
        put(POSITION, values)(file)
    free = type("Free", (), {"available": 10**7})
    monkeypatch.setattr(hdf5.psutil, "virtual_memory", lambda: free)
    with (
        pytest.raises(DatasetError, match="fits in the free memory"),
        hdf5.open_dataset(tiny_dataset) as file,
    ):
        hdf5.read_array(file[POSITION], POSITION)


def test_errors_of_others_inside_the_block_are_left_alone(tiny_dataset: Path) -> None:
    with pytest.raises(ZeroDivisionError), hdf5.open_dataset(tiny_dataset):
        _ = 1 / 0
    with (
        pytest.raises(DatasetError, match=r"tiny\.hdf5 cannot be read"),
        hdf5.open_dataset(tiny_dataset) as file,
    ):
        file["data/nothing"]


def test_notes_of_others_are_no_settings(tiny_dataset: Path) -> None:
    for notes in ("junk", DEEP, "[]", np.arange(3)):
        with h5py.File(tiny_dataset, "r+") as file:
            file["data"].attrs["notes"] = notes
        assert hdf5.collected_as(tiny_dataset) is None
