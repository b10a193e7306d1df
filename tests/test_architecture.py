"""Who may import whom, and the sizes and words that the project keeps to."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "robomimic_vae_ext"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.py"))]


SIMULATORS = {"robosuite", "mujoco", "robomimic"}


@pytest.mark.parametrize(
    ("paths", "forbidden"),
    [
        ([PACKAGE / "lapo/losses.py"], SIMULATORS | {"h5py", "matplotlib", "numpy"}),
        (files("data"), {"torch", "robomimic", "matplotlib"}),
        (
            [PACKAGE / "analysis/curve_figures.py", PACKAGE / "study/study_figures.py"],
            {"torch", "robomimic", "robosuite"},
        ),
        (files("lapo"), {"robosuite", "mujoco", "matplotlib"}),
        ([PACKAGE / "__init__.py", PACKAGE / "_startup.py"], SIMULATORS | {"torch", "h5py"}),
    ],
    ids=["losses", "data", "plots", "lapo", "front_door"],
)
def test_import_rules(paths: list[Path], forbidden: set[str]) -> None:
    assert paths
    for path in paths:
        assert not roots(path) & forbidden, path


def test_nothing_imports_scripts_and_losses_stand_alone() -> None:
    for path in MODULES:
        assert "scripts" not in roots(path), path
    ours = {name for name in imports(PACKAGE / "lapo/losses.py") if name.startswith("robomimic_")}
    assert not ours


def test_gradient_flow_imports_torch_and_itself() -> None:
    extras = {"matplotlib", "pytest"}  # imported where a figure, or a fixture, is asked for
    ours = ("robomimic_vae_ext.errors", "robomimic_vae_ext.gradient_flow")
    for path in files("gradient_flow"):
        foreign = roots(path) - sys.stdlib_module_names - extras
        assert foreign <= {"torch", "robomimic_vae_ext"}, path
        inside = {name for name in imports(path) if name.startswith("robomimic_vae_ext")}
        assert all(name.startswith(ours) for name in inside), path
        assert "lapo" not in path.read_text().lower(), path


@pytest.mark.parametrize(
    ("folder", "above"), [("recording", ("judge", "show")), ("judge", ("show",))]
)
def test_gradient_flow_is_read_in_one_direction(folder: str, above: tuple[str, ...]) -> None:
    upward = tuple(f"robomimic_vae_ext.gradient_flow.{name}" for name in (*above, "tape"))
    for path in files(f"gradient_flow/{folder}"):
        assert not any(name.startswith(upward) for name in imports(path)), path


def test_nothing_from_robomimic_by_name_at_top_level() -> None:
    """robomimic's modules import each other in circles, and we are imported in the middle."""
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("robomimic."), f"{path}: {node.module}"


def test_scripts_are_argparse_and_nothing_else() -> None:
    for path in sorted((REPOSITORY / "scripts").glob("*.py")):
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        assert len(lines) <= 60, path
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.ClassDef) for node in tree.body), path
