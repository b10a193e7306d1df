"""The report of a made-up study whose truth is known, and merging results of other machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import intervals, report, run_study
from robomimic_vae_ext.study import job as jobs
from robomimic_vae_ext.study.study_file import Study, read_study

SUCCESS = {"vae": 0.4, "critic": 0.8, "bc": 0.6}
STEPS, EPISODES = (20, 40), (6, 10)


@pytest.fixture
def study(tmp_path: Path, dataset: Path) -> Study:
    (tmp_path / "lapo.json").write_text('{"algo_name": "lapo"}')
    (tmp_path / "bc.json").write_text('{"algo_name": "bc"}')
    values = {
        "name": "made_up",
        "tasks": {"tiny": {"dataset": str(dataset), "horizon": 9}},
        "arms": {
            "vae": {"config": "lapo.json"},
            "critic": {"config": "lapo.json", "set": {"algo": {"encoder": {"owner": "critic"}}}},
            "bc": {"config": "bc.json"},
        },
        "seeds": [1, 2, 3, 4],
        "training": {"steps": STEPS[1], "steps_per_checkpoint": 20, "batch_size": 4},
        "evaluation": {
            "final_episodes": EPISODES[1], "earlier_episodes": EPISODES[0],
            "earlier_checkpoints": 1, "seed": 7, "zero_latent_episodes": 2,
        },
        "reference_arm": "vae",
        "references": {"bc": "critic"},
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(values))
    return read_study(tmp_path / "study.json")


def result(job: jobs.Job) -> dict[str, Any]:
    """What a finished job leaves; the success of an arm is the same for all seeds."""
    has_q = job.arm != "bc"
    error = {"vae": 0.2, "critic": 0.1}.get(job.arm, 0.0) * (1 + 0.01 * job.seed)
    names = ("critic_error", "auc", "q_mean", "q_std", "correlation")
    rollouts = []
    for step, episodes in zip(STEPS, EPISODES, strict=True):
        wins = round(SUCCESS[job.arm] * episodes)
        success = [int(index < wins) for index in range(episodes)]
        rollouts.append({
            "step": step, "episodes": episodes, "successes": wins, "failures": 0,
            "mean_length": 5.0, "value_error": error if has_q else None, "q_start": None,
            "return_start": None, "success": success,
        })  # fmt: skip
    found = {
        "task": job.task, "arm": job.arm, "seed": job.seed, "settings": job.settings,
        "algo": job.config["algo_name"], "steps": job.steps, "precision": "float32",
        "curve": [
            {"step": step} | dict.fromkeys(names, error * 40 / step if has_q else None)
            for step in STEPS
        ],
        "rollouts": rollouts, "action_error": None, "config": job.config,
        "seconds": {"train": 1.0, "measure": 1.0, "rollouts": 1.0},
        "versions": {"torch": "2"}, "commit": "abc",
    }  # fmt: skip
    if has_q:
        found["zero_latent"] = {"success": [1, 0], "z": 0.5}
    return found


def write(
    every: list[jobs.Job], out: Path, keep: Callable[[jobs.Job], bool] = lambda _: True
) -> None:
    for job in filter(keep, every):
        folder = out / job.name
        jobs.write_job(job, folder)
        (folder / jobs.RESULT).write_text(json.dumps(result(job)))


def test_the_long_table_has_a_row_for_each_value(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path / "out")
    report.write_report(study, every, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(table.columns) == ["task", "arm", "seed", "step", "metric", "value"]
    assert not table.duplicated(["task", "arm", "seed", "step", "metric"]).any()
    success = table[table.metric == "success"].pivot_table("value", "step", "arm")
    assert success.loc[STEPS[1]].to_dict() == pytest.approx(SUCCESS)
    assert set(table[table.arm == "bc"].metric).isdisjoint({"critic_error", "value_error", "auc"})
    assert set(table[table.metric == "success_zero_latent"].value) == {0.5}
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(stored["records"]) == 12 and stored["records"][0]["commit"] == "abc"
    assert stored["file"]["seeds"] == [1, 2, 3, 4]


def test_tables_say_what_is_true(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path)
    summary = report.Summary(report.records(every, tmp_path))
    for arm, rate in SUCCESS.items():
        found = summary.success("tiny", arm)
        assert found is not None and found.value == pytest.approx(100 * rate)
        assert found.low is not None and found.low < 100 * rate < found.high
    ratio, p = summary.ratio("tiny", "critic", "vae", "critic_error")
    assert ratio == pytest.approx((0.5, 0.5, 0.5)) and p is not None and p < 1e-4
    ratio, p = summary.ratio("tiny", "bc", "critic", "critic_error")
    assert ratio is None and p is None
    final = report.final_table(study, summary, "tiny").set_index("arm")
    assert final.loc["`bc`", "held-out Q error"] == "–" and final.loc["`vae`", "seeds"] == "4"
    assert final.loc["`vae`", "with z = 0 [%]"].startswith("50")
    ratios = report.ratio_table(study, summary, "tiny").set_index("arm")
    assert ratios["relative to"].to_dict() == {"`critic`": "`vae`", "`bc`": "`critic`"}
    assert ratios.loc["`critic`", "success, ratio"].startswith("2")


def test_a_half_finished_study_has_a_report_and_figures(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path, lambda job: job.seed == 1 and job.arm != "critic")
    report.write_report(study, every, tmp_path)
    assert "2 of 12" in (tmp_path / "report.md").read_text()
    for name in ("success.png", "curves.png"):
        picture = matplotlib.image.imread(tmp_path / name)
        assert picture.shape[1] == 1660 and picture[..., :3].std() > 0.05
    assert not list(tmp_path.glob("*partial*"))


def test_without_episodes_in_common_nothing_is_cut(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path)
    summary = report.Summary(report.records(every, tmp_path))
    early, late = (summary.outcomes("tiny", ["vae", "bc"], [1, 2], step) for step in STEPS)
    assert [x.shape for x in early] == [(2, 6), (2, 6)]
    assert [x.shape for x in late] == [(2, 10), (2, 10)]
    assert intervals.success(late[0]).value == SUCCESS["vae"]


def test_results_of_other_settings_and_damaged_ones_are_refused(
    study: Study, tmp_path: Path
) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path)
    path = tmp_path / every[0].name / jobs.RESULT
    path.write_text(json.dumps(result(every[0]) | {"settings": "0123456789ab"}))
    with pytest.raises(ConfigError, match=str(path)):
        report.records(every, tmp_path)
    path.write_text('{"curve": [')
    with pytest.raises(DatasetError, match=str(path)):
        report.records(every, tmp_path)


def test_results_of_two_machines_add_up(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    here, there = tmp_path / "here", tmp_path / "there"
    write(every, here, lambda job: job.seed == 1)
    write(every, there, lambda job: job.seed in (1, 2))
    report.write_report(study, every, there)
    options = run_study.Options(merge=(there / "results.json",))
    assert run_study.report_only(study, here, options) == 0
    merged = json.loads((here / "results.json").read_text())["records"]
    assert len(merged) == 6 and {record["seed"] for record in merged} == {1, 2}
    assert run_study.merge_results(every, here, there / "results.json") == 0  # all are there
    for job in every:
        if job.seed == 2:
            jobs.tidy(here / job.name)  # without a run folder
            assert jobs.read_job(here / job.name) == job


def test_results_of_other_settings_are_not_merged(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path / "there", lambda job: job.seed == 1)
    report.write_report(study, every, tmp_path / "there")
    path = tmp_path / "there" / "results.json"
    values = json.loads(path.read_text())
    values["records"][1]["settings"] = "0123456789ab"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="tiny/critic/seed_1"):
        run_study.merge_results(every, tmp_path / "here", path)
    assert not (tmp_path / "here" / "tiny").exists()
    values["records"][1]["settings"] = every[1].settings
    path.write_text(json.dumps(values))
    jobs.write_job(replace(every[0], horizon=99), tmp_path / "here" / every[0].name)
    with pytest.raises(ConfigError, match="horizon = 99"):  # begun here with other settings
        run_study.merge_results(every, tmp_path / "here", path)
    for text in ("{", "[]", '{"records": [{"task": 1}]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"results\.json"):
            run_study.merge_results(every, tmp_path / "here", path)


def test_nothing_to_report_is_an_error(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no result"):
        run_study.report_only(study, tmp_path / "empty", run_study.Options())


def test_a_broken_critic_is_infinite_not_missing(study: Study, tmp_path: Path) -> None:
    every = jobs.all_jobs(study)
    write(every, tmp_path)
    broken = result(every[0])
    broken["curve"][-1]["critic_error"] = float("nan")
    (tmp_path / every[0].name / jobs.RESULT).write_text(json.dumps(broken))
    summary = report.Summary(report.records(every, tmp_path))
    assert np.isinf(summary.values("tiny", "vae", "critic_error").mean())
