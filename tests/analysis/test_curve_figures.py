"""Reading robomimic's logs and drawing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from robomimic_vae_ext.analysis import curve_figures, run_metrics
from robomimic_vae_ext.cli import main
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


def test_the_command_names_runs_after_their_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    own = curve_figures.training_curves
    monkeypatch.setattr(
        curve_figures,
        "training_curves",
        lambda runs, path: (drawn.append([*runs]), own(runs, path)),
    )
    runs = [write_run(tmp_path / name / "1") for name in ("old", "new")]
    figure = tmp_path / "c.png"
    # A run's folder, and an experiment's folder, of which the newest run is taken.
    done = run_script("plot_training.py", "--run", runs[0], runs[1].parent, "--out", figure)
    assert done.returncode == 0 and figure.exists(), done.stderr
    again = main(["plot", *map(str, runs), "--out", str(tmp_path / "d.png"), "--label", "a", "b"])
    assert again == 0 and drawn == [["old", "new"], ["a", "b"]]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["RUN", "RUN", "--out", "d.png"], "exp"),  # one name twice
        (["RUN", "--out", "d.png", "--label", "a", "b"], "--label"),
        (["RUN", "--out", "d.txt"], "d.txt"),
        (["RUN", "--out", "exists.png"], "exists.png"),
        (["none", "--out", "d.png"], "none"),
        (["--out", "d.png"], "RUN"),
    ],
)
def test_wrong_words_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "exp" / "1")
    (tmp_path / "exists.png").write_text("mine")
    assert main(["plot", *("exp/1" if word == "RUN" else word for word in words)]) == 2
    errors = capsys.readouterr().err
    assert named in errors and errors.count("\n") == 1
    assert (tmp_path / "exists.png").read_text() == "mine" and not (tmp_path / "d.png").exists()
