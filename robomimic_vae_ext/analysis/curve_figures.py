"""Figures of training runs. Imports matplotlib and our metrics, never torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from robomimic_vae_ext.analysis.run_metrics import Series, critic_loss, success_rate

# The colours of Okabe and Ito, which colour-blind readers can distinguish.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

PANELS: Final = (
    ("critic/loss", "critic loss (squared TD error)", "log"),
    ("vae/action_error", "CVAE action error (mean |a - â|)", "linear"),
    ("critic/q_mean", "mean Q of dataset actions", "linear"),
    ("grad_norm/obs_encoder", "gradient norm in the encoder", "log"),
    ("actor/z_abs", "latent actor: mean |z|", "linear"),
)


def training_curves(runs: Mapping[str, Mapping[str, Series]], path: Path) -> None:
    """Draw training (solid) and held-out (dashed) curves of one or more runs.

    Args:
        runs: label to metrics, from `run_metrics.read_run`.
        path: PNG or PDF file.
    """
    figure, grid = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    axes = list(grid.flat)
    for axis, (tag, title, scale) in zip(axes, PANELS, strict=False):
        drawn = False
        for (label, series), colour in zip(runs.items(), _cycle(len(runs)), strict=True):
            own = critic_loss(dict(series)) if tag == "critic/loss" else None  # BCQ: another name
            train, held_out = (series.get(f"{part}/{own or tag}") for part in ("Train", "Valid"))
            drawn |= _curve(axis, train, colour, "-", f"{label}, training")
            drawn |= _curve(axis, held_out, colour, "--", f"{label}, held out")
        axis.set(title=title, xlabel="epoch", yscale=scale if drawn else "linear")
        _finish(axis, drawn)
    axis = axes[-1]
    drawn = False
    for (label, series), colour in zip(runs.items(), _cycle(len(runs)), strict=True):
        drawn |= _curve(axis, success_rate(dict(series)), colour, "-", label)
    axis.set(title="success rate in training rollouts", xlabel="epoch", ylim=(-0.03, 1.03))
    axis.set_xlim(axes[0].get_xlim())  # rollouts are rarer than epochs
    _finish(axis, drawn)
    shown = _of_all(axes[:-1])
    for label, handle in _of_all(axes[-1:]).items():  # of an algorithm that has nothing else here
        if f"{label}, training" not in shown:
            shown[label] = handle
    labels = [plain_label(label) for label in shown]
    figure.legend(shown.values(), labels, loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


def two_run_curves(
    runs: Mapping[str, Mapping[str, Series]], losses: Mapping[str, str], path: Path
) -> None:
    """Draw losses and success of two runs over each other.

    Args:
        runs: label to metrics, from `run_metrics.read_run`.
        losses: label to the name of its loss, without `Train/` and `Valid/`.
        path: PNG or PDF file.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    titles = ("training loss", "held-out loss", "success rate in training rollouts")
    for axis, title, part in zip(axes, titles, ("Train", "Valid", ""), strict=True):
        shown = [
            series.get(f"{part}/{losses[label]}") if part else success_rate(dict(series))
            for label, series in runs.items()
        ]
        drawn = [
            _curve(axis, series, colour, style, label)
            for label, series, colour, style in zip(
                runs, shown, _cycle(len(runs)), ("-", "--"), strict=True
            )
        ]
        positive = all(min(series.values) > 0 for series in shown if series is not None)
        logarithmic = part and any(drawn) and positive
        axis.set(title=title, xlabel="epoch", yscale="log" if logarithmic else "linear")
        if not part:
            axis.set(ylim=(-0.03, 1.03), xlim=axes[0].get_xlim())  # rollouts are rarer than epochs
        _finish(axis, any(drawn))
    handles, labels = axes[0].get_legend_handles_labels()
    labels = [plain_label(f"{label} ({losses[label]})") for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def save(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a figure, which appears when it is complete, and close it.

    Args:
        figure: of matplotlib.
        path: PNG, PDF or SVG file; its folder is made.
        dpi: dots per inch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    figure.savefig(partial, dpi=dpi)
    os.replace(partial, path)
    plt.close(figure)


def _of_all(axes: Sequence[Any]) -> dict[str, Any]:
    """Label to handle of the legend, over several panels."""
    pairs = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes]
    return {label: handle for pair in pairs for handle, label in pair}


def plain_label(label: str) -> str:
    """A label without formulas: a run may be named after a shell variable."""
    return label.replace("$", r"\$")


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _curve(axis: Any, series: Series | None, colour: str, style: str, label: str) -> bool:
    if series is None:
        return False
    axis.plot(
        series.epochs, series.values, style, color=colour, label=label, marker="o", markersize=3
    )
    return True


def _finish(axis: Any, drawn: bool) -> None:
    axis.grid(True, alpha=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not drawn:
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color="0.4")
