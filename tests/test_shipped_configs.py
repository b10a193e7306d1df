"""Configs by name: in the checkout, and with a user's own files in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from robomimic_vae_ext import shipped_configs
from robomimic_vae_ext.errors import ConfigError
from tests.conftest import REPOSITORY

SHIPPED = REPOSITORY / "configs"


def test_every_file_of_the_folder_has_a_name() -> None:
    paths = {shipped_configs.find(name) for name in shipped_configs.names()}
    assert paths == set(SHIPPED.rglob("*.json"))


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("vae_joint", "vae_joint.json"),
        ("vae_joint.json", "vae_joint.json"),
        ("baselines/bc", "baselines/bc.json"),
        ("baselines/bc.json", "baselines/bc.json"),
    ],
)
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, file: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_configs.find(words) == SHIPPED / file


@pytest.mark.parametrize("words", ["vae_joint.json", "baselines/bc", "./vae_joint", "own"])
def test_an_explicit_path_comes_before_a_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / words
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    assert shipped_configs.find(words).samefile(path)


def test_a_bare_name_is_the_shipped_config_even_beside_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vae_joint").write_text("{}")
    assert shipped_configs.find("vae_joint") == SHIPPED / "vae_joint.json"


@pytest.mark.parametrize("words", ["vae_jiont", "./vae_jiont.json", "baselines", ""])
def test_an_unknown_name_lists_the_shipped_ones(words: str) -> None:
    with pytest.raises(ConfigError) as error:
        shipped_configs.find(words)
    assert "vae_joint" in error.value.expected and "baselines/bc" in error.value.expected


def test_an_installation_without_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_configs, "PACKAGE", tmp_path / "package")
    with pytest.raises(ConfigError, match="no configs"):
        shipped_configs.find("vae_joint")
