"""Several published studies on one sheet: their claims in a table and a figure, for a README."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from robomimic_vae_ext import markdown
from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import claims, formatting, published, results, study_plots, tables
from robomimic_vae_ext.study.statistics import Estimate
from robomimic_vae_ext.study.summary import Summary

CLAIMED: Final = "0.88"  # grey
MARKER: Final = "overview"
SPEED: Final = "speed_up"  # the measure that is told from checkpoints, and may be 0 for "never"
LEFT, RIGHT = 0.85, 1.15  # around an axis's smallest and largest value, as factors
TICKS: Final = 6
WIDE: Final = 150  # largest over smallest value of an axis, from which on ticks are fewer
TITLE: Final = 34  # letters in a line of a panel's title
COLUMNS: Final = 2  # of panels
COLOURS: Final = {"yes": "#009E73", "open": "#0072B2", "no": "#D55E00"}  # of Okabe and Ito
MEANING: Final = {
    "yes": "the claim holds", "open": "open: interval on both sides, or none", "no": "it does not",
}  # fmt: skip
MOST: Final[dict[str, Any]] = {
    "color": "0.15",
    "marker": "|",
    "markersize": 11,
    "linestyle": "none",
}
ONE: Final[dict[str, Any]] = {"color": "0.4", "linewidth": 0.8, "linestyle": "--"}
FEWEST: Final = 10  # checkpoints of a training from which steps are told


@dataclass(frozen=True)
class Part:
    """One task of one study, of which at least one job is done.

    Args:
        summary: of the study's finished jobs.
        task: its name.
        steps: gradient steps of a training.
        demonstrations: what `results.describe` says of its dataset, or None.
        label: of the study.
    """

    summary: Summary
    task: str
    steps: int
    demonstrations: Mapping[str, Any] | None
    label: str = ""

    @property
    def arms(self) -> list[str]:
        """Arms that the claims are asked of and that have been run."""
        return [arm for arm in self.summary.fixes if self.summary.of(self.task, arm)]

    @property
    def title(self) -> str:
        """Task, the study's label, and steps: what studies of one task mostly differ in."""
        return f"{self._labelled(self.task)}, {self.steps:,} steps"

    @property
    def cell(self) -> str:
        """The task in a table."""
        return self._labelled(f"`{self.task}`")

    def _labelled(self, task: str) -> str:
        return f"{task}, {self.label}" if self.label else task

    def unasked(self, claim: claims.Claim, arm: str) -> str:
        """Why a claim is not asked about here; empty if it is."""
        if claim.measure != SPEED:
            return ""
        curves = [len(record.curve) for record in self.summary.of(self.task, arm)]
        few = min(curves, default=0)
        return f"too few checkpoints ({few})" if few < FEWEST else ""

    def most(self, claim: claims.Claim, arm: str) -> float:
        """The largest ratio that could come out, since the measure has a largest value."""
        reference = self.summary.reference_of(arm)
        found = self.summary.estimate(self.task, reference, claim.measure)
        return math.inf if found is None or not found.value else claim.most / found.value


def write(paths: Sequence[Path], figure: Path, document: Path | None = None) -> str:
    """Draw the figure, and fill the tables into a document between its markers.

    Args:
        paths: each a results.json that a study has written.
        figure: PNG or PDF to write.
        document: Markdown file with `<!-- overview -->` and, after it, `<!-- end -->`; or none.

    Returns:
        The tables.

    Raises:
        DatasetError: a file is missing or is no published result.
        ConfigError: the document is missing or has no such markers.
    """
    parts = read(paths)
    text = tables_of(parts)
    if document is not None:
        old = document.read_text(encoding="utf-8") if document.is_file() else ""
        if markdown.between(old, MARKER) is None:
            raise ConfigError(
                f"{document} has no '<!-- {MARKER} -->'",
                "a document with that line and, after it, '<!-- end -->'",
                "Put both where the tables are to stand, or name another --readme.",
            )
    draw(parts, figure)
    if document is not None:
        markdown.fill(document, MARKER, text)
    return text


def read(paths: Sequence[Path]) -> list[Part]:
    """Read published results; tasks in the order of files, then of the studies' own.

    Raises:
        DatasetError: a file is missing or is no published result, or no job is done in any.
    """
    parts = []
    for path in paths:
        if not published.read_file(path).study:  # which refuses what is damaged
            raise DatasetError(
                f"{path} does not say of which study it is",
                "a results.json that a study has written",
                "Bring the file back as it was published.",
            )
        data = json.loads(path.read_text(encoding="utf-8"))
        summary = results.summary_of(data)
        for task in summary.tasks:
            steps = [record.steps for record in summary.records if record.task == task]
            if steps:
                described = data["manifest"]["demonstrations"].get(task)
                label = data["manifest"]["study"].get("label", "")
                parts.append(Part(summary, task, max(steps), described, label))
    if not parts:
        raise DatasetError(
            f"no job is done in {', '.join(map(str, paths))}",
            "at least one result",
            "Run the study first.",
        )
    return parts


def tables_of(parts: Sequence[Part]) -> str:
    """How often the final policies succeed; folded, the claims and their rule."""
    head = ("task", "arm", "against", "steps", "seeds", *(it.text for it in claims.CLAIMS))
    rows = list(_claims(parts))
    return "\n\n".join([
        "Episodes of the final policies that succeed, all seeds together:",
        _successes(parts),
        "<details><summary>The figure's numbers, with intervals and verdicts</summary>",
        markdown.table(head, rows, words=3) if rows else "No arm to compare.",
        claims.RULE,
        "</details>",
    ])  # fmt: skip


def _claims(parts: Sequence[Part]) -> Iterator[tuple[str, ...]]:
    for part in parts:
        for arm in part.arms:
            *names, seeds = claims.compared(part.summary, part.task, arm)
            cells = (
                part.unasked(claim, arm) or claim.verdict(part.summary, part.task, arm)
                for claim in claims.CLAIMS
            )
            yield (part.cell, *names, f"{part.steps:,}", seeds, *cells)


def _successes(parts: Sequence[Part]) -> str:
    """A line for each task; a column for whatever is compared or is in a study's first group."""
    shown: set[str] = set()
    for part in parts:
        shown.update(next(iter(part.summary.groups.values()), ()))
        shown.update(part.summary.baselines, [part.summary.reference], part.arms)
        shown.update(map(part.summary.reference_of, part.arms))
    every = dict.fromkeys(arm for part in parts for arm in part.summary.arms)
    columns = [arm for arm in every if arm in shown]
    rows = []
    for part in parts:
        demos = part.demonstrations
        rows.append((
            part.cell,
            f"{part.steps:,}",
            f"{demos['successes']} of {demos['episodes']}" if demos else formatting.NOTHING,
            *(tables.successes(part.summary, part.task, arm) for arm in columns),
        ))  # fmt: skip
    head = ("task", "steps", "demonstrations", *(f"`{arm}`" for arm in columns))
    return markdown.table(head, rows)


def draw(parts: Sequence[Part], path: Path) -> None:
    """Draw a panel for each claim: estimates and intervals, shaded where the claim would hold.

    Args:
        parts: tasks, from above to below.
        path: PNG or PDF file.
    """
    lines = [(part, arm) for part in parts for arm in (None, *part.arms)]
    rows = -(-len(claims.CLAIMS) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, sharey=True, squeeze=False, layout="constrained",
        figsize=(3.2 * COLUMNS + 2.0, (1.2 + 0.24 * len(lines)) * rows + 0.7),
    )  # fmt: skip
    for axis, claim in zip(axes.flat, claims.CLAIMS, strict=True):
        found = {
            y: (part, arm, claim.estimate(part.summary, part.task, arm))
            for y, (part, arm) in enumerate(lines)
            if arm is not None
        }
        _scale(axis, claim, found.values())
        for y, (part, arm, estimate) in found.items():
            _line(axis, y, claim, part, arm, estimate)
    for first in axes[:, 0]:
        first.set_yticks(range(len(lines)), [name or part.title for part, name in lines])
        first.set_ylim(len(lines) - 0.4, -0.6)
        for label, (_, name) in zip(first.get_yticklabels(), lines, strict=True):
            label.set_fontweight("normal" if name else "bold")
    figure.legend(
        handles=[
            *(Line2D([], [], label=MEANING[verdict], **_look(verdict)) for verdict in COLOURS),
            Patch(color=CLAIMED, label="where the claim holds"),
            Line2D([], [], label="1: as the reference", **ONE),
            Line2D([], [], label="most that was possible", **MOST),
        ],
        loc="outside lower center", ncols=3, frameon=False,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=study_plots.DPI)
    plt.close(figure)


def _line(
    axis: Any, y: int, claim: claims.Claim, part: Part, arm: str, found: Estimate | None
) -> None:
    """One estimate: filled where its whole interval is on one side of the claim's bound."""
    unasked = part.unasked(claim, arm)
    if unasked or found is None:
        axis.annotate(unasked or claims.NOT_MEASURED, (0.02, y), va="center", color="0.4",
                      xycoords=("axes fraction", "data"),
                      bbox={"color": "white", "pad": 1})  # fmt: skip
        return
    if math.isnan(found.value):
        axis.annotate(formatting.NOTHING, (1, y), va="center", ha="center", color="0.4")
        return
    ends = axis.get_xlim()
    most = part.most(claim, arm)
    if math.isfinite(most):
        axis.plot(most, y, **MOST)
    look = _look(claim.holds(found))
    if found.low is not None and found.high is not None:
        interval = np.clip([found.low, found.high], *ends)
        axis.plot(interval, [y, y], color=look["color"], linewidth=look["linewidth"])
    value = float(np.clip(found.value, *ends))
    if value != found.value:  # an arrow: 0 on a logarithmic axis, or infinite
        look |= {"marker": "<" if value > found.value else ">", "clip_on": False}
    axis.plot(value, y, **look)


def _look(verdict: str) -> dict[str, Any]:
    """Line and marker of a verdict; an open one is told in print, too."""
    colour = COLOURS[verdict]
    return {
        "color": colour, "linewidth": 1.6, "marker": "o", "markersize": 5,
        "markerfacecolor": "white" if verdict == "open" else colour,
    }  # fmt: skip


def _scale(
    axis: Any, claim: claims.Claim, rows: Iterable[tuple[Part, str, Estimate | None]]
) -> None:
    """Scale and title of a panel, and what is claimed there."""
    shown = [1.0, claim.bound]
    for part, arm, found in rows:
        if found is not None and not part.unasked(claim, arm):
            shown += [found.value, *(x for x in (found.low, found.high) if x is not None)]
            shown.append(part.most(claim, arm))
    shown = [x for x in shown if 0 < x < math.inf]  # no axis shows others
    if claim.measure == SPEED:
        axis.set_xlim(-0.05 * max(shown), RIGHT * max(shown))
        axis.xaxis.set_major_locator(MaxNLocator(TICKS, integer=True))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x else "never"))
    else:
        study_plots.logarithmic(axis.xaxis)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(LEFT * min(shown), RIGHT * max(shown))
        if max(shown) > WIDE * min(shown):  # or their numbers run into each other
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    left, right = axis.get_xlim()
    axis.axvspan(*((claim.bound, right) if claim.at_least else (left, claim.bound)),
                 color=CLAIMED, zorder=0)  # fmt: skip
    axis.axvline(1, **ONE)
    axis.grid(True, axis="x", alpha=0.3)
    what = claim.text.split(" times ", 1)[1]
    title = f"claimed: at {'least' if claim.at_least else 'most'} {claim.bound:g} times {what}"
    axis.set_title(textwrap.fill(title, TITLE, break_on_hyphens=False))
    axis.set_xlabel("measured, times the reference's")
