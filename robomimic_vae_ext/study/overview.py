"""Several published studies on one sheet: their claims in a table and a figure, for a README."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from robomimic_vae_ext import markdown
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.study import claims, formatting, published, results, study_plots, tables
from robomimic_vae_ext.study.statistics import Estimate
from robomimic_vae_ext.study.summary import Summary

CLAIMED: Final = "0.88"  # grey
MARKER: Final = "overview"
FASTER: Final = "speed_up"
LEFT, RIGHT = 0.85, 1.15  # around an axis's smallest and largest value, as factors
TITLE: Final = 30  # letters in a line of a panel's title
COLOURS: Final = {"yes": "#009E73", "open": "#0072B2", "no": "#D55E00"}  # of Okabe and Ito
MEANING: Final = {
    "yes": "the claim holds", "open": "open: the interval is on both sides", "no": "it does not",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One task of one study, of which at least one job is done.

    Args:
        summary: of the study's finished jobs.
        task: its name.
        steps: gradient steps of a training.
        demonstrations: what `results.describe` says of its dataset, or None.
    """

    summary: Summary
    task: str
    steps: int
    demonstrations: Mapping[str, Any] | None

    @property
    def arms(self) -> list[str]:
        """Arms that the claims are asked of and that have been run."""
        return [arm for arm in self.summary.fixes if self.summary.of(self.task, arm)]

    @property
    def title(self) -> str:
        """Task and steps, which tell studies of one task apart."""
        return f"{self.task}, {self.steps:,} steps"


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
    if document is not None and not markdown.fill(document, MARKER, text):
        raise ConfigError(
            f"{document} has no '<!-- {MARKER} -->'",
            "a document with that line and, after it, '<!-- end -->'",
            "Put both where the tables are to stand, or name another --readme.",
        )
    draw(parts, figure)
    return text


def read(paths: Sequence[Path]) -> list[Part]:
    """Read published results; tasks in the order of files, then of the studies' own."""
    parts = []
    for path in paths:
        published.read_file(path)  # refuses what is damaged
        data = json.loads(path.read_text(encoding="utf-8"))
        summary = results.summary_of(data)
        for task in summary.tasks:
            steps = [record.steps for record in summary.records if record.task == task]
            if steps:
                described = data["manifest"]["demonstrations"].get(task)
                parts.append(Part(summary, task, max(steps), described))
    return parts


def tables_of(parts: Sequence[Part]) -> str:
    """Claims, their rule, and how often the final policies succeed."""
    head = ("task", "steps", "arm", "against", "seeds", *(it.text for it in claims.CLAIMS))
    return "\n\n".join([
        markdown.table(head, _claims(parts), words=4),
        claims.RULE,
        "Final policies, episodes that succeed:",
        _successes(parts),
    ])  # fmt: skip


def _claims(parts: Sequence[Part]) -> Iterator[tuple[str, ...]]:
    for part in parts:
        for arm in part.arms:
            task, *row = claims.row(part.summary, part.task, arm)
            yield (task, f"{part.steps:,}", *row)


def _successes(parts: Sequence[Part]) -> str:
    """A line for each task, a column for each arm of the first study's first group."""
    first = parts[0].summary
    columns = list(next(iter(first.groups.values()), first.arms))
    rows = []
    for part in parts:
        demos = part.demonstrations
        rows.append((
            f"`{part.task}`",
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
    figure, axes = plt.subplots(
        1, len(claims.CLAIMS), sharey=True, layout="constrained",
        figsize=(3.1 * len(claims.CLAIMS) + 1.4, 1.5 + 0.27 * len(lines)),
    )  # fmt: skip
    for axis, claim in zip(axes, claims.CLAIMS, strict=True):
        for y, (part, arm) in enumerate(lines):
            if arm is not None:
                _line(axis, y, claim, claim.estimate(part.summary, part.task, arm))
        _finish(axis, claim)
    axes[0].set_yticks(range(len(lines)), [arm or part.title for part, arm in lines])
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    for label, (_, arm) in zip(axes[0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if arm else "bold")
    figure.legend(
        handles=[
            *(Line2D([], [], label=MEANING[verdict], **_look(verdict)) for verdict in COLOURS),
            Patch(color=CLAIMED, label="where the claim holds"),
        ],
        loc="outside lower center", ncols=len(COLOURS) + 1, frameon=False,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=study_plots.DPI)
    plt.close(figure)


def _line(axis: Any, y: int, claim: claims.Claim, found: Estimate | None) -> None:
    """One estimate: filled where its whole interval is on one side of the claim's bound."""
    if found is None:
        axis.annotate("not measured", (0.02, y), xycoords=("axes fraction", "data"), va="center",
                      color="0.4", fontsize=8)  # fmt: skip
        return
    look = _look(claim.holds(found))
    if found.low is not None and found.high is not None:
        axis.plot([found.low, found.high], [y, y], color=look["color"], linewidth=look["linewidth"])
    axis.plot(found.value, y, **look)


def _look(verdict: str) -> dict[str, Any]:
    """Line and marker of a verdict; an open one is told in print, too."""
    colour = COLOURS[verdict]
    return {
        "color": colour, "linewidth": 1.6, "marker": "o", "markersize": 5,
        "markerfacecolor": "white" if verdict == "open" else colour,
    }  # fmt: skip


def _finish(axis: Any, claim: claims.Claim) -> None:
    """Scale, and what is claimed."""
    drawn = [float(x) for line in axis.lines for x in line.get_xdata()]
    drawn += [1.0, claim.bound]
    if claim.measure == FASTER:
        axis.set_xlim(-0.15, RIGHT * max(drawn))
        ticks = range(int(max(drawn)) + 1)
        axis.set_xticks(ticks, ["never", *map(str, ticks[1:])])
    else:
        study_plots.logarithmic(axis.xaxis)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(LEFT * min(drawn), RIGHT * max(drawn))
    left, right = axis.get_xlim()
    axis.axvspan(*((claim.bound, right) if claim.at_least else (left, claim.bound)),
                 color=CLAIMED, zorder=0)  # fmt: skip
    axis.axvline(1, color="0.4", linewidth=0.8, linestyle="--")
    axis.grid(True, axis="x", alpha=0.3)
    axis.set_title(textwrap.fill(claim.text, TITLE, break_on_hyphens=False), fontsize=10)
    axis.set_xlabel("measured, with its interval", fontsize=9)
