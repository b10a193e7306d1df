"""Tables and figures of the success of final policies in all published studies.

    python studies/overview.py

Reads studies/results/*/results.json. Writes the table of all methods into studies/README.md with
the figure docs/overview.png, and that of the main ones into README.md with docs/results.png.
Intervals are 95 % bootstraps over seeds and episodes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from robomimic_vae_ext import markdown
from robomimic_vae_ext.study import intervals, study_figures
from robomimic_vae_ext.study.intervals import Estimate

HERE: Final = Path(__file__).parent
#: Published study to what its column's title says besides the task and the steps.
STUDIES: Final = {"reduced": "", "longer": "", "more_tasks": "", "resnet18": "ResNet18, "}
#: Methods in the figure; the table has all.
FIGURE: Final = ("vae", "critic", "joint", "bc", "bcq", "iql", "frozen")
ORDER: Final = (
    "vae", "critic", "joint", "joint_0.1", "joint_norm", "joint_surgery", "joint_hl", "critic_hl",
    "branch", "vae_orth", "critic_orth", "joint_orth", "frozen", "bc", "bcq", "iql",
)  # fmt: skip
MARKER: Final = "overview"
#: Methods and columns of README.md.
MAIN_METHODS: Final = ("joint", "vae", "critic", "bc", "bcq", "iql")
MAIN_COLUMNS: Final = (
    "play_lift, 2,000 steps", "can_paired, 4,000 steps", "stack_mixed, 4,000 steps",
    "lift_mixed, 1,000 steps",
)  # fmt: skip


def read_episodes() -> pd.DataFrame:
    """Every final episode: `column` (study's task), `method`, `seed`, `episode`, `success`."""
    rows = [
        (f"{record['task']}, {label}{record['steps']:,} steps", record["arm"], record["seed"],
         episode, int(success))
        for name, label in STUDIES.items()
        for record in read_records(HERE / "results" / name / "results.json")
        for episode, success in enumerate(record["rollouts"][-1]["success"])
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["column", "method", "seed", "episode", "success"])


def read_records(path: Path) -> list[dict[str, Any]]:
    """Results of a study, tasks in the order of its file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    tasks = list(data["manifest"]["study"]["tasks"])
    return sorted(data["records"], key=lambda record: tasks.index(record["task"]))


def estimates(episodes: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Success [%] by column and method."""
    found: dict[str, dict[str, Estimate]] = {}
    for (column, method), group in episodes.groupby(["column", "method"], sort=False):
        outcomes = group.pivot_table("success", "seed", "episode")  # (S, E)
        success = intervals.success(outcomes.to_numpy()).times(100)
        found.setdefault(column, {})[method] = success
    return found


def table(found: dict[str, dict[str, Estimate]]) -> str:
    """Methods in rows, tasks in columns."""
    rows = [[f"`{m}`", *(cell(by_method.get(m)) for by_method in found.values())] for m in ORDER]
    return markdown.table(["success [%]", *found], rows)


def main_table(found: dict[str, dict[str, Estimate]]) -> str:
    """Tasks in rows, the main methods in columns."""
    rows = [
        [column.split(",")[0], *(cell(found[column].get(m)) for m in MAIN_METHODS)]
        for column in MAIN_COLUMNS
    ]
    return markdown.table(["success [%]", *(f"`{m}`" for m in MAIN_METHODS)], rows)


def cell(estimate: Estimate | None) -> str:
    """Mean and interval."""
    if estimate is None:
        return markdown.NOTHING
    value, low, high = (f"{x:.0f}" for x in estimate if x is not None)
    return f"{value} ({low} to {high})"


def main() -> int:
    """Write the table and the figure."""
    found = estimates(read_episodes())
    missing = np.setdiff1d([m for by_method in found.values() for m in by_method], ORDER)
    assert not missing.size, f"not in ORDER: {missing}"
    docs = HERE.parent / "docs"
    styles = study_figures.arm_styles(FIGURE)  # a colour for each method, the same in both figures
    for readme, text, columns, methods, figure in (
        (HERE / "README.md", table(found), tuple(found), FIGURE, docs / "overview.png"),
        (HERE.parent / "README.md", main_table(found), MAIN_COLUMNS, MAIN_METHODS,
         docs / "results.png"),
    ):  # fmt: skip
        if not markdown.fill(readme, MARKER, text):
            print(f"{readme} has no <!-- {MARKER} -->", file=sys.stderr)
            return 2
        shown = {column.replace(", ", "\n", 1): found[column] for column in columns}
        study_figures.dot_panels(shown, {name: styles[name] for name in methods}, figure)
        print(f"written: {readme}, {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
