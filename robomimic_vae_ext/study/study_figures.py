"""Figures of a study: one colour for each arm, dots or lines with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from robomimic_vae_ext.analysis.curve_figures import COLOURS, plain_label, save
from robomimic_vae_ext.study import intervals
from robomimic_vae_ext.study.intervals import Estimate

if TYPE_CHECKING:
    from robomimic_vae_ext.study.report import Summary

WIDTH: Final = 8.3  # [in]; shown 830 pixels wide, a point is about a pixel
DPI: Final = 200
MARKERS: Final = "osD^vPX*"
COLUMNS: Final = 3  # of panels, at most


def arm_styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every arm."""
    colours: Sequence[Any] = COLOURS
    if len(arms) > len(COLOURS):
        colours = list(matplotlib.colormaps["tab20"](range(20)))
    return {
        arm: {"color": colours[index % len(colours)], "marker": MARKERS[index % len(MARKERS)]}
        for index, arm in enumerate(arms)
    }


def final_success(summary: Summary, tasks: Sequence[str], arms: Sequence[str], path: Path) -> None:
    """Draw the success of the final policies, a panel for each task.

    Args:
        summary: of the finished jobs.
        tasks: names.
        arms: names, from above to below.
        path: figure file.
    """
    estimates = {task: {arm: summary.success(task, arm) for arm in arms} for task in tasks}
    dot_panels(estimates, arm_styles(arms), path)


def dot_panels(
    estimates: Mapping[str, Mapping[str, Estimate | None]],
    styles: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> None:
    """Draw percentages with intervals, a panel for each title and a line for each arm.

    Args:
        estimates: title to arm to its percentage; None: no dot.
        styles: arm to its colour and marker, in the order of the lines.
        path: figure file.
    """
    columns = 2 if len(estimates) == 4 else min(COLUMNS, len(estimates))
    rows = -(-len(estimates) // columns)
    figure, axes = plt.subplots(
        rows, columns, sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(WIDTH, (0.8 + 0.24 * len(styles)) * rows),
    )  # fmt: skip
    for axis in axes.flat[len(estimates) :]:
        axis.set_visible(False)
    for axis, (title, by_arm) in zip(axes.flat, estimates.items(), strict=False):
        for y, (arm, style) in enumerate(styles.items()):
            estimate = by_arm.get(arm)
            if estimate is None:
                continue
            if estimate.low is not None:
                ends = [estimate.low, estimate.high]
                axis.plot(ends, [y, y], color=style["color"], linewidth=5, alpha=0.35,
                          solid_capstyle="butt")  # fmt: skip
            axis.plot(estimate.value, y, **style, markersize=6, linestyle="none")
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(-3, 103), ylim=(len(styles) - 0.5, -0.5))
        axis.set_yticks(range(len(styles)), [plain_label(arm) for arm in styles])
        axis.grid(True, alpha=0.3)
        axis.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("success of the final policy [%]", fontsize=10)
    save(figure, path, DPI)


def curves(summary: Summary, tasks: Sequence[str], arms: Sequence[str], path: Path) -> None:
    """Draw success and held-out Q error over gradient steps, a row for each task.

    Args:
        summary: of the finished jobs.
        tasks: names.
        arms: names.
        path: figure file.
    """
    styles = arm_styles(arms)
    figure, axes = plt.subplots(
        len(tasks), 2, squeeze=False, layout="constrained", figsize=(WIDTH, 2.6 * len(tasks) + 0.6)
    )
    handles: dict[str, Any] = {}
    for (left, right), task in zip(axes, tasks, strict=True):
        drawn = False
        for arm in arms:
            line = _band(left, _success_by_step(summary, task, arm), styles[arm])
            if line is not None:
                handles.setdefault(arm, line)
            drawn |= _band(right, _error_by_step(summary, task, arm), styles[arm]) is not None
        left.set(title=f"{task}: success [%]", ylim=(-3, 103))
        right.set(title=f"{task}: held-out Q error")
        if drawn:
            right.set_yscale("log")
            right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            right.yaxis.set_minor_locator(NullLocator())
        for axis in (left, right):
            axis.grid(True, alpha=0.3)
            axis.title.set_fontsize(10)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in axes[-1]:
        axis.set_xlabel("gradient steps")
    figure.legend(
        handles.values(), [plain_label(arm) for arm in handles], loc="outside lower center",
        ncols=min(6, max(1, len(handles))), frameon=False,
    )  # fmt: skip
    save(figure, path, DPI)


def _success_by_step(summary: Summary, task: str, arm: str) -> dict[int, Estimate]:
    seeds = list(summary.values(task, arm, "success").index)
    played = [
        {rollout["step"] for rollout in summary.records[task, arm, seed]["rollouts"]}
        for seed in seeds
    ]
    steps = sorted(set.intersection(*played)) if played else []
    return {
        step: intervals.success(*summary.outcomes(task, [arm], seeds, step)).times(100)
        for step in steps
    }


def _error_by_step(summary: Summary, task: str, arm: str) -> dict[int, Estimate]:
    rows = summary.table.query("task == @task and arm == @arm and metric == 'critic_error'")
    by_step = rows.groupby("step")["value"]
    return {step: intervals.mean(values.tolist()) for step, values in by_step}


def _band(axis: Any, by_step: Mapping[int, Estimate], style: Mapping[str, Any]) -> Any:
    """A line with its band; None without a point."""
    if not by_step:
        return None
    steps, estimates = list(by_step), list(by_step.values())
    (line,) = axis.plot(steps, [e.value for e in estimates], **style, markersize=4, linewidth=1.4)
    if all(e.low is not None for e in estimates):
        low, high = (np.array([e[i] for e in estimates], dtype=float) for i in (1, 2))
        axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return line
