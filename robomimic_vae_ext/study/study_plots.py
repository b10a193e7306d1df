"""Figures of a study. Knows matplotlib and what a study found, never torch."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from robomimic_vae_ext.study import statistics
from robomimic_vae_ext.study.plots import COLOURS
from robomimic_vae_ext.study.records import LAST, Record
from robomimic_vae_ext.study.summary import Summary

PALETTE: Final = (*COLOURS, "#000000")  # a study has more arms than a plot has runs
# Five styles and seven colours have no common factor: thirty-five arms differ.
STYLES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
BINS: Final = 8  # of Q, with the same number of steps in each
WIDE: Final = 10.0  # largest over smallest, from where an axis is logarithmic
DPI: Final = 110
VIEWS: Final = 3  # rows of the saliency figure
CONSTANT: Final = "best constant"
DATA: Final = "demonstrations"
LINE: Final = 0.19  # of a legend beside panels [inch]
LETTER: Final = 0.085  # of a legend, about [inch]
TITLE: Final = 24  # letters in a line of a group's title

Curve = Mapping[int, float]  # gradient steps to a value
Demonstrations = Mapping[str, Mapping[str, Any] | None]


class Figure(NamedTuple):
    """A file beside the page, and what it shows."""

    name: str
    text: str


class Row(NamedTuple):
    """A row of panels, one for each task: a group's title and its arms."""

    title: str
    arms: Sequence[str]
    axes: Sequence[Any]


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
        drawn.append(error_curves(summary, demonstrations, docs))
    if any(point.auc is not None for record in summary.records for point in record.curve):
        drawn.append(auc_curves(summary, docs))
    if any(record.q for record in summary.records):
        drawn.append(calibration(summary, docs))
    if any(record.rollouts for record in summary.records):
        drawn.append(success_bars(summary, demonstrations, docs))
    if any(len(record.rollouts) > LAST for record in summary.records):
        drawn.append(success_curves(summary, docs))
    return drawn


def error_curves(summary: Summary, demonstrations: Demonstrations, docs: Path) -> Figure:
    """Held-out Q error against gradient steps, and the error of a Q that is the same everywhere."""
    figure, rows = _curves(summary, "held-out Q error", _errors)
    for row in rows:
        for axis, task in zip(row.axes, _tasks(summary), strict=True):
            constant = (demonstrations.get(task) or {}).get("constant_error")
            if axis.lines:
                drawn = np.concatenate([line.get_ydata() for line in axis.lines])
                if drawn.max() > WIDE * drawn.min():
                    logarithmic(axis.yaxis)
                if constant is not None:
                    axis.axhline(constant, color="0.3", linewidth=1, label=CONSTANT)
    text = (
        "Held-out Q error against gradient steps: mean over seeds; the band, drawn where an arm is "
        "shown first, goes from the smallest to the largest seed. Grey: the error of the best Q "
        "that is the same everywhere."
    )
    return _save(figure, rows, docs, "results_curves.png", text)


def auc_curves(summary: Summary, docs: Path) -> Figure:
    """AUC of Q for success against gradient steps."""
    figure, rows = _curves(summary, "AUC of Q for success", _aucs)
    text = "AUC of Q for success on held-out states, drawn like the error."
    return _save(figure, rows, docs, "results_auc.png", text)


def success_curves(summary: Summary, docs: Path) -> Figure:
    """Success of every checkpoint that has episodes, against gradient steps."""
    figure, rows = _curves(summary, "success", _successes)
    for axis in (axis for row in rows for axis in row.axes):
        axis.set(ylim=(-0.02, 1.05))
    text = "Success against gradient steps, drawn like the error; the last one has more episodes."
    return _save(figure, rows, docs, "results_success_curves.png", text)


def calibration(summary: Summary, docs: Path) -> Figure:
    """Mean return received against Q(s, a), in bins of Q."""
    figure, rows = _rows(summary, "discounted return received", "Q(s, a) of the acting policy")
    for _, arms, axes in rows:
        for axis, task in zip(axes, _tasks(summary), strict=True):
            ends = [0.0, 1.0]
            for arm in arms:
                x, y = _calibrated(summary.of(task, arm))
                if x:
                    axis.plot(x, y, label=arm, markersize=4.5, **_look(summary, arm, marker=True))
                    ends = [min(ends[0], *x), max(ends[1], *x)]
            if not axis.lines:
                _empty(axis)
            axis.plot(ends, ends, color="0.6", linewidth=0.8)
    text = (
        f"Value against return in rollouts of the final policies, all seeds together, {BINS} bins "
        "with equally many steps; on the grey line Q is right on average, below it too high."
    )
    return _save(figure, rows, docs, "results_values.png", text)


def _calibrated(found: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Means of Q and of the return in every bin, of all seeds together; empty for few steps."""
    q = np.array([value for record in found for value in record.q])
    returns = np.array([value for record in found for value in record.returns])
    if len(q) < BINS:
        return [], []
    parts = np.array_split(np.argsort(q, kind="stable"), BINS)
    return [float(q[part].mean()) for part in parts], [
        float(returns[part].mean()) for part in parts
    ]


def success_bars(summary: Summary, demonstrations: Demonstrations, docs: Path) -> Figure:
    """Final success with intervals; seeds as dots, demonstrations as a dashed line."""
    figure, rows = _rows(summary, "success, final policy", "")
    for _, arms, axes in rows:
        for axis, task in zip(axes, _tasks(summary), strict=True):
            for x, arm in enumerate(arms):
                _bar(axis, x, summary, task, arm)
            if not axis.patches:
                _empty(axis)
            demos = demonstrations.get(task)
            if demos:
                rate = demos["successes"] / demos["episodes"]
                axis.axhline(rate, linestyle="--", color="0.3", linewidth=1, label=DATA)
            axis.set_xticks(range(len(arms)), arms, rotation=40, ha="right", rotation_mode="anchor")
            axis.set(ylim=(-0.02, 1.05), xlim=(-0.6, len(arms) - 0.4))
    text = (
        "Success of the final policies with 95 % intervals; dots: seeds; dashed: the share of "
        "demonstrations that succeed."
    )
    return _save(figure, rows, docs, "results_success.png", text)


def _bar(axis: Any, x: int, summary: Summary, task: str, arm: str) -> None:
    """The x-th bar of a group."""
    estimate = summary.estimate(task, arm, "success_final")
    if estimate is None:
        axis.text(x, 0.02, "not run yet", rotation=90, ha="center", color="0.4", fontsize=8)
        return
    axis.bar(x, estimate.value, color=_look(summary, arm)["color"], alpha=0.55, width=0.7)
    if estimate.low is not None and estimate.high is not None:
        error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        axis.errorbar(x, estimate.value, error, color="0.15", capsize=4)
    rates = list(summary.values(task, arm, "success_final").values())
    offsets = np.linspace(-0.22, 0.22, len(rates)) if len(rates) > 1 else [0.0]
    axis.scatter(x + np.array(offsets), rates, color="0.15", s=12, zorder=3)


def saliency_figure(task: str) -> Figure:
    """The file of a task's saliency maps, which need the checkpoints to be drawn."""
    text = (
        "Absolute gradient of Q(s, a) by the picture, one seed an arm (of those whose checkpoints "
        "were there when it was drawn), each map in units of its own largest values (plain grey: "
        "that camera does not move Q); Q of the picture, and with the colours of the cubes swapped."
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


def _tasks(summary: Summary) -> list[str]:
    """Tasks of which a job is done."""
    begun = {record.task for record in summary.records}
    return [task for task in summary.tasks if task in begun]


def _rows(summary: Summary, label: str, xlabel: str) -> tuple[Any, list[Row]]:
    """A figure with a row of panels for each group, a column for each task.

    Tasks, arms and groups of which no job is done are left out.

    Args:
        summary: whose groups and tasks they are.
        label, xlabel: of the axes.

    Returns:
        The figure and its rows.
    """
    tasks = _tasks(summary)
    begun = {record.arm for record in summary.records}
    groups = {
        textwrap.fill(title, TITLE): [arm for arm in arms if arm in begun]
        for title, arms in (summary.groups or {"": summary.arms}).items()
        if begun.intersection(arms)
    }
    # An arm a line, a line each for the title's and what is no arm.
    lines = [len(arms) + title.count("\n") + 2 for title, arms in groups.items()]
    heights = [max(2.5, 0.7 + LINE * count) for count in lines]
    longest = max(TITLE, *(len(arm) for arm in begun))
    width = max(4.5, 3.5 * len(tasks)) + 0.6 + LETTER * longest
    figure, grid = plt.subplots(
        len(groups), len(tasks), figsize=(width, 0.3 + sum(heights)), squeeze=False,
        layout="constrained", height_ratios=heights,
    )  # fmt: skip
    for arms, axes in zip(groups.values(), grid, strict=True):
        axes[0].set_ylabel(label)
        for axis, task in zip(axes, tasks, strict=True):
            seeds = {len(summary.of(task, arm)) for arm in arms} - {0}
            few, many = min(seeds, default=0), max(seeds, default=0)
            count = f"{many}" if few == many else f"{few} to {many}"
            axis.set_title(f"{task} ({count} seed{'' if count == '1' else 's'})")
            axis.grid(True, alpha=0.3)
            axis.set(xlabel=xlabel)
    return figure, [
        Row(title, arms, axes) for (title, arms), axes in zip(groups.items(), grid, strict=True)
    ]


def _look(summary: Summary, arm: str, marker: bool = False) -> dict[str, Any]:
    """Colour and line style of an arm, the same in all rows and figures."""
    index = summary.arms.index(arm)
    look = {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index % len(STYLES)]}
    return look | ({"marker": MARKERS[index % len(MARKERS)]} if marker else {})


def _curves(
    summary: Summary, label: str, curve: Callable[[Record], Curve]
) -> tuple[Any, list[Row]]:
    """`_rows` with a band for each arm, against gradient steps."""
    figure, rows = _rows(summary, label, "gradient steps")
    shown: set[str] = set()  # a second band of an arm would only hide others
    for _, arms, axes in rows:
        for axis, task in zip(axes, _tasks(summary), strict=True):
            drawn = [
                _mean(axis, [curve(record) for record in summary.of(task, arm)],
                      _look(summary, arm), arm, band=arm not in shown)
                for arm in arms
            ]  # fmt: skip
            axis.set(xlim=(0, None))
            if not any(drawn):
                _empty(axis)
        shown.update(arms)
    return figure, rows


def _mean(
    axis: Any, curves: Sequence[Curve], look: Mapping[str, Any], label: str, band: bool
) -> bool:
    """Draw mean and, as a band, range over seeds, at the steps that all seeds have."""
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if not steps:
        return False
    values = np.array([[curve[step] for step in steps] for curve in curves])  # (S, C)
    axis.plot(steps, values.mean(axis=0), label=label, **look)
    if band:
        ends = values.min(axis=0), values.max(axis=0)
        axis.fill_between(steps, *ends, color=look["color"], alpha=0.12, linewidth=0)
    return True


def _errors(record: Record) -> Curve:
    return {p.step: p.critic_error for p in record.curve if p.critic_error is not None}


def _aucs(record: Record) -> Curve:
    return {p.step: p.auc for p in record.curve if p.auc is not None}


def _successes(record: Record) -> Curve:
    return {rollout.step: rollout.rate for rollout in record.rollouts}


def logarithmic(axis: Any) -> None:
    """Make an axis (`axes.xaxis` or `axes.yaxis`) logarithmic: 1, 2, 5 in plain decimals."""
    axes = axis.axes
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _empty(axis: Any) -> None:
    axis.text(0.5, 0.5, "nothing to show yet", transform=axis.transAxes, ha="center", color="0.4")


def _entries(axes: Sequence[Any]) -> dict[str, Any]:
    """Label to handle of everything in some panels that has a name; what is no arm, last."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return dict(sorted(entries.items(), key=lambda entry: entry[0] in (CONSTANT, DATA)))


def _save(figure: Any, rows: Sequence[Row], docs: Path, name: str, text: str) -> Figure:
    """A legend for each row, to its right, under the group's title."""
    for title, _, axes in rows:
        entries = _entries(axes)
        if entries or title:
            axes[-1].legend(
                entries.values(), entries.keys(), title=title,
                alignment="left", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
                fontsize=9, title_fontsize=9,
            )  # fmt: skip
    figure.savefig(docs / name, dpi=DPI)
    plt.close(figure)
    return Figure(name, text)
