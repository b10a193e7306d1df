"""Episodes of a job: their statistics and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.study import job_rollouts


def episode(index: int, q: list[float], returns: list[float], success: bool) -> dict[str, Any]:
    return {
        "index": index, "success": success, "failed": not success, "length": len(q), "q": q,
        "returns": returns,
    }  # fmt: skip


def test_the_value_error_is_over_steps_and_episodes_are_in_order() -> None:
    records = [
        episode(1, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], False),
        episode(0, [0.5], [1.0], True),
    ]
    summary = job_rollouts.summary(30, records)
    assert summary["value_error"] == pytest.approx(0.25 / 4)
    assert (summary["q_start"], summary["return_start"]) == (0.25, 0.5)
    assert summary["success"] == [1, 0] and summary["failures"] == 1
    without = job_rollouts.summary(30, [episode(0, [], [], True)])
    assert without["value_error"] is None and without["q_start"] is None


def test_a_line_that_a_killed_job_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    assert job_rollouts.read(path) == []
    job_rollouts.append(path, {"index": 0})
    with path.open("a") as file:
        file.write('{"index": 1, "succ')
    assert job_rollouts.read(path) == [{"index": 0}]
    job_rollouts.append(path, {"index": 1})
    assert job_rollouts.read(path) == [{"index": 0}, {"index": 1}]


def test_a_damaged_line_of_episodes_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for damage in ("{\n", "3\n", "\x00\n"):
        path.write_text('{"step": 1}\n' + damage)
        with pytest.raises(DatasetError, match=r"episodes\.jsonl"):
            job_rollouts.read(path)
    path.write_text('{"step": 1}\n{"st')  # cut off by a kill: no damage
    assert job_rollouts.read(path) == [{"step": 1}]
