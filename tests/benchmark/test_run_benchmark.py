"""The command, and its parts put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext.benchmark import bench_results, run_benchmark
from robomimic_vae_ext.cli import main, verb_bench
from robomimic_vae_ext.errors import BenchmarkError

CPU = torch.device("cpu")


def test_files_are_written_after_every_part(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.json"
    seen: list[set[str]] = []

    def measured(part: str, *_: object) -> dict[str, Any]:
        seen.append(set(json.loads(out.read_text())["parts"]) if out.exists() else set())
        return parts[part]

    monkeypatch.setattr(run_benchmark, "measure_part", measured)
    results = run_benchmark.run(
        run_benchmark.full_plan(CPU, 7, (1, 2)), ["data", "steps"], CPU, out
    )
    assert seen == [set(), {"data"}]
    assert set(json.loads(out.read_text())["parts"]) == {"data", "steps"}
    assert results == json.loads(out.read_text())


def test_the_full_plan_is_what_the_goals_are_set_for() -> None:
    for name, batch in (("cpu", 64), ("cuda", 256)):
        plan = run_benchmark.full_plan(torch.device(name), 7, (1, 2))
        small, headline = plan.settings
        assert (small.batch_size, small.image_size) == (128, 84)
        assert (headline.name, headline.batch_size) == (bench_results.HEADLINE, batch)
        assert plan.loading.batch_size == 256
        assert plan.loading.dataset.demos * plan.loading.dataset.steps >= 256
        assert not plan.fast


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="--device cpu"):
        run_benchmark.run(
            run_benchmark.fast_plan((1,)), ["data"], torch.device("cuda"), tmp_path / "b.json"
        )


def test_the_command_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    out.write_text("{")
    assert main(["bench", "--fast", "--only", "data", "--out", str(out)]) == 2
    assert f"{out} cannot be read" in capsys.readouterr().err
    for words in (["--workers", "2"], ["--repeats", "0"], ["--device", "none"]):
        assert main(["bench", *words]) == 2
        assert " ".join(words) in capsys.readouterr().err
    assert main(["bench", "--out", str(tmp_path)]) == 2
    assert verb_bench.PARTS == bench_results.PARTS


def test_without_a_file_the_table_is_printed(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_benchmark, "measure_part", lambda part, *_: parts[part])
    assert main(["bench", "--only", "steps"]) == 0
    assert "lapo_critic" in capsys.readouterr().out
