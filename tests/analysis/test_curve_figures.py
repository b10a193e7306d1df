"""Reading robomimic's logs and drawing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from robomimic_vae_ext.analysis import curve_figures, run_metrics
from robomimic_vae_ext.errors import DatasetError
from tests.conftest import run_script


def write_run(folder: Path, scale: float = 1.0) -> Path:
    """A run folder with logs as robomimic's DataLogger writes them."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "logs" / "tb"))
    for epoch in (1, 2, 3):
        writer.add_scalar("Train/critic/loss", scale / epoch, epoch)
        writer.add_scalar("Valid/critic/loss", 2 * scale / epoch, epoch)
    writer.add_scalar("Rollout/Success_Rate/LiftFast", 0.5, 3)
    writer.add_scalar("Rollout/Success_Rate/LiftFast/mean", 0.1, 3)
    writer.close()
    return folder


def test_series_come_back_as_logged(tmp_path: Path) -> None:
    series = run_metrics.read_run(write_run(tmp_path / "exp" / "1"))
    assert series["Train/critic/loss"].epochs == (1, 2, 3)
    assert series["Train/critic/loss"].values == pytest.approx((1.0, 0.5, 1 / 3))
    success = run_metrics.success_rate(series)
    assert success is not None and success.values == (0.5,)


def test_a_folder_without_logs_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder logs/tb"):
        run_metrics.read_run(tmp_path)
    (tmp_path / "logs" / "tb").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no scalars"):
        run_metrics.read_run(tmp_path)


def test_a_figure_of_two_runs(tmp_path: Path) -> None:
    import matplotlib.image

    runs = {name: run_metrics.read_run(write_run(tmp_path / name / "1")) for name in ("old", "new")}
    curve_figures.training_curves(runs, tmp_path / "sub" / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "sub" / "curves.png")
    assert picture.shape[0] > 500 and picture[..., :3].std() > 0.05


def test_every_run_is_in_the_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of an algorithm that logs its critic by another name, or has none."""
    legends: list[list[str]] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.legend",
        lambda self, handles, labels, **_: legends.append(list(labels)),
    )
    ours = run_metrics.read_run(write_run(tmp_path / "lapo" / "1"))
    success = {tag: it for tag, it in ours.items() if tag.startswith("Rollout")}
    bcq = success | {"Train/critic/critic1_loss": ours["Train/critic/loss"]}
    runs = {"lapo_$LR": ours, "bcq": bcq, "bc": success}
    curve_figures.training_curves(runs, tmp_path / "curves.png")
    curve_figures.training_curves({"bc": success}, tmp_path / "curves.png")
    plain = "lapo_\\$LR"
    assert legends == [[f"{plain}, training", f"{plain}, held out", "bcq, training", "bc"], ["bc"]]


def test_the_script_names_runs_after_their_experiment(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name / "1")) for name in ("old", "new")]
    done = run_script("plot_training.py", "--run", *runs, "--out", tmp_path / "c.png")
    assert done.returncode == 0 and (tmp_path / "c.png").exists(), done.stderr
    again = ("--out", tmp_path / "d.png", "--run", runs[0], runs[0])
    twice = run_script("plot_training.py", *again)
    assert twice.returncode == 2 and "different name" in twice.stderr
    missing = run_script("plot_training.py", *again[:3], tmp_path / "none")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
