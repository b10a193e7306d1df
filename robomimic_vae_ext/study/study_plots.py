"""Figures of a study. Knows matplotlib and what a study found, never torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from robomimic_vae_ext.study import statistics
from robomimic_vae_ext.study.plots import COLOURS
from robomimic_vae_ext.study.records import Record
from robomimic_vae_ext.study.summary import Summary

PALETTE: Final = (*COLOURS, "#000000", "#8C6D00")  # a study has more arms than a plot has runs
# Five styles and eight colours have no common factor: forty arms differ.
STYLES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
BINS: Final = 8  # of Q, with the same number of steps in each
DPI: Final = 110
VIEWS: Final = 3  # rows of the saliency figure
LEGEND_WIDTH: Final = 1.6  # of one entry [inch]

Demonstrations = Mapping[str, Mapping[str, Any] | None]


class Figure(NamedTuple):
    """A file beside the page, and what it shows."""

    name: str
    text: str


def all_figures(summary: Summary, demonstrations: Demonstrations, docs: Path) -> list[Figure]:
    """Draw every figure for which there is anything to draw.

    Args:
        summary: of the finished jobs.
        demonstrations: task to what `results.describe` says of its dataset, or None.
        docs: folder to write to.
    """
    docs.mkdir(parents=True, exist_ok=True)
    drawn = []
    if any(record.errors[1] for record in summary.records):
        drawn.append(learning_curves(summary, demonstrations, docs))
    if any(record.q for record in summary.records):
        drawn.append(calibration(summary, docs))
    if any(record.rollouts for record in summary.records):
        drawn.append(success_bars(summary, demonstrations, docs))
    return drawn


def learning_curves(summary: Summary, demonstrations: Demonstrations, docs: Path) -> Figure:
    """Held-out Q error and AUC against gradient steps, a column for each task."""
    figure, grid = _grid(summary, rows=2, height=6.4)
    rows = (("critic_error", "held-out Q error", "log"), ("auc", "AUC of Q for success", "linear"))
    for (measure, label, scale), axes in zip(rows, grid, strict=True):
        for axis, task in zip(axes, summary.tasks, strict=True):
            drawn = [
                _band(axis, summary.of(task, arm), measure, _look(summary, arm), arm)
                for arm in summary.arms
            ]
            constant = (demonstrations.get(task) or {}).get("constant_error")
            if measure == "critic_error" and constant is not None and any(drawn):
                axis.axhline(constant, color="0.3", linewidth=1, label="best constant")
            axis.set(xlabel="gradient steps", xlim=(0, None))
            if scale == "log" and any(drawn):
                _logarithmic(axis.yaxis)
            _finish(axis, any(drawn))
        axes[0].set_ylabel(label)
    _titles(summary, grid[0])
    text = (
        "Learning curves: mean over seeds, the band from the smallest to the largest seed. Grey: "
        "the error of the best Q that is the same everywhere."
    )
    return _save(figure, docs, "results_curves.png", text)


def calibration(summary: Summary, docs: Path) -> Figure:
    """Mean return received against Q(s, a), in bins of Q, a panel for each task."""
    figure, grid = _grid(summary, rows=1, height=4.4)
    for axis, task in zip(grid[0], summary.tasks, strict=True):
        drawn, ends = False, [0.0, 1.0]
        for arm in summary.arms:
            found = summary.of(task, arm)
            q = np.concatenate([np.array(record.q) for record in found] or [np.zeros(0)])
            returns = np.concatenate([np.array(record.returns) for record in found] or [q])
            if len(q) < BINS:
                continue
            parts = np.array_split(np.argsort(q, kind="stable"), BINS)
            x = [q[part].mean() for part in parts]
            axis.plot(x, [returns[part].mean() for part in parts], label=arm, markersize=4.5,
                      **_look(summary, arm, marker=True))  # fmt: skip
            drawn, ends = True, [min(ends[0], *x), max(ends[1], *x)]
        axis.plot(ends, ends, color="0.6", linewidth=0.8)
        axis.set(xlabel="Q(s, a) of the acting policy")
        _finish(axis, drawn)
    grid[0][0].set_ylabel("discounted return received from s")
    _titles(summary, grid[0])
    text = (
        f"Value against return in rollouts of the final policies, all seeds together, {BINS} bins "
        "with equally many steps; on the grey line Q is right on average, below it too high."
    )
    return _save(figure, docs, "results_values.png", text)


def success_bars(summary: Summary, demonstrations: Demonstrations, docs: Path) -> Figure:
    """Final success with intervals; seeds as dots, demonstrations as a dashed line."""
    figure, grid = _grid(summary, rows=1, height=4.0)
    for axis, task in zip(grid[0], summary.tasks, strict=True):
        for x, arm in enumerate(summary.arms):
            estimate = summary.estimate(task, arm, "success_final")
            if estimate is None:
                continue
            colour, hatch = _look(summary, arm)["color"], "//" if x >= len(PALETTE) else None
            axis.bar(x, estimate.value, color=colour, alpha=0.55, width=0.7, hatch=hatch)
            if estimate.low is not None and estimate.high is not None:
                error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
                axis.errorbar(x, estimate.value, error, color="0.15", capsize=4)
            rates = list(summary.values(task, arm, "success_final").values())
            offsets = np.linspace(-0.22, 0.22, len(rates)) if len(rates) > 1 else [0.0]
            axis.scatter(x + np.array(offsets), rates, color="0.15", s=12, zorder=3)
        demos = demonstrations.get(task)
        if demos:
            rate = demos["successes"] / demos["episodes"]
            axis.axhline(rate, linestyle="--", color="0.3", linewidth=1, label="demonstrations")
        axis.set_xticks(
            range(len(summary.arms)), summary.arms, rotation=50, ha="right", rotation_mode="anchor"
        )
        axis.set(ylim=(-0.02, 1.05), xlim=(-0.6, len(summary.arms) - 0.4))
        _finish(axis, any(summary.of(task, arm) for arm in summary.arms))
    grid[0][0].set_ylabel("success rate of the final policy")
    _titles(summary, grid[0])
    text = "Success of the final policies with 95 % intervals; dots: seeds."
    return _save(figure, docs, "results_success.png", text)


def saliency_figure(task: str) -> Figure:
    """The file of a task's saliency maps, which need the checkpoints to be drawn."""
    text = (
        "Absolute gradient of Q(s, a) by the picture, one seed of each arm, each map in units of "
        "its own largest values; Q of the picture, and with the colours of the cubes swapped."
    )
    return Figure(f"results_saliency_{task}.png", text)


def saliency(found: Any, arms: Sequence[str], docs: Path, task: str) -> None:
    """Draw a few views and, beside each, where the Q of each arm is sensitive.

    Args:
        found: `saliency.TaskLook` (whose module imports torch, so it is not named as type here).
        arms: in the order of the columns.
        docs: folder to write to.
        task: for the name of the file.
    """
    first = {arm: min(seed for a, seed in found.looks if a == arm)
             for arm in arms if any(a == arm for a, _ in found.looks)}  # fmt: skip
    rows = statistics.evenly(len(found.views), VIEWS)
    figure, grid = plt.subplots(
        len(rows), 1 + len(first), squeeze=False, layout="constrained",
        figsize=(2.5 * (1 + len(first)), 2.7 * len(rows)),
    )  # fmt: skip
    for axis in grid.flat:
        axis.set_axis_off()
    for line, index in zip(grid, rows, strict=True):
        line[0].imshow(found.views[index].picture)
        for axis, (arm, seed) in zip(line[1:], first.items(), strict=True):
            look = found.looks[arm, seed]
            axis.imshow(found.views[index].picture.mean(axis=-1), cmap="gray", vmax=400)
            scale = max(float(np.percentile(look.maps[index], 99.5)), np.finfo(float).tiny)
            shown = np.clip(look.maps[index] / scale, 0, 1)  # all 0 where Q does not see the camera
            axis.imshow(shown, cmap="inferno", alpha=0.2 + 0.8 * shown)
            q, swapped = (round(x, 2) + 0.0 for x in (look.q[index], look.q_swapped[index]))
            values = f"Q {q:.2f}, swapped {swapped:.2f}"
            axis.set_title(f"{arm}, seed {seed}\n{values}", fontsize=9)
    # Small: noisy maps of many arms are large as PNG, and the pictures have 84 pixels anyway.
    figure.savefig(docs / saliency_figure(task).name, dpi=75)
    plt.close(figure)


def _grid(summary: Summary, rows: int, height: float) -> tuple[Any, np.ndarray]:
    columns = len(summary.tasks)
    return plt.subplots(
        rows, columns, figsize=(max(5.0, 4.0 * columns), height), squeeze=False,
        layout="constrained",
    )  # fmt: skip


def _look(summary: Summary, arm: str, marker: bool = False) -> dict[str, Any]:
    """Colour and line style of an arm, the same in all figures."""
    index = summary.arms.index(arm)
    look = {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index % len(STYLES)]}
    return look | ({"marker": MARKERS[index % len(MARKERS)]} if marker else {})


def _band(
    axis: Any, found: Sequence[Record], measure: str, look: Mapping[str, Any], label: str
) -> bool:
    """Draw mean and range over seeds, at the steps that all seeds have."""
    curves = [
        {point.step: getattr(point, measure) for point in record.curve
         if getattr(point, measure) is not None}
        for record in found
    ]  # fmt: skip
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if not steps:
        return False
    values = np.array([[curve[step] for step in steps] for curve in curves])  # (S, C)
    axis.plot(steps, values.mean(axis=0), label=label, **look)
    axis.fill_between(
        steps, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.15, linewidth=0
    )
    return True


def _logarithmic(axis: Any) -> None:
    """Steps of 1, 2, 5 in plain decimals."""
    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _titles(summary: Summary, axes: Sequence[Any]) -> None:
    for axis, task in zip(axes, summary.tasks, strict=True):
        seeds = {len(summary.of(task, arm)) for arm in summary.arms} - {0}
        count = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{max(seeds, default=0)}"
        axis.set_title(f"{task} ({count} seed{'' if count == '1' else 's'})")


def _finish(axis: Any, drawn: bool) -> None:
    axis.grid(True, alpha=0.3)
    if not drawn:
        axis.text(
            0.5, 0.5, "nothing to show yet", transform=axis.transAxes, ha="center", color="0.4"
        )


def _save(figure: Any, docs: Path, name: str, text: str) -> Figure:
    """One legend for all panels, below them."""
    entries: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        columns = max(2, int(figure.get_figwidth() / LEGEND_WIDTH))
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=columns,
            frameon=False,
        )  # fmt: skip
    figure.savefig(docs / name, dpi=DPI)
    plt.close(figure)
    return Figure(name, text)
