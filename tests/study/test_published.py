"""Results of earlier sittings, which are all that is left of them, count as done."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import plan, protocol, published, results, runner, study_plots
from tests.study import synthetic

SITTINGS = (("own", "bc", 4), ("own", "joint", 3)), (("play_lift", "vae", 1),)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> protocol.Protocol:
    monkeypatch.setattr(study_plots, "all_figures", lambda *_: [])  # they take seconds
    return synthetic.write_study(tmp_path / "configs")


def sitting(study: protocol.Protocol, folder: Path, *found: Any, merge: Any = ()) -> Path:
    """results.json of a sitting that has run some jobs in a folder of its own."""
    others = {(j.task, j.arm, j.seed) for j in plan.all_jobs(study)} - set(found)
    synthetic.write_results(folder / "runs", study, leave_out=others)
    results.write_results(study, folder / "runs", folder / "docs", merge)
    return folder / "docs" / "results.json"


def test_sittings_add_up(study: protocol.Protocol, tmp_path: Path) -> None:
    """Two sittings on two machines give byte for byte the table of one."""
    first = sitting(study, tmp_path / "first", *SITTINGS[0])
    both = sitting(study, tmp_path / "second", *SITTINGS[1], merge=[first])
    whole = sitting(study, tmp_path / "whole", *SITTINGS[0], *SITTINGS[1])
    assert both.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    data = json.loads(both.read_text())
    assert data["records"] == json.loads(whole.read_text())["records"]
    assert data["manifest"]["jobs"] == {"planned": 50, "done": 3, "not_of_this_study": 0}


def test_what_only_the_first_sitting_knew_is_kept(study: protocol.Protocol, tmp_path: Path) -> None:
    first = sitting(study, tmp_path / "first", *SITTINGS[0])
    data = json.loads(first.read_text())
    model = {"arm": "vae", "seed": 1, "swap": 0.1, "shares": [0.2, 0.2, 0.6]}
    look = {"views": 1, "pixels": [0.1, 0.1, 0.8], "models": [model]}
    data["saliency"]["play_lift"] = look
    data["manifest"]["demonstrations"]["play_lift"] = {"episodes": 9, "successes": 4}
    first.write_text(json.dumps(data))
    second = json.loads(
        sitting(study, tmp_path / "second", *SITTINGS[1], merge=[first]).read_text()
    )
    assert second["saliency"] == {"play_lift": look}
    assert second["manifest"]["demonstrations"] == {
        "play_lift": {"episodes": 9, "successes": 4},
        "own": {"episodes": 4, "successes": 1, "constant_error": None},
    }  # fmt: skip


def test_models_of_all_sittings_are_compared(
    study: protocol.Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers add up; a figure is replaced by one that shows all the models, by no other."""

    def look(*models: tuple[str, int, float]) -> SimpleNamespace:
        rows = [
            {"arm": arm, "seed": seed, "swap": swap, "shares": [0.2, 0.2, 0.6]}
            for arm, seed, swap in models
        ]
        return SimpleNamespace(
            looks=[(arm, seed) for arm, seed, _ in models],
            as_dict=lambda: {"views": 3, "pixels": [0.1, 0.1, 0.8], "models": rows},
        )

    drawn: list[list[str]] = []
    found: dict[str, SimpleNamespace] = {}

    def draw(found: Any, arms: list[str], docs: Path, task: str) -> None:
        drawn.append(arms)
        (docs / study_plots.saliency_figure(task).name).touch()

    monkeypatch.setattr(study_plots, "saliency", draw)
    monkeypatch.setattr(results, "_looks", lambda *_: found)
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    synthetic.write_results(runs, study)

    def models() -> list[tuple[str, int, float]]:
        file = docs / "results.json"
        results.write_results(study, runs, docs, [file] if file.exists() else [])
        saved = json.loads(file.read_text())["saliency"]["play_lift"]["models"]
        return [(model["arm"], model["seed"], model["swap"]) for model in saved]

    found["play_lift"] = look(("vae", 1, 0.1), ("critic", 1, 0.2))
    assert models() == [("vae", 1, 0.1), ("critic", 1, 0.2)]
    found["play_lift"] = look(("critic", 1, 0.3), ("joint", 1, 0.4))
    assert models() == [("vae", 1, 0.1), ("critic", 1, 0.3), ("joint", 1, 0.4)]
    assert drawn == [["vae", "critic"]]  # without vae, it would show less than it does
    found["play_lift"] = look(("joint", 1, 0.4), ("critic", 1, 0.3), ("vae", 1, 0.1))
    models()
    assert drawn[1:] == [["vae", "critic", "joint"]]


def test_a_merged_job_may_have_been_begun_here(study: protocol.Protocol, tmp_path: Path) -> None:
    first = sitting(study, tmp_path / "first", *SITTINGS[0])
    job = next(job for job in plan.all_jobs(study) if job.name == "own/joint/seed_3")
    folder = tmp_path / "second" / "runs" / job.name
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    both = json.loads(sitting(study, tmp_path / "second", *SITTINGS[1], merge=[first]).read_text())
    assert both["manifest"]["jobs"]["done"] == 3


def test_several_files_add_up(study: protocol.Protocol, tmp_path: Path) -> None:
    """What only one of them knows is kept, whichever comes first; unplanned models are not."""

    def model(arm: str, seed: int) -> dict[str, Any]:
        return {"arm": arm, "seed": seed, "swap": 0.1, "shares": [0.2, 0.2, 0.6]}

    files = []
    for name, models, demos in (
        ("a", [model("vae", 1), model("gone", 1)], {"play_lift": {"episodes": 9}, "own": None}),
        ("b", [model("critic", 1), model("vae", 99)], {"play_lift": None, "own": {"episodes": 4}}),
    ):
        look = {"views": 3, "pixels": [0.1, 0.1, 0.8], "models": models}
        saliency = {"play_lift": look, "gone": look}
        values = {"manifest": {"demonstrations": demos}, "saliency": saliency, "records": []}
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(values))
    for order in (files, files[::-1]):
        found = published.read(study, order)
        assert found.demonstrations == {"play_lift": {"episodes": 9}, "own": {"episodes": 4}}
        (look,) = found.saliency.values()
        assert {(m["arm"], m["seed"]) for m in look["models"]} == {("vae", 1), ("critic", 1)}


def test_models_that_looked_at_other_pictures_give_way(caplog: pytest.LogCaptureFixture) -> None:
    known = {"views": 3, "pixels": [0.1, 0.1, 0.8], "models": [{"arm": "vae", "seed": 1}]}
    new = {"views": 3, "pixels": [0.1, 0.2, 0.7], "models": [{"arm": "critic", "seed": 1}]}
    assert published.merge_looks(known, new) == new and "other pictures" in caplog.text
    same = published.merge_looks(known, known | {"models": new["models"]})
    assert [m["arm"] for m in same["models"]] == ["vae", "critic"]


def test_settings_are_those_of_no_machine(study: protocol.Protocol, tmp_path: Path) -> None:
    """Paths and the device do not matter; what a dataset was collected with does."""
    job = plan.all_jobs(study)[0]

    def settings(**changes: Any) -> str:
        return replace(job, **changes).settings

    assert settings(dataset="elsewhere/" + Path(job.dataset).name) == job.settings
    train = job.config["train"]
    moved = {**train, "data": "x.hdf5", "output_dir": "y", "cuda": True}
    assert settings(config={**job.config, "train": moved}) == job.settings
    others = [
        settings(config={**job.config, "train": {**train, "batch_size": 1}}),
        settings(collect={"env": "PlayLift", "n": 11}),
        settings(dataset="other.hdf5"),
    ]
    assert len({job.settings, *others}) == 4


def test_merged_jobs_are_not_run_again(
    study: protocol.Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = sitting(study, tmp_path / "first", *SITTINGS[0])
    prepared: list[set[str]] = []

    def prepare(study: Any, out: Path, selected: set[str], workers: int) -> list[Any]:
        prepared.append(selected)
        return []

    monkeypatch.setattr(plan, "check_configs", lambda study: None)
    monkeypatch.setattr(plan, "prepare", prepare)
    options = runner.Options(gpus="none", merge=(first,), only_arms=("bc",), only_tasks=("own",))
    assert runner.run_study(study, tmp_path / "out", tmp_path / "docs", options) == 0
    assert prepared == [{f"own/bc/seed_{seed}" for seed in (1, 2, 3, 5)}]
    printed = capsys.readouterr().out
    assert "results to merge: 1 of 5 jobs" in printed
    assert "2 of 50 jobs have results" in printed


def test_results_of_other_settings_are_refused(study: protocol.Protocol, tmp_path: Path) -> None:
    first = sitting(study, tmp_path / "first", *SITTINGS[0])
    changed = json.loads(study.path.read_text())
    changed["arms"]["joint"]["set"] = {"algo": {"n_step": 5}}
    study.path.write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"own/joint/seed_3 was run with other settings"):
        published.read(protocol.read_protocol(study.path), [first])
    del changed["arms"]["joint"]  # what is no longer planned is left out
    study.path.write_text(json.dumps(changed))
    assert set(published.read(protocol.read_protocol(study.path), [first]).records) == {
        "own/bc/seed_4"
    }


EMPTY = {"manifest": {}, "saliency": {}, "records": []}
NONE = EMPTY | {"manifest": {"demonstrations": {}}}  # the least that is read


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[]",
        '{"records": [{}]}',
        json.dumps(EMPTY),
        json.dumps(EMPTY | {"saliency": 1}),
        json.dumps(NONE | {"manifest": 1}),
        json.dumps(NONE | {"manifest": {"study": 1, "demonstrations": {}}}),
        json.dumps(NONE | {"saliency": {"play_lift": {}}}),
    ],
)
def test_files_that_are_no_results(study: protocol.Protocol, tmp_path: Path, text: Any) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DatasetError, match=r"results\.json cannot be read") as caught:
        published.read(study, [path])
    assert "\n" not in str(caught.value)
