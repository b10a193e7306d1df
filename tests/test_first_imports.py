"""Any module may be the first one of ours that somebody imports: no circular imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

# robomimic imports us while it is being imported, so the packages that it knows are the ones at
# risk. Third parties' modules are imported once, before the forks; robomimic is not.
FORKS = """
import importlib, os, sys
import h5py, matplotlib, numpy, packaging, torch, torchvision

for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print("FAILED", name, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print("ALL TRIED")
"""


@pytest.mark.slow
def test_every_module_can_be_the_first_import() -> None:
    package = REPOSITORY / "robomimic_vae_ext"
    paths = [
        *package.glob("*.py"),
        *(package / "lapo").glob("*.py"),
        package / "rollout/evaluate.py",
    ]
    names = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(paths)
        if path.stem != "__main__"
    ]
    result = subprocess.run(
        [sys.executable, "-c", FORKS, *names], capture_output=True, text=True, timeout=300
    )
    assert "ALL TRIED" in result.stdout, result.stderr[-2000:]
    assert "FAILED" not in result.stdout, result.stdout
