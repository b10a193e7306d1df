"""Compares two robomimic runs: their curves in one figure, and a table by ranges of epochs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np

from robomimic_vae_ext import files, markdown, runs
from robomimic_vae_ext.analysis import curve_figures, run_metrics
from robomimic_vae_ext.analysis.run_metrics import Series
from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.overrides import get_nested

#: First and last epoch of the table's rows.
WINDOWS: Final = ((1, 10), (10, 50), (50, math.inf))
DOCUMENT: Final = "comparison.md"
FIGURE: Final = "comparison.png"
FAST: Final = 0.5  # a loss that loses this share of itself falls fast
SMALL: Final = 0.1  # smaller relative changes count as no change
SIGMAS: Final = 2.0  # changes smaller than so many standard deviations are noise
MIN_EPOCHS: Final = 4  # in a window, to tell a change from noise
MIN_ROLLOUTS: Final = 2
SHARED_LOSS: Final = "Loss"  # what every robomimic algorithm logs


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        label: its name in table and figure.
        folder: time-stamped.
        series: from `run_metrics.read_run`.
        config: its config.json; empty if there is none.
    """

    label: str
    folder: Path
    series: dict[str, Series]
    config: dict[str, Any]

    @property
    def episodes(self) -> int:
        """Episodes in each of the run's rollouts; robomimic's default where it is not known."""
        n = get_nested(self.config, "experiment", "rollout", "n")
        return n if isinstance(n, int) and n > 0 else 50


class Change(NamedTuple):
    """How a quantity moves over a window: mean of its first and of its last third."""

    before: float
    after: float
    noise: float  # standard deviation of after - before


def compare_runs(run_a: Path, run_b: Path, out: Path) -> str:
    """Draw the curves of two runs in one figure and write the table.

    Args:
        run_a: the old run: its folder, a checkpoint of it, or its experiment's folder.
        run_b: the new one.
        out: folder for comparison.md and comparison.png.

    Returns:
        The table and its notes, in Markdown.

    Raises:
        DatasetError: not a run, no logs, or no loss that both have logged.
    """
    both = [read(path, letter) for path, letter in ((run_a, "A"), (run_b, "B"))]
    if both[0].folder.resolve() == both[1].folder.resolve():
        raise DatasetError(
            f"{run_a} and {run_b} are the same run", "two runs", "Pass another folder."
        )
    losses = shared_losses(*both)
    figure = out / FIGURE
    curve_figures.two_run_curves({run.label: run.series for run in both}, losses, figure)
    text = "\n\n".join([_table(both, losses), *_notes(both, losses)])
    document = f"# {both[0].label} and {both[1].label}\n\n{text}\n\n![curves]({figure.name})\n"
    files.write_text(out / DOCUMENT, document)
    return f"{text}\n\nWritten: {out / DOCUMENT}, {figure}"


def read(path: Path, letter: str) -> Run:
    """Read a run's logs and config.

    Raises:
        DatasetError: not a run, or no logs.
    """
    folder = runs.find_run(path)
    series = run_metrics.read_run(folder)
    file = folder / "config.json"
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{file} cannot be read ({error})", "the config of the run", "Restore the file."
        ) from error
    name = get_nested(config, "experiment", "name") or folder.resolve().parent.name
    seed = get_nested(config, "train", "seed")
    return Run(f"{letter}: {name}, seed {seed}, {folder.resolve().name}", folder, series, config)


def shared_losses(a: Run, b: Run) -> dict[str, str]:
    """Label to the loss that is compared: of the critics, else one that both have logged.

    Raises:
        DatasetError: there is none.
    """
    critics = [run_metrics.critic_loss(run.series) for run in (a, b)]
    if critics[0] is not None and critics[1] is not None:
        return {a.label: critics[0], b.label: critics[1]}
    names = {tag.removeprefix("Train/") for tag in a.series if tag.startswith("Train/")}
    both = {name for name in names if f"Train/{name}" in b.series}
    losses = sorted(name for name in both if name.lower().endswith("loss"))
    if not losses:
        raise DatasetError(
            f"{a.folder} and {b.folder} have logged no loss of the same name",
            "critics in both, or a loss that both have",
            "Compare runs of the same algorithm.",
        )
    name = SHARED_LOSS if SHARED_LOSS in losses else losses[0]
    return {a.label: name, b.label: name}


def loss_trend(series: Series, first: float, last: float) -> str:
    """Whether a loss is falling fast, falling, settled or rising between two epochs.

    Measured is the change from the mean of the window's first third of epochs to that of its last
    third, relative to the first. Noise is the standard deviation of this change, estimated from
    how much the steps from epoch to epoch differ from their median. `settled`: the change is under
    10 % or under 2 standard deviations; `falling fast`: the loss at least halves.

    Args:
        series: training loss by epoch.
        first, last: epochs, both included.
    """
    values = _window(series, first, last)
    if values is None:
        return "not reached"
    if len(values) < MIN_EPOCHS:
        return f"too few epochs ({len(values)})"
    change = change_of(values)
    difference = change.after - change.before
    share = difference / abs(change.before) if change.before else math.copysign(1, difference)
    if not math.isfinite(share):
        return "not a number"
    numbers = f"{markdown.number(change.before)} to {markdown.number(change.after)}"
    if series.epochs[-1] < last < math.inf:
        numbers += f", until epoch {series.epochs[-1]}"
    if abs(share) < SMALL or abs(difference) < SIGMAS * change.noise:
        return f"settled ({numbers})"
    words = "rising" if share > 0 else "falling fast" if share <= -FAST else "falling"
    return f"{words} ({numbers})"


def success_trend(
    series: Series | None, last_epoch: int, window: tuple[float, float], n: int
) -> str:
    """Whether success is rising between two epochs.

    Measured is the change from the first to the last third of the window's rollouts; `rising` and
    `falling` are beyond 2 standard deviations of two binomial rates.

    Args:
        series: success rate by epoch, None without rollouts.
        last_epoch: of the run.
        window: first and last epoch, both included.
        n: episodes in each rollout.
    """
    if last_epoch <= window[0]:
        return "not reached"
    if series is None:
        return "no rollouts"
    values = [v for e, v in zip(*series, strict=True) if window[0] <= e <= window[1]]
    if len(values) < MIN_ROLLOUTS:
        return f"too few rollouts ({len(values)})"
    change = change_of(np.array(values))
    rate = float(np.mean(values))
    third = max(1, len(values) // 3)
    noise = math.sqrt(rate * (1 - rate) * 2 / (n * third))
    difference = change.after - change.before
    numbers = f"{change.before:.0%} to {change.after:.0%}"
    if abs(difference) <= SIGMAS * noise:
        return f"no change beyond noise ({numbers})"
    return f"{'rising' if difference > 0 else 'falling'} ({numbers})"


def change_of(values: np.ndarray) -> Change:
    """Means of the first and last third of values (N,), and the noise of their difference."""
    third = max(1, len(values) // 3)
    # The median of |difference of two normals| is 0.6745 * sqrt(2) standard deviations. Medians,
    # so that neither a steady trend nor a few steep epochs count as noise.
    steps = np.diff(values)
    sigma = float(np.median(np.abs(steps - np.median(steps)))) / (0.6745 * math.sqrt(2))
    before, after = values[:third].mean(), values[-third:].mean()
    return Change(float(before), float(after), sigma * math.sqrt(2 / third))


def environment(run: Run) -> str | None:
    """Name of a run's environment, from its dataset or its rollouts; None if neither has one.

    The dataset goes first: robomimic 0.5.0 names rollouts after the dataset's file.
    """
    data = get_nested(run.config, "train", "data")
    path = data[0] if isinstance(data, list) and data else data
    path = get_nested(path, "path") if isinstance(path, dict) else path
    if isinstance(path, str):
        try:
            with h5py.File(path, "r") as file:
                return str(json.loads(file["data"].attrs["env_args"])["env_name"])
        except (OSError, KeyError, ValueError):
            pass  # gone or damaged; a comparison of logs does not need it
    rollouts = [tag for tag in run.series if tag.startswith("Rollout/Success_Rate/")]
    return rollouts[0].split("/")[2] if rollouts else None


def _window(series: Series, first: float, last: float) -> np.ndarray | None:
    """Values between two epochs; None if the run has no epoch after the first of them."""
    if series.epochs[-1] <= first:
        return None
    return np.array([v for e, v in zip(*series, strict=True) if first <= e <= last])


def _table(both: list[Run], losses: dict[str, str]) -> str:
    head = ["epochs"]
    head += [f"{run.label}, `{losses[run.label]}`" for run in both]
    head += [f"{run.label}, success" for run in both]
    rows = []
    for first, last in WINDOWS:
        row = [f"{first}+" if math.isinf(last) else f"{first}-{last:.0f}"]
        row += [loss_trend(run.series[f"Train/{losses[run.label]}"], first, last) for run in both]
        for run in both:
            end = run.series[f"Train/{losses[run.label]}"].epochs[-1]
            success = run_metrics.success_rate(run.series)
            row.append(success_trend(success, end, (first, last), run.episodes))
        rows.append(row)
    return markdown.table(head, rows, words=len(head))


def _notes(both: list[Run], losses: dict[str, str]) -> list[str]:
    """How the table is made, and warnings."""
    notes = [
        "Loss, from the first to the last third of the epochs: settled, under 10 % or under 2 "
        "standard deviations of its noise; falling fast, at least halved. Success, likewise over "
        "rollouts: a change beyond 2 standard deviations of two binomial rates. "
        + " ".join(
            f"{run.label} has {run.series[f'Train/{losses[run.label]}'].epochs[-1]} epochs."
            for run in both
        )
    ]
    names = [environment(run) for run in both]
    if None in names:
        notes.append("Warning: whether both runs are of the same task is not known.")
    elif names[0] != names[1]:
        notes.append(f"Warning: the runs are of different tasks, {names[0]} and {names[1]}.")
    algos = [run.config.get("algo_name") for run in both]
    if algos[0] != algos[1]:
        notes.append(
            f"Warning: losses of different algorithms ({algos[0]} and {algos[1]}) differ in scale; "
            "compare when they settle, not how large they are."
        )
    return notes
