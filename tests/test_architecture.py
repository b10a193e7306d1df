"""Import rules that import-linter (pyproject.toml) cannot express: white lists, and top levels."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "robomimic_vae_ext"
OURS = PACKAGE.name


def imported(nodes: list[ast.stmt]) -> set[str]:
    """Modules that these statements and all below them import, without the standard library."""
    found: set[str] = set()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import: {ast.unparse(node)}"
            module = node.module or ""
            found |= (
                {f"{OURS}.{alias.name}" for alias in node.names} if module == OURS else {module}
            )
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def all_imports(path: Path) -> set[str]:
    return imported(ast.parse(path.read_text()).body)


def top_level_imports(path: Path) -> set[str]:
    """Without what is inside of functions, or for type checkers alone."""
    apart = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.parse(path.read_text()).body if not isinstance(node, apart)]
    return imported([node for node in nodes if "TYPE_CHECKING" not in ast.unparse(node)])


def files(pattern: str) -> list[Path]:
    found = sorted(PACKAGE.glob(pattern))
    assert found, pattern
    return found


@pytest.mark.parametrize(
    "path", ["__init__.py", "_startup.py", "plugin.py", "compat.py", "doctor.py"]
)
def test_what_runs_in_a_broken_environment_imports_no_library(path: str) -> None:
    ours = {name for name in top_level_imports(PACKAGE / path) if name.split(".")[0] == OURS}
    assert top_level_imports(PACKAGE / path) == ours


def test_the_losses_import_torch_alone() -> None:
    assert {name.split(".")[0] for name in all_imports(PACKAGE / "lapo/losses.py")} == {"torch"}


def test_gradient_flow_imports_torch_and_itself_alone() -> None:
    itself = tuple(f"{OURS}.{name}" for name in ("gradient_flow", "errors", "files"))
    for path in files("gradient_flow/**/*.py"):
        others = {name for name in all_imports(path) if not name.startswith(itself)}
        # matplotlib for a figure that is asked for, pytest for the fixture.
        assert {name.split(".")[0] for name in others} <= {"torch", "matplotlib", "pytest"}, path


def test_nothing_from_robomimic_by_name_at_top_level() -> None:
    """robomimic's modules import each other in circles, and we are imported in the middle."""
    for path in files("**/*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("robomimic."), f"{path}: {node.module}"
