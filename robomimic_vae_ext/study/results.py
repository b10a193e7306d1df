"""From the folders of a study to results.csv, results.json, figures and results.md.

Everything after `gather` is made from its dictionary alone, which is written as results.json: the
tables and figures can be made again from the repository, without the folders of the runs.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from robomimic_vae_ext import files, markdown
from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.plugin import ALGO_NAME
from robomimic_vae_ext.study import claims, jobs, page, plan, published, records, study_plots
from robomimic_vae_ext.study.datasets import dataset_path
from robomimic_vae_ext.study.protocol import Protocol, Task
from robomimic_vae_ext.study.summary import Summary

logger = logging.getLogger(__name__)
NAME: Final = "results"
PROTOCOLS: Final = ("study_protocol.md", "../study_protocol.md")  # seen from a page of results


def write_results(study: Protocol, out: Path, docs: Path, merge: Sequence[Path] = ()) -> str:
    """Write everything that a study has found so far.

    Args:
        study: the plan.
        out: its folder, with `TASK/ARM/seed_N/result.json` of every finished job.
        docs: folder for results.md, results.csv, results.json and the figures.
        merge: published results of further jobs; those of the folder go before them.

    Returns:
        The table of claims and what is missing, for the terminal.

    Raises:
        DatasetError: no job is done, or a result is damaged.
        ConfigError: results that were run with other settings, or a results.json in `docs` that
            holds more of this study, or the same with other settings.
    """
    data = gather(study, out, docs, merge)
    summary = summary_of(data)
    looks = _looks(study, out, summary)
    for task, found in looks.items():
        data["saliency"][task] = published.merge_looks(data["saliency"].get(task), found.as_dict())
    published.check_nothing_is_lost(
        study, docs / f"{NAME}.json", published.of(study, summary.records, data)
    )
    docs.mkdir(parents=True, exist_ok=True)
    for task, found in looks.items():
        merged = data["saliency"][task]
        here = {name for name, _ in found.looks}
        figure = docs / study_plots.saliency_figure(task).name
        # Of the models of earlier sittings, the figure as it is shows all that is left.
        if here.issuperset(model["arm"] for model in merged["models"]) or not figure.is_file():
            arms = [arm.name for arm in study.arms if arm.name in here]
            study_plots.saliency(found, arms, docs, task)
    return publish(data, docs)


def publish(data: Mapping[str, Any], docs: Path) -> str:
    """Write all files from what `gather` returned, or from a results.json.

    Args:
        data: from `gather`.
        docs: folder to write to.
    """
    summary = summary_of(data)
    document = docs / f"{NAME}.md"
    old = document.read_text(encoding="utf-8") if document.is_file() else ""
    kept = markdown.between(old, page.DISCUSSION)  # first: it may be refused
    files.write_text(docs / f"{NAME}.json", json_text(data))
    files.write_csv(docs / f"{NAME}.csv", _csv_rows(summary))
    figures = study_plots.all_figures(summary, data["manifest"]["demonstrations"], docs)
    drawn = [study_plots.saliency_figure(task) for task in data["saliency"]]
    figures += [figure for figure in drawn if (docs / figure.name).is_file()]
    protocol = _protocol_of(data["manifest"]["study"]["name"], docs)
    files.write_text(document, page.document(summary, data, figures, kept, protocol))
    return f"{claims.table(summary)}\n\n{page.status(summary)}"


def _protocol_of(study: str, docs: Path) -> str | None:
    """The protocol that names a study, seen from its page; None where there is none."""
    for name in PROTOCOLS:
        path = docs / name
        if path.is_file() and f"`{study}`" in path.read_text(encoding="utf-8"):
            return name
    return None


def gather(study: Protocol, out: Path, docs: Path, merge: Sequence[Path] = ()) -> dict[str, Any]:
    """Read every finished job of a study.

    Args:
        study: the plan; jobs in the folder that it does not name are left out and counted.
        out: its folder.
        docs: folder of the page, for the manifest.
        merge: published results of further jobs; those of the folder go before them.

    Returns:
        `manifest`, `records`, and the published `saliency`, plain types.

    Raises:
        DatasetError: no job is done, or a result is damaged.
        ConfigError: results that were run with other settings.
    """
    known = published.read(study, merge)
    found = [records.read_result(path) for path in sorted(out.glob("*/*/seed_*/result.json"))]
    published.check_settings(study, found, out)
    wanted = plan.settings(study)
    own = {record.name: record for record in found if record.name in wanted}
    kept = [record for _, record in sorted(records.merged(known.records, own).items())]
    if not kept:
        raise DatasetError(
            f"{out} holds no result of study '{study.name}'",
            "at least one TASK/ARM/seed_N/result.json",
            "Run the study first, or check --out.",
        )
    demonstrations = {
        task.name: describe(dataset_path(task, out), _discount(study, task)) for task in study.tasks
    }
    for task, published_one in known.demonstrations.items():
        if demonstrations[task] not in (None, published_one):
            logger.warning(
                "%s: the dataset here (%s) is not that of the merged results (%s)",
                task, demonstrations[task], published_one,
            )  # fmt: skip
    # Older results do not name their device: they must not pass for another one's.
    noted = any("device" in record.versions for record in kept)
    unknown = {"device": "not noted"} if noted else {}
    versions = sorted({it for record in kept for it in (unknown | dict(record.versions)).items()})
    manifest = {
        "study": json.loads(study.path.read_text(encoding="utf-8")),
        "command": f"python scripts/compare.py --study {_typed(study.path)} "
        f"--out {_typed(out)} --docs {_typed(docs)}"
        + (" --merge " + " ".join(map(_typed, merge)) if merge else ""),
        "jobs": {
            "planned": len(wanted),
            "done": len(kept),
            "not_of_this_study": len(found) - len(own),
        },
        "versions": {name: sorted(v for n, v in versions if n == name) for name, _ in versions},
        "commits": sorted({record.commit for record in kept if record.commit}),
        "demonstrations": {
            task: found or known.demonstrations.get(task) for task, found in demonstrations.items()
        },
    }
    return {
        "manifest": manifest,
        "saliency": dict(known.saliency),
        "records": [record.as_dict() for record in kept],
    }


def summary_of(data: Mapping[str, Any]) -> Summary:
    """What `gather` returned, ready for questions."""
    study = data["manifest"]["study"]
    return Summary(
        tasks=tuple(study["tasks"]),
        arms=tuple(study["arms"]),
        seeds=tuple(study["seeds"]),
        reference=study["reference_arm"],
        claims_of=tuple(study.get("claims_of", ())),
        references=study.get("references", {}),
        groups=study.get("groups", {}),
        records=tuple(records.from_dict(values) for values in data["records"]),
    )


def describe(dataset: Path, discount: float | None) -> dict[str, Any] | None:
    """What a dataset holds; None if it is gone.

    Args:
        dataset: HDF5 file.
        discount: of the returns; None: there are none.

    Returns:
        `episodes`; `successes`, how many are ever rewarded; `constant_error`, the held-out error of
        the best constant in place of Q: the variance of the returns. None without held-out ones.
    """
    if not dataset.is_file():
        return None
    from robomimic_vae_ext.study.measure import discounted_returns  # imports torch

    with hdf5.open_dataset(dataset) as file:
        rewards = {name: demo["rewards"][()] for name, demo in file["data"].items()}
        held_out = [rewards[name.decode()] for name in file.get("mask/valid", ())]
    constant = None
    if held_out and discount is not None:
        returns = np.concatenate([discounted_returns(values, discount) for values in held_out])
        constant = records.rounded(returns.var())
    return {
        "episodes": len(rewards),
        "successes": sum(bool(values.max() > 0) for values in rewards.values()),
        "constant_error": constant,
    }


def _discount(study: Protocol, task: Task) -> float | None:
    """Discount of the reference arm; None for an algorithm without."""
    from robomimic_vae_ext import training_config

    (arm,) = [arm for arm in study.arms if arm.name == study.reference_arm]
    job = plan.make_job(study, task, arm, study.seeds[0])
    return training_config.config_from(job.config, f"arms.{arm.name}").algo.get("discount")


def _csv_rows(summary: Summary) -> Iterator[tuple[Any, ...]]:
    """A head, and one row a finished job; empty where there is no such measure, `inf` for never."""
    yield ("task", "arm", "seed", *records.MEASURES)
    for key, measures in summary.measures.items():
        yield (*key, *(_cell(measures[name]) for name in records.MEASURES))


def json_text(data: Mapping[str, Any]) -> str:
    """One line a job, so that versions of the file can be compared."""
    lines = ",\n".join(json.dumps(job, separators=(",", ":")) for job in data["records"])
    manifest, saliency = (json.dumps(data[key], indent=1) for key in ("manifest", "saliency"))
    return f'{{"manifest": {manifest},\n"saliency": {saliency},\n"records": [\n{lines}\n]}}\n'


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _typed(path: Path) -> str:
    """A path as one would type it here; outside of the current folder, its name alone."""
    relative = os.path.relpath(path.resolve(), Path.cwd())
    return path.name if relative.startswith("..") else relative


def _looks(study: Protocol, out: Path, summary: Summary) -> dict[str, Any]:
    """What the models look at, of every task with two cubes whose checkpoints are there."""
    from robomimic_vae_ext.study import saliency  # imports torch; a page alone does not need it

    looks = {}
    for task in study.tasks:
        found = {}
        for record in summary.records:
            folder = out / record.name
            done = all((folder / file).is_file() for file in (jobs.JOB, jobs.RESULT))
            ours = record.algo == ALGO_NAME
            if record.task == task.name and ours and done and jobs.has_run(folder):
                checkpoint = jobs.last_checkpoint(folder)
                if checkpoint.is_file():
                    found[record.arm, record.seed] = checkpoint
        look = saliency.look_at(dataset_path(task, out), found) if found else None
        if look is not None:
            looks[task.name] = look
    return looks
