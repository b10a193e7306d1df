"""The flow as a picture: losses left, modules in the middle, optimizers right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robomimic_vae_ext.gradient_flow.judge.classify import Cell
from robomimic_vae_ext.gradient_flow.judge.findings import Verdict
from robomimic_vae_ext.gradient_flow.judge.judgement import OUTSIDE, Judgement

# Colours that stay apart for colour-blind readers (Okabe and Ito), and by lightness in grey print.
INK, BLUE, RED, GREY = "#1a1a1a", "#0072b2", "#d55e00", "#9a9a9a"
_X_LOSS, _X_MODULE, _X_OPTIMIZER = 0.0, 5.0, 10.0  # centres of the columns [figure units]
_WIDTHS = {_X_LOSS: 2.2, _X_MODULE: 2.6, _X_OPTIMIZER: 2.2}
_BOX_HEIGHT, _ROW = 0.62, 1.0
_LINE_WIDTHS = (1.2, 7.0)  # thinnest and thickest arrow [point]
_Point = tuple[float, float]


class _Style(NamedTuple):
    """How one kind of flow is drawn; `mark`, at its end, says it again without colour."""

    colour: str
    dashes: Any
    mark: str
    meaning: str


_BROKEN = _Style(RED, (0, (2.2, 1.4)), "X", "never used as it should be (broken line, cross)")
_UNUSED = _Style(GREY, (0, (2.2, 1.4)), "X", "not used, perhaps on purpose (cross)")
_PASSING = _Style(GREY, (0, (1, 1.2)), "", "passes through, trains nothing (dotted)")
STYLES: dict[Verdict, _Style] = {
    Verdict.DRIVEN: _Style(
        BLUE, "solid", "", "drives the module (width: log of the gradient norm)"
    ),
    Verdict.TRANSIT: _PASSING,
    Verdict.PENDING: _PASSING,
    Verdict.DISCARDED: _BROKEN,
    Verdict.ORPHAN: _BROKEN,
    Verdict.STALE: _BROKEN,
}


def draw(report: Judgement, path: str | Path, title: str = "") -> None:
    """Draw a report.

    Args:
        report: what to draw.
        path: file to write; the suffix chooses the format.
        title: heading.
    """
    # By hand instead of pyplot: no global state, no display, and any thread may draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    modules = _worth_showing(report)
    optimizers = list(report.recording.optimizers)
    rows = max(len(report.losses), len(modules), len(optimizers))
    figure = Figure(figsize=(10.5, 1.9 + 0.62 * rows), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    middle = _spread(modules, rows)
    reached = {x: [c.module for c in report.cells if c.loss.name == x] for x in report.losses}
    owned = {o: [m for m in modules if o in report.recording.module_owners(m)] for o in optimizers}
    heights = {
        _X_LOSS: _beside(reached, middle),
        _X_MODULE: middle,
        _X_OPTIMIZER: _beside(owned, middle),
    }
    _columns(axes, report, heights)
    shown = _gradients(axes, report, heights)
    _ownership(axes, report, heights)
    _legend(axes, shown)
    axes.set_title(_heading(report, title), fontsize=12, color=INK, pad=10)
    axes.set_xlim(-1.35, 11.35)
    axes.set_ylim(-rows * _ROW + 0.3, 1.15)
    axes.axis("off")
    figure.savefig(path)


def _heading(report: Judgement, title: str) -> str:
    subject = "contract" if report.contract else "general rules"
    accused = dict.fromkeys(f"{f.module} {f.verdict.value}" for f in report.broken)
    verdict = f"{subject} {'kept' if report.ok else 'broken'}"
    parts = [title, verdict, ", ".join(list(accused)[:3])]
    return ": ".join(part for part in parts if part)


def _worth_showing(report: Judgement) -> list[str]:
    """Modules with parameters, in the order of the recording."""
    return [m for m in report.recording.modules if report.recording.of_module(m)]


def _spread(names: Sequence[str], rows: int) -> dict[str, float]:
    """Heights that spread fewer boxes evenly over the rows."""
    step = rows * _ROW / max(len(names), 1)
    return {name: -(i + 0.5) * step + 0.5 * _ROW for i, name in enumerate(names)}


def _beside(links: Mapping[str, Sequence[str]], middle: Mapping[str, float]) -> dict[str, float]:
    """Heights next to what each box is linked with, so that few arrows cross; none overlap."""
    bottom = min(middle.values(), default=0.0)
    wanted = {
        name: sum(middle.get(m, bottom) for m in modules) / len(modules) if modules else bottom
        for name, modules in links.items()
    }
    heights: dict[str, float] = {}
    last = math.inf
    for name in sorted(wanted, key=lambda n: -wanted[n]):
        last = heights[name] = min(wanted[name], last - _ROW)
    # Pushing down may have left the picture: move the column up as a whole.
    excess = max(0.0, bottom - min(heights.values(), default=bottom))
    return {name: height + excess for name, height in heights.items()}


def _ports(pairs: Sequence[tuple[str, str]], end: int, other: Mapping[str, float]) -> list[float]:
    """Offsets that spread the arrows meeting at one box over its edge, in the order they come."""
    offsets = [0.0] * len(pairs)
    for box in {pair[end] for pair in pairs}:
        meeting = [i for i, pair in enumerate(pairs) if pair[end] == box]
        meeting.sort(key=lambda i: -other[pairs[i][1 - end]])
        gap = min(0.2, 0.44 / max(len(meeting) - 1, 1))
        for place, i in enumerate(meeting):
            offsets[i] = ((len(meeting) - 1) / 2 - place) * gap
    return offsets


def _columns(axes: Any, report: Judgement, heights: Mapping[float, Mapping[str, float]]) -> None:
    heads = {_X_LOSS: "losses", _X_MODULE: "modules", _X_OPTIMIZER: "optimizers"}
    for x, head in heads.items():
        axes.text(x, 0.8, head, ha="center", va="center", fontsize=10, color=INK, weight="bold")
        for name, y in heights[x].items():
            state = report.states.get(name) if x == _X_MODULE else None
            below = "" if state is None else _state_line(report, name, state)
            _box(axes, x, y, name, below)


def _state_line(report: Judgement, module: str, state: Verdict) -> str:
    moves = {by: m for (by, name), m in report.movement.items() if name == module}
    if not moves:
        return f"{state.value}, does not move"
    by, move = max(moves.items(), key=lambda item: item[1].relative)
    how = "copied" if by == OUTSIDE else "moved"
    far = f" {100 * move.relative:.1g}% a step" if math.isfinite(move.relative) else ""
    return f"{state.value}, {how}{far}"


def _box(axes: Any, x: float, y: float, name: str, below: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    width = _WIDTHS[x]
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - _BOX_HEIGHT / 2),
            width,
            _BOX_HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor="white",
            edgecolor=INK,
            linewidth=1.0,
            zorder=4,
        )
    )
    size = 9.0 if len(name) <= 20 else 9.0 * 20 / len(name)
    shift = 0.11 if below else 0.0
    axes.text(x, y + shift, name, ha="center", va="center", fontsize=size, color=INK, zorder=5)
    if below:
        axes.text(
            x, y - 0.16, below, ha="center", va="center", fontsize=6.5, color="#444", zorder=5
        )


def _gradients(
    axes: Any, report: Judgement, heights: Mapping[float, Mapping[str, float]]
) -> list[_Style]:
    largest = max((cell.norm for cell in report.cells if math.isfinite(cell.norm)), default=1.0)
    cells = [cell for cell in report.cells if cell.module in heights[_X_MODULE]]
    pairs = [(cell.loss.name, cell.module) for cell in cells]
    leave = _ports(pairs, 0, heights[_X_MODULE])
    arrive = _ports(pairs, 1, heights[_X_LOSS])
    for cell, out, into in zip(cells, leave, arrive, strict=True):
        start = (
            _X_LOSS + _WIDTHS[_X_LOSS] / 2 + 0.03,
            heights[_X_LOSS][cell.loss.name] + out,
        )
        end = (
            _X_MODULE - _WIDTHS[_X_MODULE] / 2 - 0.05,
            heights[_X_MODULE][cell.module] + into,
        )
        style = _style_of(report, cell)
        width = _line_width(cell.norm, largest)
        # Dotted arrow heads fray when they are thick, and by-products should not catch the eye.
        _gradient(axes, cell, style, min(width, 2.0) if style is _PASSING else width, start, end)
    styles = dict.fromkeys(_style_of(report, cell) for cell in cells)
    return sorted(styles, key=lambda style: style.colour != BLUE)


def _style_of(report: Judgement, cell: Cell) -> _Style:
    style = STYLES[cell.verdict]
    accused = {(finding.loss, finding.module) for finding in report.broken}
    return _UNUSED if style is _BROKEN and (cell.loss.name, cell.module) not in accused else style


def _gradient(
    axes: Any, cell: Cell, style: _Style, width: float, start: _Point, end: _Point
) -> None:
    if style.mark:
        # The arrow ends before it arrives: its gradient is never used.
        end = _along(start, end, 0.9)
        axes.plot(
            *end, marker=style.mark, markersize=13, color=style.colour, mec="white", zorder=3.5
        )
    _arrow(axes, start, end, style, width)
    text = f"{cell.norm:.2g} {cell.verdict.value}" if style.mark else f"{cell.norm:.2g}"
    # Near the module, where arrows of one loss have parted; each kind at its own distance, so
    # that labels of crossing arrows rarely meet.
    part = {BLUE: 0.72, RED: 0.6, GREY: 0.45}[style.colour]
    axes.text(
        *_along(start, end, part),
        text,
        ha="center",
        va="center",
        fontsize=8,
        color=style.colour if style.colour != GREY else "#555",
        weight="bold" if style.mark else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        zorder=3,
    )


def _along(start: _Point, end: _Point, part: float) -> _Point:
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])


def _ownership(axes: Any, report: Judgement, heights: Mapping[float, Mapping[str, float]]) -> None:
    style = _Style(INK, "solid", "", "")
    pairs = [
        (owner, module)
        for module in heights[_X_MODULE]
        for owner in report.recording.module_owners(module)
    ]
    leave = _ports(pairs, 0, heights[_X_MODULE])
    arrive = _ports(pairs, 1, heights[_X_OPTIMIZER])
    for (owner, module), out, into in zip(pairs, leave, arrive, strict=True):
        start = (
            _X_OPTIMIZER - _WIDTHS[_X_OPTIMIZER] / 2 - 0.03,
            heights[_X_OPTIMIZER][owner] + out,
        )
        end = (
            _X_MODULE + _WIDTHS[_X_MODULE] / 2 + 0.05,
            heights[_X_MODULE][module] + into,
        )
        _arrow(axes, start, end, style, 2.0 if (owner, module) in report.movement else 0.8)


def _arrow(axes: Any, start: _Point, end: _Point, style: _Style, width: float) -> None:
    from matplotlib.patches import FancyArrowPatch

    head = "-" if style.mark else f"-|>,head_length={4 + 1.3 * width},head_width={2 + 0.8 * width}"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=head,
            mutation_scale=1.0,
            linestyle=style.dashes,
            linewidth=width,
            color=style.colour,
            shrinkA=0,
            shrinkB=0,
            zorder=2 if style.colour != GREY else 1,
            capstyle="butt",
            joinstyle="miter",
        )
    )


def _line_width(norm: float, largest: float) -> float:
    """Logarithmic, since norms of different losses differ by orders of magnitude."""
    low, high = _LINE_WIDTHS
    if not math.isfinite(norm) or norm <= 0.0:
        return low
    decades = math.log10(largest / norm)
    return max(low, high - 2.2 * decades)


def _legend(axes: Any, shown: Sequence[_Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            *([0, 1], [0, 0]),
            color=s.colour,
            linestyle=s.dashes,
            linewidth=2.5,
            marker=s.mark or None,
            markevery=[1],
            label=s.meaning,
        )
        for s in shown
    ]
    handles.append(Line2D([], [], color=INK, linewidth=2.0, label="owns and steps"))
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.02),
        ncols=2,
        fontsize=7.5,
        frameon=False,
        handlelength=4.0,
    )
