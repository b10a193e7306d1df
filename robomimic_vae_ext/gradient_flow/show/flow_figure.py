"""The flow as a figure: losses left, modules in the middle, optimizers right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robomimic_vae_ext.gradient_flow.judge.classified import Cell
from robomimic_vae_ext.gradient_flow.judge.findings import Verdict
from robomimic_vae_ext.gradient_flow.judge.judgement import OUTSIDE, Judgement

# Colours that stay apart for colour-blind readers (Okabe and Ito), and by lightness in grey print.
INK, BLUE, RED, GREY = "#1a1a1a", "#0072b2", "#d55e00", "#9a9a9a"
_X_LOSS, _X_MODULE, _X_OPTIMIZER = 0.0, 5.0, 10.0  # centres of the columns [figure units]
_WIDTHS = {_X_LOSS: 2.2, _X_MODULE: 2.6, _X_OPTIMIZER: 2.2}
_BOX_HEIGHT, _ROW = 0.62, 1.0
_LINE_WIDTHS = (1.2, 7.0)  # thinnest and thickest arrow [point]
_Heights = Mapping[float, Mapping[str, float]]  # column -> name -> height of its box
_Point = tuple[float, float]


class _Style(NamedTuple):
    """How one kind of flow is drawn; `mark`, at its end, says it again without colour."""

    colour: str
    dashes: Any
    mark: str
    meaning: str


_DRIVING = _Style(BLUE, "solid", "", "drives the module (width: log of the gradient norm)")
_BROKEN = _Style(RED, (0, (2.2, 1.4)), "X", "never used as it should be (broken line, cross)")
_UNUSED = _Style(GREY, (0, (2.2, 1.4)), "X", "not used, perhaps on purpose (cross)")
_PASSING = _Style(GREY, (0, (1, 1.2)), "", "passes through, trains nothing (dotted)")
_OWNING = _Style(INK, "solid", "", "owns and steps")
STYLES: dict[Verdict, _Style] = {
    Verdict.DRIVEN: _DRIVING,
    Verdict.TRANSIT: _PASSING,
    Verdict.PENDING: _PASSING,
    Verdict.DISCARDED: _BROKEN,
    Verdict.ORPHAN: _BROKEN,
    Verdict.STALE: _BROKEN,
}


def draw(judgement: Judgement, path: str | Path, title: str = "") -> None:
    """Draw a judgement.

    Args:
        judgement: what to draw.
        path: file to write; the suffix chooses the format.
        title: heading.
    """
    # Without pyplot: no global state, no display, and any thread may draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    recording = judgement.recording
    modules = [m for m in recording.modules if recording.of_module(m)]
    rows = max(len(judgement.losses), len(modules), len(recording.optimizers))
    figure = Figure(figsize=(10.5, 1.9 + 0.62 * rows), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    gap = rows * _ROW / max(len(modules), 1)
    middle = {name: -(i + 0.5) * gap + 0.5 * _ROW for i, name in enumerate(modules)}
    reached = {x: [c.module for c in judgement.cells if c.loss.name == x] for x in judgement.losses}
    owned = {
        o: [m for m in modules if o in recording.module_owners(m)] for o in recording.optimizers
    }
    heights = {
        _X_LOSS: _beside(reached, middle),
        _X_MODULE: middle,
        _X_OPTIMIZER: _beside(owned, middle),
    }
    _draw_columns(axes, judgement, heights)
    shown = _draw_gradients(axes, judgement, heights)
    _draw_ownership(axes, judgement, heights)
    _draw_legend(axes, shown)
    axes.set_title(_heading(judgement, title), fontsize=12, color=INK, pad=10)
    axes.set_xlim(-1.35, 11.35)
    axes.set_ylim(-rows * _ROW + 0.3, 1.15)
    axes.axis("off")
    figure.savefig(path)


def _heading(judgement: Judgement, title: str) -> str:
    subject = "contract" if judgement.contract else "general rules"
    accused = dict.fromkeys(f"{f.module} {f.verdict.value}" for f in judgement.broken)
    verdict = f"{subject} {'kept' if judgement.ok else 'broken'}"
    return ": ".join(part for part in (title, verdict, ", ".join(list(accused)[:3])) if part)


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
    # Pushing down may have left the figure: move the column up as a whole.
    excess = max(0.0, bottom - min(heights.values(), default=bottom))
    return {name: height + excess for name, height in heights.items()}


def _draw_columns(axes: Any, judgement: Judgement, heights: _Heights) -> None:
    for x, head in ((_X_LOSS, "losses"), (_X_MODULE, "modules"), (_X_OPTIMIZER, "optimizers")):
        _text(axes, (x, 0.8), head, 10.0, INK, weight="bold")
        for name, y in heights[x].items():
            _draw_box(axes, x, y, name, _state_line(judgement, name) if x == _X_MODULE else "")


def _state_line(judgement: Judgement, module: str) -> str:
    state = judgement.states[module].value
    moves = {by: m for (by, name), m in judgement.movement.items() if name == module}
    if not moves:
        return f"{state}, does not move"
    by, move = max(moves.items(), key=lambda item: item[1].relative)
    far = f" {100 * move.relative:.1g}% a step" if math.isfinite(move.relative) else ""
    return f"{state}, {'copied' if by == OUTSIDE else 'moved'}{far}"


def _draw_box(axes: Any, x: float, y: float, name: str, below: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = _WIDTHS[x], _BOX_HEIGHT
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, style, fc="white", ec=INK, lw=1.0, zorder=4)
    )
    size = 9.0 * min(1.0, 20 / len(name))
    _text(axes, (x, y + (0.11 if below else 0.0)), name, size, INK, zorder=5)
    if below:
        _text(axes, (x, y - 0.16), below, 6.5, "#444", zorder=5)


def _draw_gradients(axes: Any, judgement: Judgement, heights: _Heights) -> list[_Style]:
    cells = [cell for cell in judgement.cells if cell.module in heights[_X_MODULE]]
    largest = max((cell.norm for cell in cells if math.isfinite(cell.norm)), default=1.0)
    ends = _ends([(c.loss.name, c.module) for c in cells], _X_LOSS, heights)
    accused = {(finding.loss, finding.module) for finding in judgement.broken}
    styles = []
    for cell, (start, end) in zip(cells, ends, strict=True):
        style = STYLES[cell.verdict]
        if style is _BROKEN and (cell.loss.name, cell.module) not in accused:
            style = _UNUSED
        styles.append(style)
        width = _line_width(cell.norm, largest)
        # Dotted arrow heads fray when they are thick, and by-products should not catch the eye.
        _draw_gradient(
            axes, cell, style, min(width, 2.0) if style is _PASSING else width, start, end
        )
    return sorted(dict.fromkeys(styles), key=lambda style: style.colour != BLUE)


def _draw_gradient(
    axes: Any, cell: Cell, style: _Style, width: float, start: _Point, end: _Point
) -> None:
    text = f"{cell.norm:.2g}"
    if style.mark:  # the arrow ends before it arrives: its gradient is never used
        end = _along(start, end, 0.9)
        axes.plot(*end, style.mark, markersize=13, color=style.colour, mec="white", zorder=3.5)
        text += f" {cell.verdict.value}"
    _draw_arrow(axes, start, end, style, width)
    # Near the module, where arrows of one loss have parted; each kind at its own distance, so
    # that labels of crossing arrows rarely meet.
    part = {BLUE: 0.72, RED: 0.6, GREY: 0.45}[style.colour]
    _text(
        axes,
        _along(start, end, part),
        text,
        8.0,
        style.colour if style.colour != GREY else "#555",
        weight="bold" if style.mark else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        zorder=3,
    )


def _draw_ownership(axes: Any, judgement: Judgement, heights: _Heights) -> None:
    pairs = [
        (owner, module)
        for module in heights[_X_MODULE]
        for owner in judgement.recording.module_owners(module)
    ]
    for pair, (start, end) in zip(pairs, _ends(pairs, _X_OPTIMIZER, heights), strict=True):
        _draw_arrow(axes, start, end, _OWNING, 2.0 if pair in judgement.movement else 0.8)


def _ends(
    pairs: Sequence[tuple[str, str]], column: float, heights: _Heights
) -> list[tuple[_Point, _Point]]:
    """Start and end of an arrow for each (name in the column, module)."""
    side = 1.0 if column < _X_MODULE else -1.0
    x_start = column + side * (_WIDTHS[column] / 2 + 0.03)
    x_end = _X_MODULE - side * (_WIDTHS[_X_MODULE] / 2 + 0.05)
    leave = _ports(pairs, 0, heights[_X_MODULE])
    arrive = _ports(pairs, 1, heights[column])
    return [
        ((x_start, heights[column][name] + out), (x_end, heights[_X_MODULE][module] + into))
        for (name, module), out, into in zip(pairs, leave, arrive, strict=True)
    ]


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


def _draw_arrow(axes: Any, start: _Point, end: _Point, style: _Style, width: float) -> None:
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


def _text(axes: Any, at: _Point, text: str, size: float, colour: str, **settings: Any) -> None:
    axes.text(*at, text, ha="center", va="center", fontsize=size, color=colour, **settings)


def _along(start: _Point, end: _Point, part: float) -> _Point:
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])


def _line_width(norm: float, largest: float) -> float:
    """Logarithmic, since norms of different losses differ by orders of magnitude."""
    low, high = _LINE_WIDTHS
    if not math.isfinite(norm) or norm <= 0.0:
        return low
    return max(low, high - 2.2 * math.log10(largest / norm))


def _draw_legend(axes: Any, shown: Sequence[_Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([0, 1], [0, 0], c=s.colour, ls=s.dashes, lw=2.5, marker=s.mark or None,
               markevery=[1], label=s.meaning)
        for s in (*shown, _OWNING)
    ]  # fmt: skip
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.02),
        ncols=2,
        fontsize=7.5,
        frameon=False,
        handlelength=4.0,
    )
