"""What `lapo doctor` says of environments that lack something: libraries are stand-ins here."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from robomimic_vae_ext import doctor
from robomimic_vae_ext.cli import main

# Healthy stand-ins, by file; those that a test changes come first on the path.
HEALTHY = {
    "numpy.py": "__version__ = '1.26.4'",
    "h5py.py": "__version__ = '3.16'",
    "torch.py": """
__version__ = '2.14.1+cu130'
class cuda:
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda index: 'some GPU')
""",
    "torchvision.py": "__version__ = '0.29.1+cu130'",
    "robomimic/__init__.py": "__version__ = '0.3.0'",
    "robomimic/algo/__init__.py": "",
    "robomimic/algo/algo.py": "REGISTERED_ALGO_FACTORY_FUNCS = {'lapo': None}",
    "robomimic/config/__init__.py": "",
    "robomimic/config/base_config.py": "REGISTERED_CONFIGS = {'lapo': None}",
    "mujoco.py": "__version__ = '3.9.0'",
    "robosuite/__init__.py": "__version__ = '1.5.2'",
    "robosuite/utils/__init__.py": "",
    "robosuite/utils/binding_utils.py": """
class MjRenderContextOffscreen:
    def __init__(self, sim, device_id): pass
class MjSim:
    from_xml_string = classmethod(lambda cls, text: cls())
    def render(self, **options): pass
""",
}
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
NO_EGL = """
class MjRenderContextOffscreen:
    def __init__(self, sim, device_id): raise ImportError('no EGL')
class MjSim:
    from_xml_string = classmethod(lambda cls, text: cls())
"""


@pytest.fixture(autouse=True)
def _stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in HEALTHY.items():
        change(tmp_path, name, text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ROBOMIMIC_VAE_EXT_DISABLE", "1")  # the real plugin needs the real robomimic
    monkeypatch.setitem(sys.modules, "_robomimic_vae_ext_startup", doctor)
    monkeypatch.setattr(metadata, "requires", lambda name: [])
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.0")


def change(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def problems(folder: Path, timeout: float = 60) -> dict[str, doctor.Check]:
    checks = doctor.examine(folder, timeout)
    found = {check.name: check for check in checks if check.status == "problem"}
    assert all(check.action for check in found.values())
    return found


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "doctor.json"
    assert main(["doctor", "--folder", str(tmp_path), "--timeout", "60", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    values = {check["name"]: check["value"] for check in result["checks"]}
    assert result["ok"] is True
    assert values["torch"] == "2.14.1+cu130" and values["GPU"] == "some GPU"
    assert set(doctor._REMEDIES) <= set(values)
    printed = capsys.readouterr().out
    assert all(name in printed and value in printed for name, value in values.items())


@pytest.mark.parametrize(
    ("file", "text", "expected", "message"),
    [
        ("torch.py", "raise ImportError('libcudart.so.13')", {"torch"}, "libcudart.so.13"),
        ("torchvision.py", "raise RuntimeError('no torchvision::nms')", {"torchvision"}, "::nms"),
        # The process that ends takes what comes after it along, and nothing else.
        ("torch.py", CRASH, {"torch", "torchvision"}, "SIGSEGV"),
        ("h5py.py", "raise SystemExit(3)", {"h5py"}, "SystemExit: 3"),
        ("mujoco.py", CRASH, {"mujoco", "robosuite", "rendering"}, "SIGSEGV"),
        (
            "robosuite/__init__.py",
            "import nothing_such",
            {"robosuite", "rendering"},
            "nothing_such",
        ),
        ("robosuite/utils/binding_utils.py", NO_EGL, {"rendering"}, "no EGL"),
        ("robomimic/config/base_config.py", "REGISTERED_CONFIGS = {}", {"plugin"}, "config 'lapo'"),
        ("robomimic/algo/__init__.py", "import nothing_such", {"plugin"}, "nothing_such"),
        ("torchvision.py", "__version__ = '0.29.1+cpu'", {"torch build"}, "0.29.1+cpu"),
    ],
)
def test_what_is_broken_is_named(
    tmp_path: Path, file: str, text: str, expected: set[str], message: str
) -> None:
    change(tmp_path, file, text)
    found = problems(tmp_path)
    assert set(found) == expected
    assert all(message in check.value for check in found.values())


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    change(tmp_path, "robosuite/__init__.py", "import time; time.sleep(100)")
    found = problems(tmp_path, timeout=3)
    assert set(found) == {"robosuite", "rendering"}
    assert all("--timeout" in check.action for check in found.values())


def test_no_gpu_is_no_problem(tmp_path: Path) -> None:
    text = HEALTHY["torch.py"].replace("lambda: 1", "lambda: 0")
    change(tmp_path, "torch.py", text)
    assert problems(tmp_path) == {}


@pytest.mark.parametrize(("version", "ok"), [("3.9.0", True), ("3.10.0", False)])
def test_versions_are_compared_with_the_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, ok: bool
) -> None:
    needs = ["mujoco<3.10,>=3.3", "robomimic>=9", 'ray; extra == "cluster"']
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    found = problems(tmp_path)
    assert set(found) == (set() if ok else {"mujoco"})
    if not ok:
        assert version in found["mujoco"].value and "mujoco<3.10" in found["mujoco"].action


def test_a_requirement_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "imageio":
            raise metadata.PackageNotFoundError(name)
        return "0.1.0"

    monkeypatch.setattr(metadata, "requires", lambda name: ["imageio"])
    monkeypatch.setattr(metadata, "version", version)
    assert set(problems(tmp_path)) == {"imageio"}


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_the_import_hook_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: str
) -> None:
    monkeypatch.delitem(sys.modules, "_robomimic_vae_ext_startup")
    monkeypatch.setattr(
        doctor, "probe", lambda timeout: {key: {"value": ""} for key in doctor._REMEDIES}
    )
    monkeypatch.setenv("ROBOMIMIC_VAE_EXT_DISABLE", disabled)
    found = problems(tmp_path)
    assert set(found) == {"import hook"}
    assert ("ROBOMIMIC_VAE_EXT_DISABLE" in found["import hook"].action) == (disabled == "1")


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert set(problems(tmp_path / "file" / "below")) == {"output folder"}
    assert main(["doctor", "--folder", str(tmp_path / "file"), "--timeout", "60"]) == 1


def test_a_check_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[doctor.Check]:
        raise KeyError("surprise")

    monkeypatch.setattr(doctor, "check_requirements", fail)
    found = problems(tmp_path)
    assert set(found) == {"requirements"} and "surprise" in found["requirements"].value


def test_a_timeout_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--timeout", "0"]) == 2
    assert "--timeout 0" in capsys.readouterr().err
