"""The flow as a picture: losses left, modules in the middle, optimizers right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robomimic_vae_ext.gradient_flow.contract import Verdict
from robomimic_vae_ext.gradient_flow.fates import Cell

if TYPE_CHECKING:
    from robomimic_vae_ext.gradient_flow.report import Report

# Colours that stay apart for colour-blind readers (Okabe and Ito), and by lightness in grey print.
INK, BLUE, RED, GREY = "#1a1a1a", "#0072b2", "#d55e00", "#9a9a9a"
_X_LOSS, _X_MODULE, _X_OPTIMIZER = 0.0, 5.0, 10.0  # centres of the columns [figure units]
_WIDTHS = {_X_LOSS: 2.2, _X_MODULE: 2.6, _X_OPTIMIZER: 2.2}
_BOX_HEIGHT, _ROW = 0.62, 1.0
_LINE_WIDTHS = (1.2, 7.0)  # thinnest and thickest arrow [point]


class _Style(NamedTuple):
    """How one kind of flow is drawn; `mark` says it again without colour."""

    colour: str
    dashes: Any
    mark: str
    meaning: str


_BROKEN = _Style(RED, (0, (2.2, 1.4)), "✕", "thrown away, left over or unowned (broken, crossed)")
STYLES: dict[Verdict, _Style] = {
    Verdict.DRIVEN: _Style(BLUE, "solid", "", "drives the module (width: gradient norm)"),
    Verdict.TRANSIT: _Style(GREY, (0, (1, 1.2)), "", "passes through, trains nothing (dotted)"),
    Verdict.PENDING: _Style(GREY, (0, (1, 1.2)), "", "passes through, trains nothing (dotted)"),
    Verdict.DISCARDED: _BROKEN,
    Verdict.ORPHAN: _BROKEN,
    Verdict.STALE: _BROKEN,
}


def draw(report: Report, path: str | Path, title: str = "") -> None:
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
    heights = {
        _X_LOSS: _spread(report.losses, rows),
        _X_MODULE: _spread(modules, rows),
        _X_OPTIMIZER: _spread(optimizers, rows),
    }
    _columns(axes, report, heights)
    shown = _gradients(axes, report, heights)
    _ownership(axes, report, heights)
    _legend(axes, shown)
    verdict = "contract kept" if report.ok else f"BROKEN: {len(report.broken)} finding(s)"
    axes.set_title(f"{title}: {verdict}" if title else verdict, fontsize=12, color=INK, pad=10)
    axes.set_xlim(-1.35, 11.35)
    axes.set_ylim(-rows * _ROW + 0.3, 1.15)
    axes.axis("off")
    figure.savefig(path)


def _worth_showing(report: Report) -> list[str]:
    """Modules with parameters, in the order of the recording."""
    return [m for m in report.recording.modules if report.recording.of_module(m)]


def _spread(names: Sequence[str], rows: int) -> dict[str, float]:
    """Heights that spread fewer boxes evenly over the rows."""
    step = rows * _ROW / max(len(names), 1)
    return {name: -(i + 0.5) * step + 0.5 * _ROW for i, name in enumerate(names)}


def _columns(axes: Any, report: Report, heights: Mapping[float, Mapping[str, float]]) -> None:
    heads = {_X_LOSS: "losses", _X_MODULE: "modules", _X_OPTIMIZER: "optimizers"}
    for x, head in heads.items():
        axes.text(x, 0.8, head, ha="center", va="center", fontsize=10, color=INK, weight="bold")
        for name, y in heights[x].items():
            state = report.states.get(name) if x == _X_MODULE else None
            below = "" if state is None else _state_line(report, name, state)
            _box(axes, x, y, name, below)


def _state_line(report: Report, module: str, state: Verdict) -> str:
    relative = [m.relative for (_, name), m in report.movement.items() if name == module]
    if not relative:
        return f"{state.value}, stands still"
    largest = max(relative)
    return f"{state.value}, moved {largest:.1%}" if math.isfinite(largest) else state.value


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
    axes: Any, report: Report, heights: Mapping[float, Mapping[str, float]]
) -> list[_Style]:
    largest = max((cell.norm for cell in report.cells if math.isfinite(cell.norm)), default=1.0)
    shown: list[_Style] = []
    for cell in report.cells:
        if cell.module not in heights[_X_MODULE]:
            continue
        style = STYLES[cell.verdict]
        _gradient(axes, cell, style, _line_width(cell.norm, largest), heights)
        if style not in shown:
            shown.append(style)
    return sorted(shown, key=lambda style: style.colour != BLUE)


def _gradient(
    axes: Any,
    cell: Cell,
    style: _Style,
    width: float,
    heights: Mapping[float, Mapping[str, float]],
) -> None:
    start = (_X_LOSS + _WIDTHS[_X_LOSS] / 2 + 0.03, heights[_X_LOSS][cell.loss.name])
    end = (_X_MODULE - _WIDTHS[_X_MODULE] / 2 - 0.05, heights[_X_MODULE][cell.module])
    _arrow(axes, start, end, style, width)
    # Labels near the loss end, where arrows of one loss have already parted.
    along = 0.62
    x, y = (s + along * (e - s) for s, e in zip(start, end, strict=True))
    text = (
        f"{cell.norm:.2g}"
        if cell.verdict is Verdict.DRIVEN
        else f"{cell.norm:.2g} {cell.verdict.value}"
    )
    axes.text(
        x,
        y,
        f"{style.mark} {text}".strip(),
        ha="center",
        va="center",
        fontsize=7.5,
        color=style.colour if style.colour != GREY else "#555",
        weight="bold" if style.mark else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        zorder=3,
    )


def _ownership(axes: Any, report: Report, heights: Mapping[float, Mapping[str, float]]) -> None:
    style = _Style(INK, "solid", "", "")
    for module, y in heights[_X_MODULE].items():
        owners = report.recording.module_owners(module)
        for owner in owners:
            start = (_X_OPTIMIZER - _WIDTHS[_X_OPTIMIZER] / 2 - 0.03, heights[_X_OPTIMIZER][owner])
            end = (_X_MODULE + _WIDTHS[_X_MODULE] / 2 + 0.05, y)
            moved = report.movement.get((owner, module))
            _arrow(axes, start, end, style, 2.0 if moved else 0.8)
        outside = report.movement.get(("(outside)", module))
        if not owners and outside:
            x = _X_MODULE + _WIDTHS[_X_MODULE] / 2 + 0.15
            axes.text(
                x, y, f"written outside optimizers, x{outside.times}", va="center", fontsize=7
            )


def _arrow(
    axes: Any, start: tuple[float, ...], end: tuple[float, ...], style: _Style, width: float
) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=f"-|>,head_length={4 + width},head_width={2.2 + 0.6 * width}",
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
        Line2D([], [], color=s.colour, linestyle=s.dashes, linewidth=2.5, label=s.meaning)
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
