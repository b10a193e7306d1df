"""Bar chart of the results. Knows matplotlib and the results, never torch's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
import numpy as np

from robomimic_vae_ext.analysis.curve_figures import COLOURS
from robomimic_vae_ext.benchmark import scaling, steps, timing

OURS, THEIRS, LIMIT = COLOURS[0], COLOURS[1], "0.55"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one panel for each thing that was measured.

    Args:
        results: content of the JSON file, with at least one part.
        path: PNG or PDF file.
    """
    parts = results["parts"]
    panels: list[Any] = []
    for name, setting in parts.get("steps", {}).get("settings", {}).items():
        panels.append(lambda axis, s=setting, n=name: _steps(axis, n, s))
    if "data" in parts:
        panels.append(lambda axis: _loading(axis, parts["data"]))
    if "train" in parts:
        panels.append(lambda axis: _epochs(axis, parts["train"]))
    for part, title in (("rollouts", "rollouts"), ("collect", "collection")):
        if part in parts:
            panels.append(lambda axis, p=parts[part], t=title: _scaling(axis, p, t))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(5 * columns, 3.6 * lines), layout="constrained", squeeze=False
    )
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(grid.flat, panels, strict=False):
        panel(axis)
    warning = "miniature, the figures mean nothing; " if results["fast"] else ""
    figure.suptitle(f"{warning}{results['machine']['device_name']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(
    axis: Any, names: Sequence[str], samples: Sequence[Sequence[float]], colours: Sequence[str]
) -> None:
    """Horizontal bars of medians with their quartiles, the first name on top."""
    middle = [timing.median(values) for values in samples]
    spans = [timing.quartiles(values) for values in samples]
    below = [max(0.0, m - low) for m, (low, _) in zip(middle, spans, strict=True)]
    above = [max(0.0, high - m) for m, (_, high) in zip(middle, spans, strict=True)]
    axis.barh(names, middle, xerr=[below, above], color=colours, ecolor="0.2", capsize=2)
    axis.bar_label(axis.containers[-1], labels=[f" {value:.3g}" for value in middle], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.grid(True, axis="x", alpha=0.3)


def _steps(axis: Any, name: str, setting: dict[str, Any]) -> None:
    names = list(setting["step"])
    rates = [[1 / seconds for seconds in setting["step"][n]["seconds"]] for n in names]
    colours = [
        LIMIT if n == steps.LIMIT else OURS if n.startswith("lapo_") else THEIRS for n in names
    ]
    _bars(axis, names, rates, colours)
    axis.set(title=f"{name}, batch {setting['batch_size']}", xlabel="gradient steps per second")


def _loading(axis: Any, part: dict[str, Any]) -> None:
    names = list(part["batch"])
    samples = [[1e3 * s for s in part["batch"][n]["seconds"]] for n in names]
    _bars(axis, names, samples, [OURS if n.startswith("replay") else THEIRS for n in names])
    axis.set(title="data", xlabel=f"ms for a batch of {part['batch_size']}")


def _epochs(axis: Any, part: dict[str, Any]) -> None:
    """Stacked: where the time of an epoch goes."""
    names = list(part["runs"])
    left = np.zeros(len(names))
    for phase, colour in zip(("data", "process", "train", "log"), COLOURS, strict=False):
        seconds = np.array([timing.median(part["runs"][name][phase]) for name in names])
        axis.barh(names, seconds, left=left, color=colour, label=phase)
        left += seconds
    axis.invert_yaxis()
    axis.legend(fontsize=8, frameon=False)
    axis.grid(True, axis="x", alpha=0.3)
    axis.set(title="epochs of train.py", xlabel=f"seconds for {part['epoch_steps']} steps")


def _scaling(axis: Any, part: dict[str, Any], title: str) -> None:
    frames = part["many_frames"] - part["few_frames"]
    axis.set(title=title, xlabel="frames per second, running")
    names: list[str] = []
    rates: list[list[float]] = []
    for workers in part["workers"]:
        seconds = scaling.running_seconds(part, int(workers))
        if seconds is not None:
            names.append(f"{workers} worker" + ("s" if workers != "1" else ""))
            rates.append([frames / seconds])
    if not names:
        axis.text(0.5, 0.5, "lost in noise", transform=axis.transAxes, ha="center", color="0.4")
        return
    _bars(axis, names, rates, [OURS] * len(names))
