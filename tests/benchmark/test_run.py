"""The script, and parts put together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext.benchmark import report, run
from robomimic_vae_ext.benchmark.errors import BenchmarkError
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")


def script(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "benchmark.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_files_are_written_after_every_part(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.json"
    (tmp_path / "performance.md").write_text("<!-- bench.json: data -->\n<!-- end -->\n")
    seen: list[set[str]] = []

    def measured(part: str, *_: object) -> dict[str, Any]:
        seen.append(set(json.loads(out.read_text())["parts"]) if out.exists() else set())
        return parts[part]

    monkeypatch.setattr(run, "measure_part", measured)
    results = run.run(run.full_plan(CPU, 7, (1, 2)), ["data", "steps"], CPU, out)
    assert seen == [set(), {"data"}]
    assert set(json.loads(out.read_text())["parts"]) == {"data", "steps"}
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "`replay`" in (tmp_path / "performance.md").read_text()
    assert "steps_vs_bcq" in run.summary(results)


def test_a_miniature_leaves_the_document_alone(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "performance.md"
    document.write_text("<!-- bench.json: data -->\n<!-- end -->\n")
    monkeypatch.setattr(run, "measure_part", lambda part, *_: parts[part])
    run.run(run.fast_plan((1, 2)), ["data"], CPU, tmp_path / "bench.json")
    assert document.read_text() == "<!-- bench.json: data -->\n<!-- end -->\n"


def test_the_full_plan_is_what_the_goals_are_set_for() -> None:
    for name, batch in (("cpu", 64), ("cuda", 256)):
        plan = run.full_plan(torch.device(name), 7, (1, 2))
        small, headline = plan.settings
        assert (small.batch_size, small.image_size) == (128, 84)
        assert (headline.name, headline.batch_size) == (report.HEADLINE, batch)
        assert plan.loading.batch_size == 256
        assert plan.loading.dataset.demos * plan.loading.dataset.steps >= 256
        assert not plan.fast


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="--device cpu"):
        run.run(run.fast_plan((1,)), ["data"], torch.device("cuda"), tmp_path / "b.json")


def test_the_script_names_what_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    out.write_text("{")
    result = script("--fast", "--only", "data", "--out", out)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"benchmark.py: {out} cannot be read")
    assert script("--workers", "2", "--out", out).returncode == 2
    assert "--device" in script("--help").stdout
