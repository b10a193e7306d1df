"""Several published studies on one sheet."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import overview, results, study_plots
from tests.study import synthetic


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A study of two tasks, and one of which a single task and three arms have begun."""
    folder = tmp_path_factory.mktemp("published")
    study = synthetic.write_study(folder / "configs")
    synthetic.write_results(folder / "runs", study)
    data = results.gather(study, folder / "runs", folder)
    whole, part = folder / "whole.json", folder / "part.json"
    whole.write_text(results.json_text(data))
    kept = [
        it | {"steps": 9000}
        for it in data["records"]
        if it["task"] == "own" and it["arm"] in ("vae", "critic", "joint") and it["seed"] < 3
    ]
    described = data["manifest"]["demonstrations"] | {"own": None}
    manifest = data["manifest"] | {"demonstrations": described}
    part.write_text(results.json_text(data | {"records": kept, "manifest": manifest}))
    return [whole, part]


def test_tables_say_what_the_studies_pages_say(published: list[Path]) -> None:
    text = overview.tables_of(overview.read(published))
    page = results.publish(json.loads(published[0].read_text()), published[0].parent / "docs")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    claims = [line for line in lines if "**" in line[-1]]
    assert [(line[0], line[1]) for line in claims] == [
        ("| `play_lift`", "2,000"), ("| `own`", "2,000"), ("| `own`", "9,000"),
    ]  # fmt: skip
    for line in claims[:2]:
        assert " | ".join(line[:1] + line[2:]) in page  # but for the steps, the same line
    assert "open" in claims[2][-1]  # two seeds have no interval
    won = [line for line in lines if "**" not in line[-1]]
    assert [line[2] for line in won] == ["–", "1 of 4", "–"]
    outcomes = [
        rollout["successes"]
        for seed in range(1, 6)
        for rollout in synthetic.result("play_lift", "critic", seed)["rollouts"][-1:]
    ]
    assert won[0][4] == f"{sum(outcomes)} of 250"
    assert won[2][-2:] == ["–", "– |"]  # bc and bcq have not begun there
    assert "<details>" in text and "</details>" in text


def test_steps_are_not_told_from_a_few_checkpoints(published: list[Path]) -> None:
    data = json.loads(published[0].read_text())
    for record in data["records"]:
        record["curve"] = record["curve"][-6:]
    path = published[0].with_name("few.json")
    path.write_text(json.dumps(data))
    (part, _) = overview.read([path])
    faster, error, *_ = overview.claims.CLAIMS
    assert part.unasked(faster, "critic") == "too few checkpoints (6)"
    assert not part.unasked(error, "critic")
    assert "too few checkpoints (6)" in overview.write([path], path.with_suffix(".png"))
    (whole, *_) = overview.read(published)
    assert not whole.unasked(faster, "critic")


def test_success_has_a_largest_ratio(published: list[Path]) -> None:
    part = overview.read(published)[0]
    *others, success = overview.claims.CLAIMS
    rate = part.summary.estimate("play_lift", "vae", "success_final")
    assert rate is not None and part.most(success, "critic") == pytest.approx(1 / rate.value)
    assert all(math.isinf(part.most(claim, "critic")) for claim in others)


def test_figure_shows_every_claim_of_every_task(
    published: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = tmp_path / "sheets" / "overview.png"
    drawn: list[Any] = []
    close = study_plots.plt.close
    monkeypatch.setattr(overview.plt, "close", lambda it: (drawn.append(it), close(it)))
    overview.write(published, figure)
    assert matplotlib.image.imread(figure).std() > 0.05
    axes = drawn[0].axes
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == [
        "play_lift, 2,000 steps", "critic", "own, 2,000 steps", "critic",
        "own, 9,000 steps", "critic",
    ]  # fmt: skip
    part = overview.read(published)[0]
    for axis, claim in zip(axes, overview.claims.CLAIMS, strict=True):
        found = claim.estimate(part.summary, "play_lift", "critic")
        interval, point = [line for line in axis.lines if line.get_marker() != "|"][:2]
        assert found is not None and point.get_xdata()[0] == found.value
        assert tuple(interval.get_xdata()) == (found.low, found.high)
        colour = overview.COLOURS[claim.holds(found)]
        assert interval.get_color() == point.get_color() == colour
        left, right = axis.get_xlim()
        assert left < found.low and found.high < right


def test_what_was_not_measured_is_said_in_the_figure(published: list[Path]) -> None:
    data = json.loads(published[0].read_text())
    for record in data["records"]:
        record["rollouts"] = []
    path = published[0].with_name("no_rollouts.json")
    path.write_text(json.dumps(data))
    text = overview.write([path], path.with_suffix(".png"))
    assert text.count("not measured") == 4  # two claims of each task


def test_a_document_is_filled_between_its_markers(published: list[Path], tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- overview -->\nformer\n<!-- end -->\nafter\n")
    text = overview.write(published, tmp_path / "o.png", document)
    assert document.read_text() == (f"before\n<!-- overview -->\n\n{text}\n\n<!-- end -->\nafter\n")


def test_bad_input_is_one_sentence_and_writes_nothing(
    published: list[Path], tmp_path: Path
) -> None:
    figure, document = tmp_path / "o.png", tmp_path / "README.md"
    document.write_text("no markers")
    with pytest.raises(ConfigError, match="has no '<!-- overview -->'"):
        overview.write(published, figure, document)
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(DatasetError, match=r"damaged\.json cannot be read"):
        overview.write([published[0], tmp_path / "damaged.json"], figure)
    assert not figure.exists() and document.read_text() == "no markers"
