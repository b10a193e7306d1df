"""Markdown tables of the results, written between markers of a document.

<!-- bench_cpu.json: steps -->
(generated)
<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robomimic_vae_ext import files, markdown
from robomimic_vae_ext.benchmark import report, scaling, timing
from robomimic_vae_ext.benchmark.errors import BenchmarkError

MARKED = re.compile(r"(<!-- (\S+\.json): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Ratio to what is wanted of it on the CPU and on a GPU, as words.
GOALS = {
    "steps_vs_bcq": ("at least 5", "at least 5"),
    "steps_vs_iql": ("at least 3", "at least 3"),
    "step_over_limit": ("at most 1.2", "at most 1.5"),
    "data_wait_share": ("under 0.05", "under 0.05"),
    "rollout_2_workers": ("at least 1.8", "at least 1.8"),
    "collect_2_workers": ("at least 1.8", "at least 1.8"),
}


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and quartiles [ms]."""
    low, high = timing.quartiles(seconds)
    return f"{1e3 * timing.median(seconds):.1f} ({1e3 * low:.1f} to {1e3 * high:.1f})"


def ratios(results: dict[str, Any]) -> str:
    """Headline ratios beside their goals."""
    column = int(results["machine"]["device"] == "cuda")
    rows = []
    for name, value in results["ratios"].items():
        low, high = results["ratio_spreads"][name]
        goal = GOALS[name][column] if name in GOALS else ""
        rows.append((f"`{name}`", f"{value:.3f}", f"{low:.3f} to {high:.3f}", goal))
    return markdown.table(("ratio", "median over rounds", "quartiles", "goal"), rows)


def machine(results: dict[str, Any]) -> str:
    """Where the figures come from, in one paragraph, and when."""
    found = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    when = "; ".join(
        f"{name} {part['measured_at']} (load average before and during: "
        f"{', '.join(f'{load:.1f}' for load in part['load_average'])})"
        for name, part in results["parts"].items()
    )
    return (
        f"{found['device_name']} ({found['device']}), {found['cores']} cores, torch with "
        f"{found['threads']} threads; {versions}. Measured: {when}."
    )


def steps(results: dict[str, Any]) -> str:
    """Gradient steps of every contender, one table a setting."""
    texts = []
    for name, setting in results["parts"]["steps"]["settings"].items():
        ours = setting["step"][report.OURS]["seconds"]
        rows = []
        for contender, samples in setting["step"].items():
            middle = timing.median(samples["seconds"])
            log = setting["log"].get(contender)
            rows.append((
                f"`{contender}`",
                f"{1 / middle:.2f}",
                milliseconds(samples["seconds"]),
                milliseconds(log["seconds"]) if log else "",
                f"{timing.ratio(samples['seconds'], ours).value:.2f}",
                f"{setting['parameters'][contender] / 1e6:.1f}" if log else "",
            ))  # fmt: skip
        head = (
            "contender", "steps/s", "ms a step (quartiles)", "ms of `log_info` (quartiles)",
            f"time / `{report.OURS}`", "trainable parameters [10^6]",
        )  # fmt: skip
        texts.append(f"**{name}**, batch {setting['batch_size']}\n\n" + markdown.table(head, rows))
    return "\n\n".join(texts)


def data(results: dict[str, Any]) -> str:
    """Loading alone, memory, and the share of waiting inside training."""
    part = results["parts"]["data"]
    rows = [
        (f"`{way}`", milliseconds(samples["seconds"]),
         f"{part['memory'][way] / part['raw_image_bytes']:.2f}")
        for way, samples in part["batch"].items()
    ]  # fmt: skip
    alone = markdown.table(
        ("data", f"ms a batch of {part['batch_size']} (quartiles)", "memory / raw uint8 pictures"),
        rows,
    )
    shares = [
        (f"{setting}, `{way}`", *_shares(phases))
        for setting, ways in part["epochs"].items()
        for way, phases in ways.items()
    ]
    return alone + "\n\n" + markdown.table(("in training", *_PHASES), shares)


_PHASES = ("data", "process", "train", "log", "s an epoch")


def _shares(phases: dict[str, list[float]]) -> list[str]:
    whole = timing.median(phases["whole"])
    parts = [timing.median(phases[name]) / whole for name in _PHASES[:4]]
    return [*(f"{100 * share:.1f} %" for share in parts), f"{whole:.2f}"]


def train(results: dict[str, Any]) -> str:
    """Whole epochs of the training script."""
    part = results["parts"]["train"]
    rows = [
        (name, *_shares(phases), f"{timing.median(part['process'][name]):.1f}")
        for name, phases in part["runs"].items()
    ]
    text = (
        f"Encoder `{part['setting']}`, batch {part['batch_size']}, "
        f"{part['epoch_steps']} steps an epoch."
    )
    return text + "\n\n" + markdown.table(("run", *_PHASES, "s the whole command"), rows)


def rollouts(results: dict[str, Any]) -> str:
    """Rollouts by number of workers."""
    return _scaling(results["parts"]["rollouts"])


def collect(results: dict[str, Any]) -> str:
    """Collection by number of workers."""
    return _scaling(results["parts"]["collect"])


def _scaling(part: dict[str, Any]) -> str:
    rows = []
    frames, episodes = part["many_frames"] - part["few_frames"], part["many"] - part["few"]
    for text, times in part["workers"].items():
        running = scaling.running_seconds(part, int(text))
        rows.append((
            text,
            f"{frames / running:.1f}" if running else "lost in noise",
            f"{60 * episodes / running:.1f}" if running else "lost in noise",
            f"{timing.median(times['few_seconds']):.1f}",
            f"{timing.median(times['many_seconds']):.1f}",
        ))  # fmt: skip
    head = (
        "workers", "frames/s running", "episodes/min running",
        f"s for {part['few']} episodes", f"s for {part['many']} episodes",
    )  # fmt: skip
    same = "the same" if part["same_outcomes"] else "NOT the same"
    note = f"Outcomes of the episodes are {same} for every number of workers."
    return markdown.table(head, rows) + "\n\n" + note


TABLES = {
    "ratios": ratios,
    "machine": machine,
    "steps": steps,
    "data": data,
    "train": train,
    "rollouts": rollouts,
    "collect": collect,
}


def update(document: Path, file_name: str, results: dict[str, Any]) -> None:
    """Write the tables of one results file; those of other files and parts stay as they are.

    Args:
        document: markdown file with markers.
        file_name: of the results, as the markers name it.
        results: content of that file.

    Raises:
        BenchmarkError: a marker names a table that does not exist.
    """

    def replace(match: re.Match[str]) -> str:
        begin, name, kind, end = match.groups()
        if name != file_name:
            return match.group(0)
        if kind not in TABLES:
            raise BenchmarkError(
                f"{document} has a marker for '{kind}'",
                f"one of {', '.join(TABLES)}",
                "Correct the marker.",
            )
        if kind in report.PARTS and kind not in results["parts"]:
            return match.group(0)
        return f"{begin}\n{TABLES[kind](results)}\n\n{end}"

    text = MARKED.sub(replace, document.read_text(encoding="utf-8"))
    files.write_text(document, text)
