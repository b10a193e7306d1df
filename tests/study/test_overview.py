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


def drawn_by(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn from now on."""
    drawn: list[Any] = []
    close = study_plots.plt.close
    monkeypatch.setattr(overview.plt, "close", lambda it: (drawn.append(it), close(it)))
    return drawn


@pytest.mark.parametrize(
    ("arm", "values", "panel", "marker"),
    [
        ("vae", {"success": "0" * 50}, 3, ">"),  # infinitely more than never
        ("critic", {"success": "0" * 50}, 3, "<"),
        ("both", {"success": "0" * 50}, 3, None),  # nothing over nothing
        ("critic", {"value_error": math.inf}, 2, ">"),
        ("critic", {"value_error": 0.0}, 2, "<"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_no_axis_shows_stands_at_its_end(
    published: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arm: str,
    values: dict[str, Any],
    panel: int,
    marker: str | None,
) -> None:
    data = json.loads(published[0].read_text())
    for record in data["records"]:
        if record["arm"] in (("vae", "critic") if arm == "both" else (arm,)):
            record["rollouts"][-1].update(values)
    path = tmp_path / "degenerate.json"
    path.write_text(json.dumps(data))
    figures = drawn_by(monkeypatch)
    overview.write([path], tmp_path / "o.png")
    axis = figures[0].axes[panel]
    assert all(math.isfinite(x) and x > 0 for x in axis.get_xlim())
    if marker is None:
        assert [note.get_text() for note in axis.texts] == ["–", "–"]
    else:
        arrows = [line for line in axis.lines if line.get_marker() == marker]
        end = axis.get_xlim()["<>".index(marker)]
        assert [line.get_xdata()[0] for line in arrows] == [end, end]


def test_tables_say_what_the_studies_pages_say(published: list[Path]) -> None:
    text = overview.tables_of(overview.read(published))
    page = results.publish(json.loads(published[0].read_text()), published[0].parent / "docs")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    claims = [line for line in lines if "**" in line[-1]]
    assert [(line[0], line[3]) for line in claims] == [
        ("| `play_lift`", "2,000"), ("| `own`", "2,000"), ("| `own`", "9,000"),
    ]  # fmt: skip
    for line in claims[:2]:
        assert " | ".join(line[:3] + line[4:]) in page  # but for the steps, the same line
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


def test_studies_of_one_task_are_told_apart_by_their_labels(published: list[Path]) -> None:
    data = json.loads(published[0].read_text())
    data["manifest"]["study"]["label"] = "ResNet18"
    path = published[0].with_name("labelled.json")
    path.write_text(json.dumps(data))
    parts = overview.read([published[0], path])
    titles = [part.title for part in parts]
    assert "play_lift, 2,000 steps" in titles and "play_lift, ResNet18, 2,000 steps" in titles
    text = overview.tables_of(parts)
    assert text.count("| `play_lift`, ResNet18 |") == 2 == text.count("| `play_lift` |")


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
    figures = drawn_by(monkeypatch)
    overview.write(published, figure)
    assert matplotlib.image.imread(figure).std() > 0.05
    axes = figures[0].axes
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == [
        "play_lift, 2,000 steps", "critic", "own, 2,000 steps", "critic",
        "own, 9,000 steps", "critic",
    ]  # fmt: skip
    part = overview.read(published)[0]
    for axis, claim in zip(axes, overview.claims.CLAIMS, strict=True):
        found = claim.estimate(part.summary, "play_lift", "critic")
        _one, interval, point = [line for line in axis.lines if line.get_marker() != "|"][:3]
        assert found is not None and point.get_xdata()[0] == found.value
        assert tuple(interval.get_xdata()) == (found.low, found.high)
        colour = overview.COLOURS[claim.holds(found)]
        assert interval.get_color() == point.get_color() == colour
        left, right = axis.get_xlim()
        assert left < found.low and found.high < right


def test_what_was_not_measured_is_said_in_the_figure(
    published: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads(published[0].read_text())
    for record in data["records"]:
        record["rollouts"] = []
    path = published[0].with_name("no_rollouts.json")
    path.write_text(json.dumps(data))
    figures = drawn_by(monkeypatch)
    text = overview.write([path], path.with_suffix(".png"))
    assert text.count("not measured") == 4  # two claims of each task
    said = [[note.get_text() for note in axis.texts] for axis in figures[0].axes]
    assert said == [[], [], ["not measured"] * 2, ["not measured"] * 2]


def test_a_document_is_filled_between_its_markers(published: list[Path], tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- overview -->\nformer\n<!-- end -->\nafter\n")
    text = overview.write(published, tmp_path / "o.png", document)
    assert document.read_text() == (f"before\n<!-- overview -->\n\n{text}\n\n<!-- end -->\nafter\n")


def test_bad_input_is_one_sentence_and_writes_nothing(
    published: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, document = tmp_path / "o.png", tmp_path / "README.md"
    document.write_text("no markers")
    with pytest.raises(ConfigError, match="has no '<!-- overview -->'"):
        overview.write(published, figure, document)
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(DatasetError, match=r"damaged\.json cannot be read"):
        overview.write([published[0], tmp_path / "damaged.json"], figure)
    data = json.loads(published[0].read_text())
    for name, changed, message in (
        ("empty", {"records": []}, "no job is done in"),
        ("nameless", {"manifest": data["manifest"] | {"study": {}}}, "does not say of which study"),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(data | changed))
        with pytest.raises(DatasetError, match=message):
            overview.write([tmp_path / f"{name}.json"], figure)
    assert not figure.exists() and document.read_text() == "no markers"
    document.write_text("<!-- overview -->\nformer\n<!-- end -->")
    monkeypatch.setattr(overview.plt, "subplots", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        overview.write(published, figure, document)
    assert "former" in document.read_text()  # tables and figure change together
