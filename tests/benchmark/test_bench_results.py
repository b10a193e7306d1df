"""Ratios from raw times, the JSON file, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext import files
from robomimic_vae_ext.benchmark import bench_results, bench_tables
from robomimic_vae_ext.errors import BenchmarkError

CPU = torch.device("cpu")


def filled(parts: dict[str, Any], path: Path) -> dict[str, Any]:
    results = bench_results.load(path, bench_results.machine(CPU), fast=False)
    for name, values in parts.items():
        bench_results.add(results, name, values)
    return results


def test_every_ratio_is_right(parts: dict[str, Any]) -> None:
    found = {name: ratio.value for name, ratio in bench_results.all_ratios(parts).items()}
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
    low, high = bench_results.all_ratios(parts)["steps_vs_iql"][1:]
    assert (low, high) == (2.0, 5.5)  # quartiles of 8, 3, 1


def test_parts_are_merged_and_ratios_follow(parts: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "folder" / "bench.json"
    files.write_json(path, filled({"steps": parts["steps"]}, path))
    results = bench_results.load(path, bench_results.machine(CPU), fast=False)
    bench_results.add(results, "data", parts["data"])
    files.write_json(path, results)
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
    found = bench_results.machine(CPU)
    files.write_json(path, filled(parts, path))
    if kind in ("damaged", "foreign"):
        path.write_text("{" if kind == "damaged" else "[]")
    if kind == "device":
        found = found | {"device": "cuda", "device_name": "some GPU"}
    with pytest.raises(BenchmarkError) as caught:
        bench_results.load(path, found, fast=kind == "miniature")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_have_the_numbers_of_the_parts(parts: dict[str, Any], tmp_path: Path) -> None:
    results = filled(parts, tmp_path / "b.json")
    text = bench_tables.summary(results)
    rows = [line.split() for line in text.splitlines()]
    assert ["steps_vs_bcq", "6.000", "5.000", "to", "9.000"] in rows
    assert ["replay", "10.0", "(10.0", "to", "10.0)", "1.01"] in rows
    assert ["2", "50.0", "30.0", "10.0", "30.0"] in rows  # 1,000 frames and 10 episodes in 20 s
    (table,) = bench_tables.tables(results, "rollouts")
    assert "| 2 | 50.0 | 30.0 | 10.0 | 30.0 |" in table.markdown().splitlines()
    # The start-up of collection varies more than its episodes take: no rate.
    (table,) = bench_tables.tables(results, "collect")
    assert table.rows[1][1] == table.rows[1][2]


def test_only_what_was_measured_is_printed(parts: dict[str, Any], tmp_path: Path) -> None:
    text = bench_tables.summary(filled({"data": parts["data"]}, tmp_path / "b.json"))
    assert "data_wait_share" in text and "steps_vs_bcq" not in text
