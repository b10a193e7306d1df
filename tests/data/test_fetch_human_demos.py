"""Demonstrations are taken out of a wheel, with the models beside them."""

from __future__ import annotations

import io
import runpy
import zipfile
from pathlib import Path

import h5py
import pytest

from robomimic_vae_ext.errors import OutputError
from tests.data.conftest import SCRIPTS

FETCH = SCRIPTS.parent / "studies" / "robosuite_versions" / "fetch_human_demos.py"


def test_models_are_put_into_the_file(tmp_path: Path) -> None:
    script = runpy.run_path(str(FETCH))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("data/demo_1").attrs["model_file"] = "model_1.xml"
        file.create_group("data/demo_2").attrs["model_file"] = "<mujoco/>"
    for version in script["VERSIONS"]:
        wheel = tmp_path / f"robosuite-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(script["FOLDER"] + "pick-place/panda/demo.hdf5", buffer.getvalue())
            archive.writestr(script["FOLDER"] + "pick-place/panda/models/model_1.xml", "<mujoco>1")
    written = script["fetch"](tmp_path / "out", wheels=tmp_path)
    assert [path.name for path in written] == ["pick_place_1.4.1.hdf5", "pick_place_1.0.1.hdf5"]
    with h5py.File(written[0]) as file:
        models = [demo.attrs["model_file"] for demo in file["data"].values()]
    assert models == ["<mujoco>1", "<mujoco/>"]
    with pytest.raises(OutputError, match="exists already"):
        script["fetch"](tmp_path / "out", wheels=tmp_path)
