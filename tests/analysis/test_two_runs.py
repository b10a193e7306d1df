"""The table of two runs, on curves whose course is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from robomimic_vae_ext.analysis import two_runs
from robomimic_vae_ext.analysis.run_metrics import Series
from robomimic_vae_ext.errors import DatasetError
from tests.conftest import run_script

EPOCHS = np.arange(1, 61)


def series(values: np.ndarray) -> Series:
    return Series(tuple(int(e) for e in EPOCHS[: len(values)]), tuple(map(float, values)))


def noisy(values: np.ndarray, share: float = 0.05, seed: int = 0) -> Series:
    return series(values * (1 + share * np.random.default_rng(seed).normal(size=len(values))))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.exp(-EPOCHS / 3) + 0.2, ("falling fast", "settled", "settled")),
        (np.exp(-EPOCHS / 40), ("falling", "falling fast", "falling")),
        (np.where(EPOCHS == 1, 1.0, 0.1), ("falling fast", "settled", "settled")),
        (0.1 * np.exp(EPOCHS / 30), ("rising", "rising", "rising")),
        (np.full(60, 0.3), ("settled", "settled", "settled")),
        (-1 - EPOCHS / 20, ("falling", "falling fast", "falling")),  # a negative log likelihood
        (-3 + np.exp(-EPOCHS / 5), ("falling", "settled", "settled")),
    ],
    ids=["exponential", "slow", "step", "rising", "flat", "negative", "negative_settles"],
)
def test_courses_of_a_loss(values: np.ndarray, words: tuple[str, str, str]) -> None:
    found = [two_runs.loss_trend(series(values), *window) for window in two_runs.WINDOWS]
    assert [text.split(" (")[0] for text in found] == list(words)


def test_noise_alone_is_settled() -> None:
    found = [
        two_runs.loss_trend(noisy(np.full(60, 0.3), 0.3, seed), 10, 50).split(" (")[0]
        for seed in range(200)
    ]
    assert found.count("settled") > 180


def test_a_trend_shows_through_noise() -> None:
    for seed in range(50):
        falling = two_runs.loss_trend(noisy(np.exp(-EPOCHS / 20), 0.1, seed), 10, 50)
        assert falling.startswith("falling fast")
        rising = two_runs.loss_trend(noisy(np.exp(EPOCHS / 20), 0.1, seed), 10, 50)
        assert rising.startswith("rising")


def test_short_runs_say_so() -> None:
    short = series(np.exp(-EPOCHS[:12] / 5))
    assert two_runs.loss_trend(short, 1, 10).startswith("falling fast")
    assert two_runs.loss_trend(short, 10, 50) == "too few epochs (3)"
    assert two_runs.loss_trend(short, 50, math.inf) == "not reached"
    assert two_runs.loss_trend(series(np.ones(50)), 50, math.inf) == "not reached"
    assert "until epoch 20" in two_runs.loss_trend(series(np.ones(20)), 10, 50)
    assert two_runs.loss_trend(series(np.full(20, math.nan)), 1, 10) == "not a number"


@pytest.mark.parametrize(
    ("rates", "episodes", "words"),
    [
        ((0.1, 0.2, 0.5, 0.7, 0.9, 0.9), 20, "rising"),
        ((0.9, 0.8, 0.4, 0.3, 0.1, 0.1), 20, "falling"),
        ((0.4, 0.5, 0.4, 0.5), 20, "no change beyond noise"),
        ((0.4, 0.6), 5, "no change beyond noise"),
        ((0.4, 0.6), 500, "rising"),
        ((1.0, 1.0), 20, "no change beyond noise"),
        ((1.0,), 20, "too few rollouts"),
    ],
)
def test_courses_of_success(rates: Sequence[float], episodes: int, words: str) -> None:
    found = Series(tuple(range(5, 5 + len(rates))), tuple(rates))
    assert two_runs.success_trend(found, 60, (1, 10), episodes).split(" (")[0] == words


def test_success_without_rollouts() -> None:
    assert two_runs.success_trend(None, 60, (1, 10), 5) == "no rollouts"
    assert two_runs.success_trend(None, 8, (10, 50), 5) == "not reached"


def write_run(
    folder: Path, scalars: Mapping[str, Sequence[float]], algo: str = "lapo", name: str = "run"
) -> Path:
    """A run folder as robomimic leaves it; every scalar from epoch 1 on."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "logs" / "tb"))
    for tag, values in scalars.items():
        for epoch, value in enumerate(values, 1):
            writer.add_scalar(tag, value, epoch)
    writer.close()
    config = {"algo_name": algo, "experiment": {"name": name, "rollout": {"n": 20}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FALLING = np.exp(-EPOCHS / 5) + 0.05
SUCCESS = np.clip(EPOCHS / 40, 0, 1)


def test_a_table_a_page_and_a_figure(tmp_path: Path) -> None:
    for name, slow in (("old", 3.0), ("new", 1.0)):
        values = np.exp(-EPOCHS / (10 * slow)) + 0.02
        scalars = {
            "Train/critic/loss": values,
            "Valid/critic/loss": 1.3 * values,
            "Rollout/Success_Rate/LiftFast": np.clip(EPOCHS / 40 / slow, 0, 1),
        }
        write_run(tmp_path / name / "20260101", scalars, name=name)
    text = two_runs.compare_runs(tmp_path / "old", tmp_path / "new" / "20260101", tmp_path / "out")
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("|")}
    cells = [cell.strip().split(" (")[0] for cell in rows["| 10-50"].strip("|").split("|")]
    assert cells == ["10-50", "falling fast", "falling fast", "rising", "rising"]
    assert "(100% to 100%)" in rows["| 50+"] and "Warning" not in text
    page = (tmp_path / "out" / "comparison.md").read_text()
    heading = page.splitlines()[0]
    assert "A: old" in heading and "B: new" in heading and "20260101" in heading
    assert rows["| 1-10"] in page
    picture = matplotlib.image.imread(tmp_path / "out" / "comparison.png")
    assert picture.shape[0] > 400 and picture[..., :3].std() > 0.05


@pytest.mark.parametrize(
    ("first", "second", "losses"),
    [
        ("Critic/Critic1_Loss", "critic/loss", ("Critic/Critic1_Loss", "critic/loss")),  # BCQ
        ("critic/critic1_loss", "critic/loss", ("critic/critic1_loss", "critic/loss")),  # IQL
        ("L2_Loss", "critic/loss", ("Loss", "Loss")),  # BC has no critic
    ],
)
def test_other_algorithms(tmp_path: Path, first: str, second: str, losses: tuple[str, str]) -> None:
    runs = [
        write_run(tmp_path / tag.split("/")[0] / str(i), {f"Train/{tag}": FALLING,
                  "Train/Loss": FALLING}, algo=str(i))
        for i, tag in enumerate((first, second))
    ]  # fmt: skip
    text = two_runs.compare_runs(*runs, tmp_path / "out")
    head = text.splitlines()[0]
    assert f"`{losses[0]}`" in head.split("|")[2] and f"`{losses[1]}`" in head.split("|")[3]
    assert "losses of different algorithms" in text


def test_different_tasks_are_a_warning(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / env / "1",
            {"Train/critic/loss": FALLING, f"Rollout/Success_Rate/{env}": SUCCESS},
        )
        for env in ("Lift", "Can")
    ]
    text = two_runs.compare_runs(*runs, tmp_path / "out")
    assert "Warning" in text and "Lift and Can" in text


def test_the_dataset_names_the_task_where_it_is_there(tmp_path: Path, dataset: Path) -> None:
    scalars = {"Train/critic/loss": FALLING, "Rollout/Success_Rate/name_of_the_file": SUCCESS}
    run = two_runs.read(write_run(tmp_path / "a" / "1", scalars), "A")
    assert two_runs.environment(run) == "name_of_the_file"
    for data in (str(dataset), [{"path": str(dataset)}]):  # robomimic 0.3.0, 0.5.0
        run.config["train"] = {"data": data}
        assert two_runs.environment(run) == "Lift"
    run.config["train"] = {"data": str(tmp_path / "gone.hdf5")}
    assert two_runs.environment(run) == "name_of_the_file"


@pytest.mark.parametrize(
    "config",
    [
        {"experiment": {"name": "lr_$LR_bs_$BS", "rollout": None}},
        {"experiment": {"rollout": {"n": None}}, "train": None},
        {"experiment": None, "train": {"data": ["a.hdf5"]}},
    ],
)
def test_what_a_config_does_not_tell_is_not_known(tmp_path: Path, config: dict[str, Any]) -> None:
    run = write_run(tmp_path / "a" / "1", {"Train/critic/loss": FALLING})
    (run / "config.json").write_text(json.dumps(config))
    other = write_run(tmp_path / "a" / "2", {"Train/critic/loss": FALLING})
    text = two_runs.compare_runs(run, other, tmp_path / "out")
    assert "Warning" in text and (tmp_path / "out" / "comparison.png").exists()
    assert two_runs.read(run, "A").episodes == 50


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a" / "1", {"Train/critic/loss": FALLING})
    with pytest.raises(DatasetError, match="the same run"):
        two_runs.compare_runs(run, run.parent, tmp_path / "out")


def test_errors_are_one_message(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good" / "1", {"Train/critic/loss": FALLING})
    other = write_run(tmp_path / "other" / "1", {"Train/Policy_Loss": FALLING}, algo="x")
    with pytest.raises(DatasetError, match="no loss of the same name"):
        two_runs.compare_runs(good, other, tmp_path / "out")
    (tmp_path / "empty" / "1" / "logs").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no folder logs/tb"):
        two_runs.compare_runs(good, tmp_path / "empty", tmp_path / "out")


def test_the_script_prints_the_table(tmp_path: Path) -> None:
    runs = [
        str(write_run(tmp_path / name / "1", {"Train/critic/loss": FALLING}))
        for name in ("old", "new")
    ]
    done = run_script("compare.py", *runs, "--out", tmp_path / "out")
    assert done.returncode == 0 and "| 1-10 | falling fast" in done.stdout, done.stderr
    page = tmp_path / "out" / "comparison.md"
    page.write_text("mine")
    again = run_script("compare.py", *runs, "--out", tmp_path / "out")
    assert again.returncode == 2 and str(page) in again.stderr and page.read_text() == "mine"
    done = run_script("compare.py", *runs, "--out", tmp_path / "out", "--overwrite")
    assert done.returncode == 0 and page.read_text() != "mine"
    wrong = run_script("compare.py", tmp_path / "none", runs[1], "--out", tmp_path / "out")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
