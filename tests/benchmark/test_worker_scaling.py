"""One worker against several: arithmetic with a clock of our own, and real episodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robomimic_vae_ext.benchmark import bench_results, peers, timing, worker_scaling

PLAN = worker_scaling.ScalingPlan(workers=(1, 2), few=2, many=10, horizon=5)


def test_start_up_is_taken_out_and_work_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(workers: int, episodes: int) -> worker_scaling.Work:
        now[0] += 7.0 * workers + 3.0 * episodes / workers  # start-up and episodes
        return worker_scaling.Work(frames=50 * episodes, outcome=list(range(episodes)))

    part = worker_scaling.scale(run, PLAN, rounds=3, title="")
    assert (part["few_frames"], part["many_frames"]) == (100, 500)
    assert bench_results.running_seconds(part, 1) == 24.0
    assert bench_results.running_seconds(part, 2) == 12.0
    ratios = bench_results.speedups(part, "rollout")
    assert ratios["rollout_2_workers"].value == pytest.approx(2.0)
    assert ratios["rollout_2_workers_whole"].value == pytest.approx((7 + 30) / (14 + 15))
    assert part["same_outcomes"]


def test_other_outcomes_with_more_workers_are_noticed() -> None:
    part = worker_scaling.scale(
        lambda workers, episodes: worker_scaling.Work(1, workers), PLAN, 1, ""
    )
    assert not part["same_outcomes"]


@pytest.mark.simulator
def test_real_rollouts_and_collection(setting: peers.Setting, tmp_path: Path) -> None:
    plan = worker_scaling.ScalingPlan(workers=(1,), few=1, many=2, horizon=5)
    played = worker_scaling.measure_rollouts(setting, plan, torch.device("cpu"), 1, tmp_path)
    assert (played["few_frames"], played["many_frames"]) == (5, 10)
    collected = worker_scaling.measure_collection(setting, plan, 1, tmp_path)
    assert collected["many_frames"] > collected["few_frames"] > 5
    for part in (played, collected):
        assert part["same_outcomes"]
        assert min(part["workers"]["1"]["few_seconds"] + part["workers"]["1"]["many_seconds"]) > 0
