"""Wheel, plain and editable installation, and uninstalling, in bare environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SITE = sysconfig.get_paths()["purelib"]
OUTSIDE = ("robomimic_vae_ext.pth", "_robomimic_vae_ext_startup.py")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that the build leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "robomimic_vae_ext", copy / "robomimic_vae_ext", ignore=ignore)
    return copy


def pip(*words: object, python: Path = Path(sys.executable), borrow: bool = True) -> None:
    # The bare environment borrows setuptools from ours to build: tests download nothing.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHONPATH": SITE} if borrow else {}
    result = subprocess.run(
        [str(python), "-m", "pip", *map(str, words)],
        capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def site_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python*/site-packages"))


def finds_lapo(folder: Path, tmp_path: Path) -> bool:
    """Whether stock robomimic (from our environment) knows the config in this one."""
    code = "from robomimic.config import config_factory; print(config_factory('lapo').algo_name)"
    result = subprocess.run(
        [str(folder / "bin" / "python"), "-c", f"import sys; sys.path.append({SITE!r}); {code}"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    return result.returncode == 0 and result.stdout.split()[-1:] == ["lapo"]


def test_the_wheel_carries_the_startup_files(source: Path, tmp_path: Path) -> None:
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert set(OUTSIDE) <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops - set(OUTSIDE) == {"robomimic_vae_ext", "robomimic_vae_ext-0.1.0.dist-info"}


@pytest.mark.parametrize("editable", [False, True], ids=["plain", "editable"])
def test_install_use_uninstall(source: Path, tmp_path: Path, editable: bool) -> None:
    folder = tmp_path / "env"
    venv.create(folder, symlinks=True, with_pip=True)
    python = folder / "bin" / "python"
    before = {path.name for path in site_packages(folder).iterdir()}
    options = ["--editable"] if editable else []
    wheel = tmp_path / "wheel"
    if not editable:
        pip("wheel", "--no-deps", "--no-build-isolation", "-w", wheel, source)
        source = next(wheel.glob("*.whl"))
    pip(
        "install", "--no-deps", "--no-build-isolation", "--ignore-installed", *options, source,
        python=python, borrow=editable,
    )  # fmt: skip
    assert finds_lapo(folder, tmp_path)
    pip("uninstall", "-y", "robomimic_vae_ext", python=python, borrow=False)
    assert {path.name for path in site_packages(folder).iterdir()} == before
