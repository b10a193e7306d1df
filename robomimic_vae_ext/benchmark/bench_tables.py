"""Tables of the results, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robomimic_vae_ext import markdown
from robomimic_vae_ext.benchmark import bench_results, timing

_PHASES = ("data", "process", "train", "log", "s an epoch")
_NOISE = "lost in noise"


@dataclass(frozen=True)
class Table:
    """One table of a part.

    Args:
        head: column names; the first column has names, the others numbers.
        rows: cells.
        before: a line above the table.
        after: a line below it.
    """

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    before: str = ""
    after: str = ""

    def markdown(self) -> str:
        """The table in markdown."""
        texts = (self.before, markdown.table(self.head, self.rows), self.after)
        return "\n\n".join(text for text in texts if text)

    def text(self) -> str:
        """The table with aligned columns."""
        cells = [[cell.replace("`", "") for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in cells
        ]
        before = self.before.replace("`", "").replace("**", "")
        return "\n".join(text for text in (before, *lines, self.after) if text)


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and quartiles [ms]."""
    low, high = timing.quartiles(seconds)
    return f"{1e3 * timing.median(seconds):.1f} ({1e3 * low:.1f} to {1e3 * high:.1f})"


def tables(results: dict[str, Any], part: str) -> list[Table]:
    """Tables of a measured part.

    Args:
        results: content of the JSON file.
        part: one of `bench_results.PARTS`, or `ratios`.
    """
    if part == "ratios":
        return [_ratios(results)]
    values = results["parts"][part]
    if part == "steps":
        return [_steps(name, setting) for name, setting in values["settings"].items()]
    if part == "data":
        return _data(values)
    return [_train(values) if part == "train" else _scaling(values)]


def summary(results: dict[str, Any]) -> str:
    """Everything that was measured, as text for the terminal."""
    found = results["machine"]
    title = f"{found['device_name']}, {found['threads']} threads"
    if results["fast"]:
        title += "; a miniature: the numbers mean nothing"
    parts = [part for part in bench_results.PARTS if part in results["parts"]]
    texts = []
    for part in (*parts, "ratios"):
        texts += [f"{part}\n{table.text()}" for table in tables(results, part) if table.rows]
    return "\n\n".join([title, *texts])


def _ratios(results: dict[str, Any]) -> Table:
    rows = []
    for name, value in results["ratios"].items():
        low, high = results["ratio_spreads"][name]
        rows.append((f"`{name}`", f"{value:.3f}", f"{low:.3f} to {high:.3f}"))
    return Table(("ratio", "median over rounds", "quartiles"), rows)


def _steps(name: str, setting: dict[str, Any]) -> Table:
    ours = setting["step"][bench_results.OURS]["seconds"]
    rows = []
    for contender, samples in setting["step"].items():
        seconds, log = samples["seconds"], setting["log"].get(contender)
        rows.append((
            f"`{contender}`",
            f"{1 / timing.median(seconds):.2f}",
            milliseconds(seconds),
            milliseconds(log["seconds"]) if log else "",
            f"{timing.ratio(seconds, ours).value:.2f}",
            f"{setting['parameters'][contender] / 1e6:.1f}" if log else "",
        ))  # fmt: skip
    head = (
        "contender", "steps/s", "ms a step (quartiles)", "ms of `log_info` (quartiles)",
        f"time / `{bench_results.OURS}`", "trainable parameters [10^6]",
    )  # fmt: skip
    return Table(head, rows, before=f"**{name}**, batch {setting['batch_size']}")


def _data(part: dict[str, Any]) -> list[Table]:
    """Loading alone with its memory, and the phases of epochs."""
    alone = [
        (f"`{way}`", milliseconds(samples["seconds"]),
         f"{part['memory'][way] / part['raw_image_bytes']:.2f}")
        for way, samples in part["batch"].items()
    ]  # fmt: skip
    batch = f"ms a batch of {part['batch_size']} (quartiles)"
    epochs = [
        (f"{setting}, `{way}`", *_shares(phases))
        for setting, ways in part["epochs"].items()
        for way, phases in ways.items()
    ]
    return [
        Table(("data", batch, "memory / raw uint8 pictures"), alone),
        Table(("in training", *_PHASES), epochs),
    ]


def _shares(phases: dict[str, list[float]]) -> tuple[str, ...]:
    whole = timing.median(phases["whole"])
    parts = [timing.median(phases[name]) / whole for name in _PHASES[:4]]
    return (*(f"{100 * share:.1f} %" for share in parts), f"{whole:.2f}")


def _train(part: dict[str, Any]) -> Table:
    rows = [
        (name, *_shares(phases), f"{timing.median(part['process'][name]):.1f}")
        for name, phases in part["runs"].items()
    ]
    before = (
        f"Encoder `{part['setting']}`, batch {part['batch_size']}, "
        f"{part['epoch_steps']} steps an epoch."
    )
    return Table(("run", *_PHASES, "s the whole command"), rows, before)


def _scaling(part: dict[str, Any]) -> Table:
    rows = []
    frames, episodes = part["many_frames"] - part["few_frames"], part["many"] - part["few"]
    for count, times in part["workers"].items():
        running = bench_results.running_seconds(part, int(count))
        rows.append((
            count,
            f"{frames / running:.1f}" if running else _NOISE,
            f"{60 * episodes / running:.1f}" if running else _NOISE,
            f"{timing.median(times['few_seconds']):.1f}",
            f"{timing.median(times['many_seconds']):.1f}",
        ))  # fmt: skip
    head = (
        "workers", "frames/s running", "episodes/min running",
        f"s for {part['few']} episodes", f"s for {part['many']} episodes",
    )  # fmt: skip
    same = "the same" if part["same_outcomes"] else "NOT the same"
    return Table(
        head, rows, after=f"Outcomes of the episodes are {same} for every number of workers."
    )
