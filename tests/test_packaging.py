"""Wheel, source distribution, plain and editable installation, uninstalling, in bare environments.

The last test uses a wheel as its users do, with the libraries of the environment of the tests.
"""

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
FIND_LAPO = "from robomimic.config import config_factory; print(config_factory('lapo').algo_name)"
FIND_CONFIG = "from robomimic_vae_ext import shipped_configs; print(shipped_configs.find('{}'))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that the build leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("source")
    for path in REPOSITORY.iterdir():
        if path.is_file() and path.name != ".git":  # in a linked work tree .git is a file
            shutil.copy(path, copy)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("robomimic_vae_ext", "configs"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source distribution, so that both are complete."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import setuptools.build_meta as build; build.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    archive = next(folder.glob("*.tar.gz"))
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, archive)
    return next(folder.glob("*.whl"))


def bare(**changes: str) -> dict[str, str]:
    """Our environment without PYTHONPATH."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | changes


def pip(*words: object, python: Path = Path(sys.executable), borrow: bool = True) -> None:
    # The bare environment borrows setuptools from ours to build: tests download nothing.
    result = subprocess.run(
        [str(python), "-m", "pip", *map(str, words)], capture_output=True, text=True, timeout=240,
        env=bare(PYTHONPATH=SITE) if borrow else bare(),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def site_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python*/site-packages"))


def last_line(folder: Path, tmp_path: Path, code: str) -> str:
    """What code prints last in this environment, with stock robomimic from ours."""
    result = subprocess.run(
        [str(folder / "bin" / "python"), "-c", f"import sys; sys.path.append({SITE!r}); {code}"],
        capture_output=True, text=True, cwd=tmp_path, timeout=240, env=bare(),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_wheel_is_complete(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(OUTSIDE) <= names
    tops = {name.split("/")[0] for name in names}
    assert tops - set(OUTSIDE) == {"robomimic_vae_ext", "robomimic_vae_ext-0.1.0.dist-info"}
    for folder, pattern, place in (
        (REPOSITORY / "robomimic_vae_ext", "*.py", "robomimic_vae_ext"),
        (REPOSITORY / "configs", "*.json", "robomimic_vae_ext/configs"),
    ):
        expected = {f"{place}/{path.relative_to(folder)}" for path in folder.rglob(pattern)}
        assert expected <= names


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True], ids=["plain", "editable"])
def test_install_use_uninstall(source: Path, wheel: Path, tmp_path: Path, editable: bool) -> None:
    folder = tmp_path / "env"
    venv.create(folder, symlinks=True, with_pip=True)
    python, lapo = folder / "bin" / "python", folder / "bin" / "lapo"
    before = {path.name for path in site_packages(folder).iterdir()}
    what = ["--editable", source] if editable else [wheel]
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed")
    pip("install", *options, *what, python=python, borrow=editable)
    assert last_line(folder, tmp_path, FIND_LAPO) == "lapo"
    configs = (
        source / "configs" if editable else site_packages(folder) / "robomimic_vae_ext/configs"
    )
    for name in ("vae_joint", "baselines/bc"):
        found = last_line(folder, tmp_path, FIND_CONFIG.format(name))
        assert Path(found) == configs / f"{name}.json"
    command = subprocess.run([lapo, "--version"], capture_output=True, text=True, env=bare())
    assert command.stdout == "robomimic_vae_ext 0.1.0\n", command.stderr
    pip("uninstall", "-y", "robomimic_vae_ext", python=python, borrow=False)
    assert {path.name for path in site_packages(folder).iterdir()} == before
    assert not lapo.exists()


def user_environment(folder: Path, wheel: Path) -> None:
    """An environment with the wheel, and with all that ours has except for this package."""
    venv.create(folder / "env", symlinks=True, with_pip=True)
    pip("install", "--no-deps", wheel, python=folder / "env" / "bin" / "python", borrow=False)
    others = folder / "others"
    others.mkdir()
    for path in Path(SITE).iterdir():
        # Neither an installation of this package nor start-up files come along.
        if "robomimic_vae_ext" not in path.name and path.suffix != ".pth":
            (others / path.name).symlink_to(path)
    (site_packages(folder / "env") / "others.pth").write_text(f"{others}\n")


@pytest.mark.simulator
@pytest.mark.slow
def test_the_wheel_alone_makes_a_policy(wheel: Path, tmp_path: Path) -> None:
    user_environment(tmp_path, wheel)
    empty = tmp_path / "empty"
    empty.mkdir()
    lapo = tmp_path / "env" / "bin" / "lapo"
    for words in (
        ["doctor", "--timeout", "200"],
        ["audit", "--config", "vae_fixed"],
        ["demo", "--fast", "--out", "demo"],
    ):
        result = subprocess.run(
            [str(lapo), *words], cwd=empty, capture_output=True, text=True, timeout=1200,
            env=bare(MUJOCO_GL="egl"), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert result.returncode == 0, f"{words}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    assert (empty / "demo" / "policy.mp4").stat().st_size > 0
    assert {path.name for path in empty.iterdir()} == {"demo"}
