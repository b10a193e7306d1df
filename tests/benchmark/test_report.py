"""Ratios from raw times, the JSON file, its tables and its chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext.benchmark import chart, report, tables
from robomimic_vae_ext.benchmark.errors import BenchmarkError

CPU = torch.device("cpu")


def filled(parts: dict[str, Any], path: Path) -> dict[str, Any]:
    results = report.load(path, report.machine(CPU), fast=False)
    for name, values in parts.items():
        report.add(results, name, values)
    return results


def test_every_ratio_is_right(parts: dict[str, Any]) -> None:
    found = {name: ratio.value for name, ratio in report.all_ratios(parts).items()}
    assert found == {
        "steps_vs_bcq": 12.0 / 2.0,  # of the headline setting
        "steps_vs_iql": 6.0 / 2.0,
        "step_over_limit": 2.0 / 1.6,  # of 1, 1.25, 1.5
        "data_wait_share": 0.2 / 5.0,  # of the setting that waits most, with the replay
        "rollout_2_workers_whole": 45.0 / 30.0,
        "rollout_2_workers": 40.0 / 20.0,
        # One command's start-up took longer than the other's whole run: no figure of its own.
        "collect_2_workers_whole": 45.0 / 9.0,
    }
    low, high = report.all_ratios(parts)["steps_vs_iql"][1:]
    assert (low, high) == (2.0, 5.5)  # quartiles of 8, 3, 1


def test_parts_are_merged_and_ratios_follow(parts: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "folder" / "bench.json"
    report.save(filled({"steps": parts["steps"]}, path), path)
    results = report.load(path, report.machine(CPU), fast=False)
    report.add(results, "data", parts["data"])
    report.save(results, path)
    written = json.loads(path.read_text())
    assert set(written["parts"]) == {"steps", "data"}
    assert set(written["ratios"]) == set(written["ratio_spreads"])
    assert {"steps_vs_bcq", "data_wait_share"} <= set(written["ratios"])
    assert {"torch", "robomimic", "mujoco"} <= set(written["machine"]["versions"])
    assert written["machine"]["threads"] == 1
    assert len(written["parts"]["data"]["load_average"]) == 3


@pytest.mark.parametrize("kind", ["damaged", "foreign", "miniature", "device"])
def test_what_does_not_belong_together_is_refused(
    parts: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "bench.json"
    found = report.machine(CPU)
    report.save(filled(parts, path), path)
    if kind in ("damaged", "foreign"):
        path.write_text("{" if kind == "damaged" else "[]")
    if kind == "device":
        found = found | {"device": "cuda", "device_name": "some GPU"}
    with pytest.raises(BenchmarkError) as caught:
        report.load(path, found, fast=kind == "miniature")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_are_written_between_their_markers_alone(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    document = tmp_path / "performance.md"
    kinds = ("ratios", "machine", *report.PARTS)
    marked = [f"<!-- b.json: {kind} -->\nold\n<!-- end -->" for kind in kinds]
    other = "<!-- gpu.json: steps -->\nkept\n<!-- end -->"
    document.write_text("\n".join(["# Title", *marked, other, "last"]))
    results = filled(parts, tmp_path / "b.json")
    tables.update(document, "b.json", results)
    once = document.read_text()
    assert "old" not in once and other in once
    assert once.startswith("# Title") and once.endswith("last")
    assert "| `steps_vs_bcq` | 6.000 | 5.000 to 9.000 | at least 5 |" in once
    assert "| `replay` | 10.0 (10.0 to 10.0) | 1.01 |" in once
    assert "| 2 | 50.0 | 30.0 | 10.0 | 30.0 |" in once  # 1,000 frames and 10 episodes in 20 s
    assert "lost in noise" in once
    tables.update(document, "b.json", results)
    assert document.read_text() == once


def test_a_part_that_was_not_measured_keeps_its_text(parts: dict[str, Any], tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("<!-- b.json: collect -->\nNot measured yet.\n<!-- end -->")
    tables.update(document, "b.json", filled({"data": parts["data"]}, tmp_path / "b.json"))
    assert "Not measured yet." in document.read_text()


def test_an_unknown_marker_is_named(parts: dict[str, Any], tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("<!-- b.json: stepps -->\n<!-- end -->")
    with pytest.raises(BenchmarkError, match="'stepps'"):
        tables.update(document, "b.json", filled(parts, tmp_path / "b.json"))


def test_the_chart_shows_what_is_there(parts: dict[str, Any], tmp_path: Path) -> None:
    for name, some in {"all": parts, "one": {"collect": parts["collect"]}}.items():
        path = tmp_path / f"{name}.png"
        chart.draw(filled(some, tmp_path / "none.json"), path)
        assert path.stat().st_size > 5000
