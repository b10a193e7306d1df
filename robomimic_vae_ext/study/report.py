"""Results of a study: results.json, the table results.csv, report.md, and figures.

Everything is made from the `result.json` of the finished jobs, and can be made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from robomimic_vae_ext import files, markdown
from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import intervals
from robomimic_vae_ext.study.intervals import Estimate
from robomimic_vae_ext.study.job import RESULT, Job
from robomimic_vae_ext.study.study_file import Study

Record = Mapping[str, Any]
#: Measures of a rolled out checkpoint and of the final policy with z = 0, in results.csv.
ROLLOUT: Final = (
    "episodes", "failures", "mean_length", "value_error", "q_start", "return_start",
)  # fmt: skip
#: Heading of the tables to the measure in results.csv.
ERRORS: Final = {"held-out Q error": "critic_error", "Q error in own rollouts": "value_error"}
METHOD: Final = """\
Values are those of the last checkpoint, means over training seeds; in brackets 95 % intervals by
bootstrap over seeds (for success over seeds and episodes), which are too narrow when seeds are few,
and are left out below {seeds} seeds. A ratio is that of both means, over the seeds that both arms
have; p is of a paired t test over seeds, not corrected for the number of tests. Q error: mean of
(Q(s, a) - discounted return)²."""


def read_result(path: Path) -> dict[str, Any]:
    """Read the `result.json` of a finished job.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            "the result of a job of this study",
            "Delete the file and run the study again: only that job's last stage is repeated.",
        ) from error


def records(every: Sequence[Job], out: Path) -> list[Record]:
    """Results of the finished jobs, without their configs, in the order of the jobs.

    Raises:
        DatasetError: a result is damaged.
        ConfigError: a result was made with other settings.
    """
    found: list[Record] = []
    for job in every:
        path = out / job.name / RESULT
        if not path.exists():
            continue
        result = read_result(path)
        if result["settings"] != job.settings:
            raise ConfigError(
                f"{path} was made with other settings",
                "those of the study file and of today's defaults, since results of both cannot be "
                "pooled",
                "Choose another --out, or remove that job's folder.",
            )
        found.append({key: value for key, value in result.items() if key != "config"})
    return found


def long_table(found: Sequence[Record]) -> pd.DataFrame:
    """One row for each task, arm, seed, checkpoint step, metric and value.

    What an algorithm does not have is left out; an error that became NaN is infinite.
    """
    rows = [
        (record["task"], record["arm"], record["seed"], step, metric, value)
        for record in found
        for step, metric, value in _metrics(record)
        if value is not None
    ]
    table = pd.DataFrame(rows, columns=["task", "arm", "seed", "step", "metric", "value"])
    errors = table["metric"].isin(ERRORS.values())
    table.loc[errors, "value"] = table.loc[errors, "value"].fillna(np.inf)
    return table.dropna(subset="value").reset_index(drop=True)


def _metrics(record: Record) -> Iterator[tuple[int, str, float | None]]:
    last = record["steps"]
    for point in record["curve"]:
        yield from ((point["step"], name, x) for name, x in point.items() if name != "step")
    for rollout in record["rollouts"]:
        yield rollout["step"], "success", float(np.mean(rollout["success"]))
        yield from ((rollout["step"], name, rollout[name]) for name in ROLLOUT)
    if zero := record.get("zero_latent"):
        yield last, "success_zero_latent", float(np.mean(zero["success"]))
        yield from ((last, f"latent_{name}", x) for name, x in zero.items() if name != "success")
    yield last, "action_error", record["action_error"]
    yield from ((last, f"seconds_{name}", x) for name, x in record["seconds"].items())


# ---- the report ----


class Summary:
    """Measures of final policies by task, arm and seed.

    Args:
        found: from `records`.
    """

    def __init__(self, found: Sequence[Record]) -> None:
        self.records = {(r["task"], r["arm"], r["seed"]): r for r in found}
        self.table = long_table(found)
        last = self.table.groupby(["task", "arm", "seed"])["step"].transform("max")
        final = self.table[self.table["step"] == last]
        self.final = final.pivot_table(index=["task", "arm", "seed"], columns="metric",
                                       values="value")  # fmt: skip

    def values(self, task: str, arm: str, metric: str) -> pd.Series:
        """A metric of the last checkpoint by seed; empty where the algorithm has none."""
        if metric not in self.final or (task, arm) not in self.final.index.droplevel("seed"):
            return pd.Series(dtype=float)
        return self.final[metric].loc[(task, arm)].dropna()

    def outcomes(
        self, task: str, arms: Sequence[str], seeds: Sequence[int], step: int | None = None
    ) -> list[np.ndarray]:
        """Success (S, E) of each arm, cut to the episodes that all of them have played.

        Args:
            task: name.
            arms: names.
            seeds: that all of the arms have.
            step: of a rolled out checkpoint; None: the last one.
        """
        lists = [
            [
                next(r["success"] for r in reversed(self.records[task, arm, seed]["rollouts"])
                     if step is None or r["step"] == step)
                for seed in seeds
            ]
            for arm in arms
        ]  # fmt: skip
        episodes = min(len(row) for rows in lists for row in rows)
        return [np.array([row[:episodes] for row in rows], dtype=float) for rows in lists]

    def success(self, task: str, arm: str) -> Estimate | None:
        """Final success of an arm [%]; None without a finished job."""
        seeds = list(self.values(task, arm, "success").index)
        if not seeds:
            return None
        return intervals.success(*self.outcomes(task, [arm], seeds)).times(100)

    def ratio(
        self, task: str, arm: str, reference: str, metric: str
    ) -> tuple[Estimate | None, float | None]:
        """Ratio of two arms and the p value of their difference, over the seeds of both."""
        a, b = (self.values(task, name, metric) for name in (arm, reference))
        seeds = list(a.index.intersection(b.index))
        if not seeds:
            return None, None
        pair = a.loc[seeds].tolist(), b.loc[seeds].tolist()
        if metric == "success":
            estimate = intervals.success_ratio(*self.outcomes(task, [arm, reference], seeds))
        else:
            estimate = intervals.ratio(*pair)
        return estimate, intervals.p_value(*pair)


def text_of(estimate: Estimate | None, digits: int = 3) -> str:
    """A value and, in brackets, its interval."""
    if estimate is None:
        return markdown.NOTHING
    value, low, high = (markdown.number(x, digits) for x in estimate)
    return value if estimate.low is None else f"{value} ({low} to {high})"


def final_table(study: Study, summary: Summary, task: str) -> pd.DataFrame:
    """Final success and Q errors of every arm of a task."""
    rows = []
    for arm in (arm.name for arm in study.arms):
        row = {
            "arm": f"`{arm}`",
            "seeds": str(len(summary.values(task, arm, "success"))),
            "success [%]": text_of(summary.success(task, arm)),
        }
        if study.evaluation.zero_latent_episodes:
            zero = summary.values(task, arm, "success_zero_latent")
            row["with z = 0 [%]"] = text_of(_mean(zero * 100))
        for heading, metric in ERRORS.items():
            row[heading] = text_of(_mean(summary.values(task, arm, metric)), 2)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(values: pd.Series) -> Estimate | None:
    return intervals.mean(values.tolist()) if len(values) else None


def ratio_table(study: Study, summary: Summary, task: str) -> pd.DataFrame:
    """Every arm of a task relative to the arm that it is compared with."""
    rows = []
    for arm in (arm.name for arm in study.arms):
        reference = study.reference_of(arm)
        if reference is None:
            continue
        row = {"arm": f"`{arm}`", "relative to": f"`{reference}`"}
        for heading, metric in {"success": "success", **ERRORS}.items():
            estimate, p = summary.ratio(task, arm, reference, metric)
            row[f"{heading}, ratio"] = text_of(estimate)
            row[f"{heading}, p"] = markdown.number(p, 2)
        rows.append(row)
    return pd.DataFrame(rows)


def write_report(study: Study, every: Sequence[Job], out: Path) -> str:
    """Write results.json, results.csv, report.md and the figures.

    Args:
        study: the study.
        every: its jobs.
        out: its folder, with at least one finished job.

    Returns:
        The tables and where the files are, for the terminal.

    Raises:
        DatasetError, ConfigError: as `records`.
    """
    from robomimic_vae_ext.study import study_figures

    found = records(every, out)
    summary = Summary(found)
    files.write_json(out / "results.json", {
        "study": study.name,
        "file": json.loads(study.path.read_text(encoding="utf-8")),
        "records": found,
    })  # fmt: skip
    files.write_text(out / "results.csv", long_table(found).to_csv(index=False))
    tasks = [task.name for task in study.tasks if any(r["task"] == task.name for r in found)]
    arms = [arm.name for arm in study.arms if any(r["arm"] == arm.name for r in found)]
    study_figures.final_success(summary, tasks, arms, out / "success.png")
    study_figures.curves(summary, tasks, arms, out / "curves.png")
    tables = "\n\n".join(
        f"## {task}\n\n{_markdown(final_table(study, summary, task), 1)}"
        + (f"\n\n{_markdown(ratio_table(study, summary, task), 2)}" if len(study.arms) > 1 else "")
        for task in tasks
    )
    done = f"{len(found)} of {len(every)} jobs have results."
    files.write_text(out / "report.md", "\n\n".join([
        f"# {study.name}",
        done,
        tables,
        METHOD.format(seeds=intervals.MIN_SEEDS),
        "![success of the final policies](success.png)",
        "![success and held-out Q error over gradient steps](curves.png)",
        _provenance(found),
    ]) + "\n")  # fmt: skip
    return f"{tables}\n\n{done}\nreport: {out / 'report.md'}"


def _markdown(table: pd.DataFrame, words: int) -> str:
    return markdown.table(list(table.columns), table.itertuples(index=False), words=words)


def _provenance(found: Sequence[Record]) -> str:
    versions: dict[str, set[str]] = {
        "commit": {str(record["commit"] or "not of a git repository") for record in found}
    }
    for record in found:
        for name, version in record["versions"].items():
            versions.setdefault(name, set()).add(str(version))
    precisions = {str(record["precision"]) for record in found}
    rows = [(name, ", ".join(sorted(it))) for name, it in versions.items()]
    rows.append(("precision of the encoder's convolutions", ", ".join(sorted(precisions))))
    return markdown.table(("made with", ""), rows, words=2)
