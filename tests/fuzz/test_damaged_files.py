"""200 damaged files, always the same ones, end in one message each; see `damaged_files`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import REPOSITORY

COUNT = int(os.environ.get("FUZZ_FILES", "200"))


def test_flipped_bytes_and_cut_off_ends() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.damaged_files", str(COUNT), "0"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    print(f"FUZZ {json.dumps(found)}")
    assert not found["crashes"], found["crashes"][:5]
    assert found["peak_mib"] < 2000
    # It is a test of both ends.
    assert found["ends"]["validate: used"] > COUNT // 20
    assert found["ends"]["convert: refused"] > COUNT // 5
