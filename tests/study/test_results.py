"""The study's files, from made-up results with known truths."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest

from robomimic_vae_ext import markdown
from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import (
    claims,
    formatting,
    jobs,
    page,
    plan,
    records,
    results,
    statistics,
    study_plots,
    tables,
)
from robomimic_vae_ext.study.statistics import Estimate
from tests.study import synthetic


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A repository's docs after a study of which three jobs are missing, and what was printed."""
    folder = tmp_path_factory.mktemp("repository")
    study = synthetic.write_study(folder / "configs")
    missing = [("own", "bcq", 4), ("own", "joint", 3), ("own", "joint", 5)]
    synthetic.write_results(folder / "runs", study, leave_out=missing)
    return folder, results.write_results(study, folder / "runs", folder / "docs")


def rows(folder: Path) -> dict[tuple[str, str, int], dict[str, str]]:
    with (folder / "docs" / "results.csv").open() as file:
        return {(r["task"], r["arm"], int(r["seed"])): r for r in csv.DictReader(file)}


def test_every_job_is_one_row_with_the_measures_of_its_file(written: tuple[Path, str]) -> None:
    folder, _ = written
    found = rows(folder)
    assert len(found) == 2 * 5 * 5 - 3
    for (task, arm, seed), row in found.items():
        values = synthetic.result(task, arm, seed)
        rates = [r["successes"] / r["episodes"] for r in values["rollouts"]]
        assert float(row["success_final"]) == pytest.approx(rates[-1])
        assert float(row["success_last3"]) == pytest.approx(sum(rates) / 3, rel=1e-4)
        assert float(row["success_max"]) == pytest.approx(max(rates))
        errors = [point["critic_error"] for point in values["curve"]]
        if arm == "bc":
            assert row["critic_error_final"] == row["value_error"] == row["auc_final"] == ""
        else:
            assert float(row["critic_error_best"]) == pytest.approx(min(errors), rel=1e-3)
            assert float(row["critic_error_final"]) == pytest.approx(errors[-1], rel=1e-3)


def test_steps_are_those_to_the_reference_of_the_same_seed(written: tuple[Path, str]) -> None:
    folder, _ = written
    found = rows(folder)
    for seed in (1, 2, 3, 4, 5):
        level = float(found["own", "vae", seed]["critic_error_best"])
        errors = [p["critic_error"] for p in synthetic.result("own", "critic", seed)["curve"]]
        stays = [i for i in range(18) if max(errors[i : i + 3]) <= level * (1 + 1e-3)]
        row = found["own", "critic", seed]
        assert float(row["steps_to_reference"]) == 100 * (stays[0] + 1)
        steps = float(found["own", "vae", seed]["steps_to_reference"])
        assert float(row["speed_up"]) == pytest.approx(steps / (100 * (stays[0] + 1)), rel=1e-4)
        vae = [p["critic_error"] for p in synthetic.result("own", "vae", seed)["curve"]]
        level = min(max(vae[i : i + 3]) for i in range(18)) * (1 + 1e-3)
        own, its = (
            next(i for i in range(18) if max(e[i : i + 3]) <= level) + 1 for e in (errors, vae)
        )
        assert float(row["speed_up_settled"]) == pytest.approx(its / own, rel=1e-4)
        assert float(found["own", "vae", seed]["speed_up_settled"]) == 1
    # bcq's error ends above the reference's: never reached, which is not the same as not measured.
    assert found["own", "bcq", 1]["steps_to_reference"] == "inf"
    assert found["own", "bcq", 1]["speed_up"] == "0"


def test_the_page_says_what_is_missing(written: tuple[Path, str]) -> None:
    folder, printed = written
    text = (folder / "docs" / "results.md").read_text()
    assert "47 of 50 jobs are done" in text and "47 of 50" in printed
    assert "`own`, `joint`: 2 of 5 seeds (3, 5)" in text
    assert "1 of 4 demonstrations succeed" in text
    assert "\n| task | arm | against | seeds |" in text
    assert str(folder) not in text + (folder / "docs" / "results.json").read_text()


def test_a_page_links_to_the_protocol_where_there_is_one(
    written: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_plots, "all_figures", lambda *_: [])
    data = json.loads((written[0] / "docs" / "results.json").read_text())
    results.publish(data, tmp_path / "alone")
    text = (tmp_path / "alone" / "results.md").read_text()
    assert "protocol" not in text and "stands [at the end](#how-it-was-made)" in text
    (tmp_path / "docs" / "longer").mkdir(parents=True)
    (tmp_path / "docs" / "study_protocol.md").write_text("It is about `made_up`.")
    for folder, link in (("docs", "study_protocol.md"), ("docs/longer", "../study_protocol.md")):
        results.publish(data, tmp_path / folder)
        text = (tmp_path / folder / "results.md").read_text()
        assert f"in the [protocol]({link}#arms)" in text and f"[protocol]({link}) says" in text
    (tmp_path / "docs" / "study_protocol.md").write_text("It is about `another_one`.")
    results.publish(data, tmp_path / "docs")
    assert "protocol" not in (tmp_path / "docs" / "results.md").read_text()


def test_verdicts_of_the_known_truth(written: tuple[Path, str]) -> None:
    """critic learns four times faster to a quarter of the error; value_error is equal by design."""
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    summary = results.summary_of(data)
    assert summary.fixes == ("critic",) and summary.baselines == ["bc", "bcq"]
    verdicts = [c.holds(c.estimate(summary, "play_lift", "critic")) for c in claims.CLAIMS]
    assert verdicts[:3] == ["yes", "yes", "no"]
    ratio = summary.ratio("own", "joint", "vae", "success_final")
    assert ratio is not None and ratio.seeds == 3  # the seeds that both have


def test_the_claims_are_asked_of_the_arms_that_the_study_names(written: tuple[Path, str]) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    data["manifest"]["study"]["claims_of"] = ["critic", "joint"]
    text = claims.table(results.summary_of(data))
    rows = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [row[1] for row in rows] == ["`critic`", "`joint`"] * 2
    assert rows[0][4] != rows[1][4]


def test_an_arm_may_have_another_reference(written: tuple[Path, str]) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    study = data["manifest"]["study"]
    study |= {"claims_of": ["critic", "bcq"], "references": {"bcq": "critic"}}
    summary = results.summary_of(data)
    text = claims.table(summary)
    rows = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [row[1:3] for row in rows] == [["`critic`", "`vae`"], ["`bcq`", "`critic`"]] * 2
    own, usual = (
        summary.ratio("play_lift", "bcq", arm, "critic_error_final") for arm in ("critic", "vae")
    )
    assert own is not None and usual is not None
    assert f"{own.value:.3g} times" in rows[1][5] and f"{usual.value:.3g} times" not in rows[1][5]
    # The best of its own reference, not that of the study, is what has to be reached.
    level = summary.measures["play_lift", "critic", 1]["critic_error_best"]
    errors = [p.critic_error for p in summary.by_key["play_lift", "bcq", 1].curve]
    assert min(e for e in errors if e is not None) > level
    assert summary.measures["play_lift", "bcq", 1]["speed_up"] == 0
    (line,) = [
        line for line in tables.comparisons(summary, "play_lift", ["vae", "critic", "bcq"])
        .splitlines() if line.startswith("| `bcq` | `critic` |")
    ]  # fmt: skip
    assert f"{own.value:.3g} (" in line


def test_everything_can_be_made_again_from_the_json(written: tuple[Path, str]) -> None:
    folder, _ = written
    before = {p.name: p.read_bytes() for p in (folder / "docs").iterdir()}
    again = folder / "again"
    results.publish(json.loads(before["results.json"]), again)
    for name in ("results.csv", "results.json", "results.md"):
        assert (again / name).read_bytes() == before[name], name
    for name in (
        "results_curves.png",
        "results_auc.png",
        "results_values.png",
        "results_success.png",
    ):
        assert matplotlib.image.imread(again / name)[..., :3].std() > 0.05


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds, and not every test is about them."""
    monkeypatch.setattr(study_plots, "all_figures", lambda *_: [])


@pytest.mark.usefixtures("no_figures")
def test_a_discussion_survives(written: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    results.publish(data, tmp_path)
    document = tmp_path / "results.md"
    mine = document.read_text().replace("<!-- discussion -->\n", "<!-- discussion -->\nBecause.\n")
    document.write_text(mine)
    results.publish(data, tmp_path)
    assert document.read_text() == mine and "Because." in mine


def test_a_study_that_has_barely_begun(tmp_path: Path) -> None:
    """One seed of two arms: no interval, nothing decided, nothing invented."""
    study = synthetic.write_study(tmp_path)
    for arm in ("vae", "bc"):
        synthetic.write_job(tmp_path / "runs", study, "own", arm, 1)
    printed = results.write_results(study, tmp_path / "runs", tmp_path / "docs")
    assert "2 of 50 jobs" in printed
    assert "**yes**" not in printed and "**no**" not in printed and "not measured" in printed
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "No job of this task is done." in text and "0.125 (" not in text
    assert "| `vae` | 1 | 0.125 | 0.125 | 2,000 |" in text


def test_results_of_other_studies_are_told(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    synthetic.write_result(tmp_path / "runs", synthetic.result("own", "vae", 2) | {"arm": "other"})
    manifest = results.gather(study, tmp_path / "runs", tmp_path / "docs")["manifest"]
    assert manifest["jobs"] == {"planned": 50, "done": 1, "not_of_this_study": 1}


def test_results_of_other_settings_are_refused_here_too(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_result(tmp_path / "runs", synthetic.result("own", "vae", 1))
    with pytest.raises(ConfigError, match="own/vae/seed_1 was run with other settings"):
        results.gather(study, tmp_path / "runs", tmp_path / "docs")


@pytest.mark.usefixtures("no_figures")
def test_a_published_result_is_not_replaced_by_one_that_holds_less(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    for folder, arm in (("first", "vae"), ("second", "critic")):
        synthetic.write_job(tmp_path / folder, study, "own", arm, 1)
    docs = tmp_path / "docs"
    results.write_results(study, tmp_path / "first", docs)
    before = (docs / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=r"1 results that would be lost.*Add --merge"):
        results.write_results(study, tmp_path / "second", docs)
    assert (docs / "results.json").read_bytes() == before
    results.write_results(study, tmp_path / "second", docs, [docs / "results.json"])
    written = json.loads((docs / "results.json").read_text())
    assert [record["arm"] for record in written["records"]] == ["critic", "vae"]
    assert written["manifest"]["command"].endswith("--merge results.json")


@pytest.mark.usefixtures("no_figures")
def test_parts_of_a_published_result_are_not_lost_either(tmp_path: Path) -> None:
    """Its jobs are all there, but trainings and datasets have been removed, which is allowed."""
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    path = tmp_path / "docs" / "results.json"
    results.write_results(study, tmp_path / "runs", path.parent)
    whole = json.loads(path.read_text())
    names = [field.name for field in fields(records.ZeroLatent)]
    model = {"arm": "vae", "seed": 1, "swap": 0.1, "shares": [0.2, 0.2, 0.6]}
    look = {"views": 1, "pixels": [0.1, 0.1, 0.8], "models": [model]}
    demonstrations = {"episodes": 9, "successes": 4, "constant_error": None}
    for change, lost in (
        (lambda it: it["records"][0].update(zero_latent=dict.fromkeys(names, 1)), "z = 0 of own/"),
        (lambda it: it["saliency"].update(play_lift=look), "what moves Q in play_lift/vae/seed_1"),
        (
            lambda it: it["manifest"]["demonstrations"].update(play_lift=demonstrations),
            "the description of play_lift's dataset",
        ),
    ):
        more = json.loads(json.dumps(whole))
        change(more)
        path.write_text(json.dumps(more))
        before = path.read_bytes()
        with pytest.raises(ConfigError, match=f"would be lost, such as {lost}"):
            results.write_results(study, tmp_path / "runs", path.parent)
        assert path.read_bytes() == before
        results.write_results(study, tmp_path / "runs", path.parent, [path])
        (record,) = json.loads(path.read_text())["records"]
        assert (record["zero_latent"] is not None) == ("z = 0" in lost)


@pytest.mark.usefixtures("no_figures")
def test_a_published_result_is_not_replaced_by_one_of_other_settings(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    docs = tmp_path / "docs"
    results.write_results(study, tmp_path / "runs", docs)
    before = (docs / "results.json").read_bytes()
    other = replace(study, training=replace(study.training, batch_size=8))
    synthetic.write_job(tmp_path / "other", other, "own", "vae", 1)
    with pytest.raises(ConfigError, match=r"results\.json: own/vae/seed_1 was run with other"):
        results.write_results(other, tmp_path / "other", docs)
    assert (docs / "results.json").read_bytes() == before


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_dataset_is_one_sentence(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    (tmp_path / "own.hdf5").write_text("half")
    with pytest.raises(DatasetError, match=r"own\.hdf5"):
        results.write_results(study, tmp_path / "runs", tmp_path / "docs")


@pytest.mark.usefixtures("no_figures")
def test_a_published_result_is_not_replaced_by_another_study(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    docs = tmp_path / "docs"
    results.write_results(study, tmp_path / "runs", docs)
    before = (docs / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=r"results of study 'made_up'.*another --docs"):
        results.write_results(replace(study, name="other"), tmp_path / "runs", docs)
    # Nor by the same study without a seed that it once had.
    fewer = replace(study, seeds=study.seeds[1:])
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 2)
    with pytest.raises(ConfigError, match=r"1 results that would be lost, such as own/vae/seed_1"):
        results.write_results(fewer, tmp_path / "runs", docs, [docs / "results.json"])
    assert (docs / "results.json").read_bytes() == before


@pytest.mark.usefixtures("no_figures")
def test_a_discussion_without_an_end_is_not_written_over(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    results.write_results(study, tmp_path / "runs", tmp_path / "docs")
    document = tmp_path / "docs" / "results.md"
    mine = document.read_text().replace(markdown.END, "Because.")
    document.write_text(mine)
    with pytest.raises(ConfigError, match=r"no '<!-- end -->' after it"):
        results.write_results(study, tmp_path / "runs", tmp_path / "docs")
    assert document.read_text() == mine


def test_a_dataset_that_is_not_that_of_the_merged_results_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = synthetic.write_study(tmp_path)
    synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    first = results.gather(study, tmp_path / "runs", tmp_path / "docs")
    merged = tmp_path / "results.json"
    merged.write_text(json.dumps(first))
    results.gather(study, tmp_path / "runs", tmp_path / "docs", [merged])
    assert not caplog.text
    first["manifest"]["demonstrations"]["own"]["successes"] = 3
    merged.write_text(json.dumps(first))
    results.gather(study, tmp_path / "runs", tmp_path / "docs", [merged])
    assert "own: the dataset here" in caplog.text


def test_a_finished_job_may_lose_its_training(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    path = synthetic.write_job(tmp_path / "runs", study, "play_lift", "vae", 1)
    job = next(job for job in plan.all_jobs(study) if job.name == "play_lift/vae/seed_1")
    (path.parent / "job.json").write_text(json.dumps(asdict(job)))
    jobs.tidy(path.parent)
    summary = results.summary_of(results.gather(study, tmp_path / "runs", tmp_path / "docs"))
    assert results._looks(study, tmp_path / "runs", summary) == {}


@pytest.mark.parametrize("short", [("critic", "vae"), ("critic",), ("vae",)])
def test_with_two_checkpoints_nothing_is_known_of_speed(short: tuple[str, ...]) -> None:
    values, reference = (synthetic.result("own", arm, 1) for arm in ("critic", "vae"))
    for result in (values, reference):
        if result["arm"] in short:
            result["curve"] = result["curve"][-2:]
    found = records.measures(*map(records._from_result, (values, reference)))
    assert found["steps_to_reference"] is found["speed_up"] is found["speed_up_settled"] is None
    assert found["critic_error_final"] is not None


def test_success_over_steps_is_compared_by_seed(written: tuple[Path, str]) -> None:
    data = json.loads((written[0] / "docs" / "results.json").read_text())
    assert tables.over_steps(results.summary_of(data), "own", ("vae", "critic")) is None
    for values in data["records"]:
        early = values["rollouts"][0] | {"step": 500, "success": "10" * 10}
        early["success"] = ("0" if values["arm"] == "vae" else "1") * 20
        values["rollouts"].insert(0, early)
    summary = results.summary_of(data)
    table = tables.over_steps(summary, "own", ("vae", "critic"))
    assert table is not None
    (head, row) = (line.strip("| ").split(" | ") for line in table.splitlines()[::2])
    assert head[2:] == ["500 steps", "1,800 steps", "1,900 steps", "2,000 steps"]
    assert row[:3] == ["`critic`", "`vae`", "1 (1 to 1)"]
    final = summary.difference("own", "critic", "vae", "success_final")
    assert final is not None and row[5].startswith(f"{final.value:.3g} (")
    assert "over gradient steps" in page.document(summary, data, [], None)


def with_zero_latent(folder: Path, wins: int = 30, seed: int = 1) -> dict[str, Any]:
    """A record of `own`, `vae` that has also played 40 episodes with z = 0: less than its 50."""
    values = synthetic.result("own", "vae", seed)
    shift = {"z": 0.90 + 0.01 * seed, "shift": 0.05, "spread": 0.02, "error": 0.1, "gain": 0.005}
    values["zero_latent"] = {"success": [1] * wins + [0] * (40 - wins), "q": 0.5} | shift
    return records.read_result(synthetic.write_result(folder, values)).as_dict()


def test_what_z_0_does_is_told_where_somebody_looked(written: tuple[Path, str]) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    assert tables.zero_latent(results.summary_of(data), "own", ("vae", "bc")) is None
    assert page.LATENT_ACTOR not in (folder / "docs" / "results.md").read_text()
    seeds = (1, 2, 3, 4)  # nobody looked at 5
    for record in data["records"]:
        if (record["task"], record["arm"]) == ("own", "vae") and record["seed"] in seeds:
            record |= with_zero_latent(folder / "zero", 28 + record["seed"], record["seed"])
    summary = results.summary_of(json.loads(json.dumps(data)))
    final = {s: synthetic.result("own", "vae", s)["rollouts"][-1]["success"][:40] for s in seeds}
    gained = summary.values("own", "vae", "gained_by_zero_latent")
    assert gained == {s: pytest.approx((28 + s - sum(final[s])) / 40) for s in seeds}
    table = tables.zero_latent(summary, "own", ("vae", "bc"))
    assert table is not None and "`bc`" not in table
    actor = sum(map(sum, final.values()))  # of the same episodes, with the same seeds
    row = table.splitlines()[2]
    assert row.startswith(f"| `vae` | 4 | {actor} of 160 | {29 + 30 + 31 + 32} of 160 | ")
    size = formatting.with_interval(statistics.mean([0.91, 0.92, 0.93, 0.94]))
    assert row.endswith(f" | {size} | 0.05 (0.05 to 0.05) | 0.02 (0.02 to 0.02) | "
                        "0.005 (0.005 to 0.005) | 0.1 (0.1 to 0.1) |")  # fmt: skip
    text = page.document(summary, data, [], None)
    assert page.LATENT_ACTOR in text and table in text


def test_an_actor_that_was_only_looked_at_has_no_episodes(written: tuple[Path, str]) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    for record in data["records"]:
        del record["zero_latent"]  # as in files that are older than it
        if (record["task"], record["arm"]) == ("own", "vae"):
            record |= with_zero_latent(folder / "zero", seed=record["seed"])
            record["zero_latent"] |= {"success": None, "episodes": 0}
    summary = results.summary_of(data)
    assert not summary.values("own", "vae", "gained_by_zero_latent")
    table = tables.zero_latent(summary, "own", ("vae",))
    assert table is not None
    assert table.splitlines()[2].startswith("| `vae` | 5 | – | – | – | 0.93 (")


def test_what_z_0_does_outlives_a_merge_with_results_that_lack_it(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    path = synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    known = results.gather(study, tmp_path / "runs", tmp_path / "docs")
    (plain,) = known["records"]
    looked = with_zero_latent(tmp_path / "zero")["zero_latent"]
    files = []
    for name, latent in (("looked", looked), ("plain", None)):
        known["records"] = [plain | {"zero_latent": latent, "action_error": len(name)}]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(results.json_text(known))
    (record,) = results.gather(study, tmp_path / "runs", tmp_path / "docs", files[:1])["records"]
    assert record["zero_latent"] == looked and record["action_error"] == plain["action_error"]
    path.unlink()
    (record,) = results.gather(study, tmp_path / "runs", tmp_path / "docs", files)["records"]
    assert record["zero_latent"] == looked and record["action_error"] == 5


def test_a_device_that_was_not_noted_does_not_pass_for_another_one(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    paths = [synthetic.write_job(tmp_path / "runs", study, "own", "vae", seed) for seed in (1, 2)]

    def devices() -> list[str] | None:
        found = results.gather(study, tmp_path / "runs", tmp_path / "docs")
        return found["manifest"]["versions"].get("device")  # type: ignore[no-any-return]

    assert devices() is None
    result = json.loads(paths[0].read_text())
    result["versions"]["device"] = "some GPU"
    paths[0].write_text(json.dumps(result))
    assert devices() == ["not noted", "some GPU"]


def test_machines_that_train_otherwise_are_told(written: tuple[Path, str]) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    text = page.document(results.summary_of(data), data, [], None)
    assert "on `own` in float32 (`vae`, `critic`" in text and "this arm:" not in text
    changed = [r for r in data["records"] if (r["task"], r["arm"]) == ("own", "joint")]
    changed[0]["precision"] = "bfloat16"
    text = page.document(results.summary_of(data), data, [], None)
    assert "bfloat16 in some jobs and float32 (`joint`)" in text
    for values in changed:
        values["precision"] = "bfloat16"
    text = page.document(results.summary_of(data), data, [], None)
    assert text.count("| `joint` | `vae` (float32; this arm: bfloat16) |") == 1


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path)
    with pytest.raises(DatasetError, match="holds no result of study 'made_up'"):
        results.gather(study, tmp_path / "runs", tmp_path / "docs")
    path = synthetic.write_job(tmp_path / "runs", study, "own", "vae", 1)
    path.write_text(path.read_text().replace('"successes": ', '"successes": 9'))
    with pytest.raises(DatasetError, match="do not fit the list of episodes"):
        results.gather(study, tmp_path / "runs", tmp_path / "docs")
    path.write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        results.gather(study, tmp_path / "runs", tmp_path / "docs")


def test_a_record_comes_back_from_json() -> None:
    values = synthetic.result("own", "bc", 1)
    record = records._from_result(values)
    assert records.from_dict(json.loads(json.dumps(record.as_dict()))) == record


def test_a_critic_that_diverged_has_an_infinite_error() -> None:
    values = synthetic.result("own", "vae", 1)
    values["curve"][-1]["critic_error"] = math.nan
    values["rollouts"][-1]["value_error"] = math.nan
    record = records._from_result(values)
    found = records.measures(record, record)
    assert found["critic_error_final"] == found["value_error"] == math.inf
    assert math.isfinite(found["critic_error_best"])


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most"),
    [
        (3.0, 9.0, "yes", "no"),
        (2.0, 2.9, "no", "yes"),
        (2.0, 4.0, "open", "open"),
        (None, None, "open", "open"),
    ],
)
def test_an_interval_decides(
    low: float | None, high: float | None, at_least: str, at_most: str
) -> None:
    estimate = Estimate(3.5, low, high, 5)
    assert claims.Claim("", "speed_up", 3.0, True).holds(estimate) == at_least
    assert claims.Claim("", "value_error", 2.95, False).holds(estimate) == at_most


def test_no_success_can_be_half_as_much_again_as_nearly_all(written: tuple[Path, str]) -> None:
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    claim = claims.CLAIMS[-1]
    assert "out of reach" not in claim.verdict(results.summary_of(data), "own", "critic")
    for values in data["records"]:
        if values["arm"] == "vae":
            values["rollouts"][-1]["success"] = "1" * 50
    assert claim.verdict(results.summary_of(data), "own", "critic").endswith(", out of reach**")


def test_success_by_seed(written: tuple[Path, str]) -> None:
    folder, _ = written
    summary = results.summary_of(json.loads((folder / "docs" / "results.json").read_text()))
    table = tables.by_seed(summary, "own", ("vae", "joint"))
    vae, joint = (line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    rates = summary.values("own", "joint", "success_final")
    assert joint[1:6] == [f"{rates[s]:.3g}" if s in rates else "–" for s in (1, 2, 3, 4, 5)]
    above = sum(rates[s] > summary.values("own", "vae", "success_final")[s] for s in rates)
    equal = sum(rates[s] == summary.values("own", "vae", "success_final")[s] for s in rates)
    assert joint[6] == f"{above} of 3, {equal} equal" and vae[6] == "–"


def test_a_dataset_in_numbers(tmp_path: Path) -> None:
    """Returns 0.25, 0.5, 1 and 0, 0, 0: variance about their mean 7/24."""
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, last in (("demo_0", 1.0), ("demo_1", 0.0), ("demo_2", 1.0)):
            file[f"data/{name}/rewards"] = np.array([0.0, 0.0, last])
        file["mask/valid"] = np.array([b"demo_0", b"demo_1"])
    found = results.describe(path, 0.5)
    values = np.array([0.25, 0.5, 1.0, 0.0, 0.0, 0.0])
    constant = np.mean((values - 7 / 24) ** 2)
    assert found is not None and found["constant_error"] == pytest.approx(constant, rel=1e-3)
    assert (found["episodes"], found["successes"]) == (3, 2)
    assert results.describe(tmp_path / "none.hdf5", 0.5) is None
    assert (results.describe(path, None) or {})["constant_error"] is None


def test_sentences_fit_any_outcome(written: tuple[Path, str]) -> None:
    """The generated words judge nothing; only the column of verdicts does."""
    folder, _ = written
    data = json.loads((folder / "docs" / "results.json").read_text())
    text = page.document(results.summary_of(data), data, [], None)
    for word in ("better", "worse", "proves", "confirms", "unfortunately"):
        assert word not in text.lower()


def grouped(folder: Path, groups: dict[str, list[str]]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "docs" / "results.json").read_text())
    data["manifest"]["study"]["groups"] = groups
    return data


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_legend_of_many_arms_stays_beside_its_panels(
    written: tuple[Path, str], tmp_path: Path, tasks: int
) -> None:
    whole = results.summary_of(grouped(written[0], {}))
    more = [f"critic_with_another_start_{n}" for n in range(15)]
    arms = (*whole.arms, *more)
    records = (*whole.records, *(replace(whole.records[0], arm=arm) for arm in more))
    groups = {"a title of twelve words that says what these arms have in common": arms}
    summary = replace(whole, arms=arms, groups=groups, tasks=whole.tasks[:tasks], records=records)
    figure, rows = study_plots._rows(summary, "error", "steps")
    for number, arm in enumerate(summary.arms):
        rows[0].axes[0].plot([0, 1], [0, number], label=arm)
    study_plots._save(figure, rows, tmp_path, "many.png", "")
    figure.canvas.draw()
    legend = rows[0].axes[-1].get_legend()
    box, page_box = legend.get_window_extent(), figure.bbox
    assert box.x0 >= rows[0].axes[-1].get_window_extent().x1
    assert box.x1 <= page_box.x1 and box.y0 >= page_box.y0 and box.y1 <= page_box.y1
    assert rows[0].axes[0].get_window_extent().width > 200


def test_figures_leave_out_what_has_not_begun(written: tuple[Path, str]) -> None:
    data = grouped(written[0], {"one": ["vae", "bc"], "two": ["joint"]})
    kept = [("play_lift", "vae"), ("play_lift", "critic")]
    data["records"] = [r for r in data["records"] if (r["task"], r["arm"]) in kept]
    summary = results.summary_of(data)
    assert summary.tasks == ("play_lift", "own")
    _, rows = study_plots._rows(summary, "error", "steps")
    assert [(row.title, row.arms, len(row.axes)) for row in rows] == [("one", ["vae"], 1)]


def test_groups_are_rows_of_every_figure(
    written: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[study_plots.Row]] = {}
    save = study_plots._save

    def keep(figure: Any, rows: Any, docs: Path, name: str, text: str) -> study_plots.Figure:
        drawn[name] = rows
        return save(figure, rows, docs, name, text)

    monkeypatch.setattr(study_plots, "_save", keep)
    groups = {"owner": ["vae", "critic", "joint"], "others": ["critic", "bc", "bcq"]}
    data = grouped(written[0], groups)
    data["manifest"]["demonstrations"]["own"]["constant_error"] = 0.1
    results.publish(data, tmp_path)
    assert len(drawn) == 4
    for rows in drawn.values():
        assert [(row.title, list(row.arms)) for row in rows] == list(groups.items())
        titles = [row.axes[-1].get_legend().get_title().get_text() for row in rows]
        assert titles == ["owner", "others"]
    entries = {
        name: [[t.get_text() for t in row.axes[-1].get_legend().get_texts()] for row in rows]
        for name, rows in drawn.items()
    }
    # bc has no Q, so no curve either.
    own, others = ["vae", "critic", "joint"], ["critic", "bcq"]
    constant, data_line = [study_plots.CONSTANT], [study_plots.DATA]
    assert entries["results_curves.png"] == [own + constant, others + constant]
    assert entries["results_auc.png"] == entries["results_values.png"] == [own, others]
    assert entries["results_success.png"] == [data_line, data_line]
    bars = [len(row.axes[1].patches) for row in drawn["results_success.png"]]
    assert bars == [3, 3] and drawn["results_success.png"][0].axes[1].get_title().startswith(
        "own ("
    )


def drawn(data: dict[str, Any], docs: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the figures, which are not drawn: layout and writing take seconds."""
    names: list[str] = []
    monkeypatch.setattr(
        study_plots.plt.Figure, "savefig", lambda _, path, **__: names.append(path.name)
    )
    study_plots.all_figures(results.summary_of(data), data["manifest"]["demonstrations"], docs)
    return names


def test_without_an_auc_there_is_no_figure_of_it(
    written: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grouped(written[0], {})
    assert "results_auc.png" in drawn(data, tmp_path, monkeypatch)
    for record in data["records"]:
        for point in record["curve"]:
            point["auc"] = None
    names = drawn(data, tmp_path, monkeypatch)
    assert "results_auc.png" not in names and "results_curves.png" in names


def test_success_over_steps_is_drawn_where_more_than_three_checkpoints_have_episodes(
    written: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grouped(written[0], {})
    assert "results_success_curves.png" not in drawn(data, tmp_path, monkeypatch)
    for record in data["records"]:
        first = record["rollouts"][0]
        record["rollouts"].insert(0, first | {"step": 100, "success": "0" * 20})
    assert "results_success_curves.png" in drawn(data, tmp_path, monkeypatch)
    summary = results.summary_of(data)
    figure, (row,) = study_plots._curves(summary, "success", study_plots._successes)
    assert summary.tasks[1] == "own" and summary.arms[0] == "vae"
    steps, means = row.axes[1].lines[0].get_data()
    found = summary.of("own", "vae")
    assert list(steps) == [rollout.step for rollout in found[0].rollouts] and len(steps) == 4
    assert means[0] == 0
    assert means[-1] == pytest.approx(np.mean([record.rollouts[-1].rate for record in found]))
    study_plots.plt.close(figure)
