"""Published results (results.json) that count as done: of other sittings, or of other machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import jobs, plan, records
from robomimic_vae_ext.study.protocol import Protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What published results hold of a study.

    Args:
        study: its name; empty if the file does not say.
        records: job's name to its record.
        demonstrations: as in a manifest, by task.
        saliency: as published, by task.
    """

    study: str = ""
    records: Mapping[str, records.Record] = field(default_factory=dict)
    demonstrations: Mapping[str, Any] = field(default_factory=dict)
    saliency: Mapping[str, Any] = field(default_factory=dict)


def read(study: Protocol, files: Sequence[Path]) -> Published:
    """Read published results of a study; where several hold the same job, the last one counts.

    Args:
        study: the plan; what it does not name is left out.
        files: each a results.json.

    Raises:
        DatasetError: a file is missing or is no published result.
        ConfigError: a job was run with other settings than the study's file has now.
    """
    found = Published()
    for path in files:
        found = _add(found, _planned(study, read_file(path), path))
    return found


def of(study: Protocol, found: Iterable[records.Record], data: Mapping[str, Any]) -> Published:
    """What is about to be published: records, and the other parts of a results.json."""
    return Published(
        study=study.name,
        records={record.name: record for record in found},
        demonstrations=data["manifest"]["demonstrations"],
        saliency=data["saliency"],
    )


def check_settings(study: Protocol, found: Iterable[records.Record], where: Path) -> None:
    """Refuse results of jobs that the study would run otherwise now.

    Args:
        study: the plan; jobs that it does not name are none of its business.
        found: results.
        where: they come from.

    Raises:
        ConfigError: a job was run with other settings than the study's file has now.
    """
    planned = plan.settings(study)
    for record in found:
        if planned.get(record.name, record.settings) != record.settings:
            raise ConfigError(
                f"{where}: {record.name} was run with other settings than {study.path} has",
                "the same, since results of both do not belong together",
                "Give the changed arm another name, beside the old one, or the study the settings "
                "of then; for a new start, choose another --out and --docs.",
            )


def check_nothing_is_lost(study: Protocol, path: Path, kept: Published) -> None:
    """Refuse to replace published results by those of another study, by fewer, or by others.

    Args:
        study: the plan.
        path: results.json that is about to be written.
        kept: what it will hold.

    Raises:
        ConfigError: the file is of another study or of other settings, or there are jobs in it,
            episodes with z = 0, looks or descriptions of datasets, that would not be any more.
    """
    if not path.is_file():
        return
    here = read_file(path)
    if here.study not in ("", study.name):
        raise ConfigError(
            f"{path} holds the results of study '{here.study}'",
            f"those of '{study.name}', or none",
            "Choose another --docs.",
        )
    check_settings(study, here.records.values(), path)
    lost = list(_lost(here, kept))
    if lost:
        raise ConfigError(
            f"{path} holds {len(lost)} results that would be lost, such as {lost[0]}",
            "to write at least what it has",
            f"Add --merge {path} if the study still has them, or choose another --docs.",
        )


def _lost(here: Published, kept: Published) -> Iterator[str]:
    """What one has and the other has not."""
    for name, record in here.records.items():
        if name not in kept.records:
            yield name
        elif record.zero_latent is not None and kept.records[name].zero_latent is None:
            yield f"z = 0 of {name}"
    for task, found in here.saliency.items():
        models = [(model["arm"], model["seed"]) for model in found["models"]]
        now = kept.saliency.get(task)
        if now is None or _same_pictures(found, now):
            still = [(model["arm"], model["seed"]) for model in now["models"]] if now else []
            yield from (
                f"what moves Q in {jobs.job_name(task, *it)}" for it in models if it not in still
            )
    for task, described in here.demonstrations.items():
        if described is not None and kept.demonstrations.get(task) is None:
            yield f"the description of {task}'s dataset"


def _same_pictures(known: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(known[key] == new[key] for key in ("views", "pixels"))


def merge_looks(known: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """A task's models from two sittings, the second one winning where both have one.

    Models of other pictures cannot be compared with these; the known ones then give way.
    """
    if known is None or not _same_pictures(known, new):
        if known is not None:
            logger.warning("models of earlier sittings looked at other pictures: left out")
        return dict(new)
    ours = {(model["arm"], model["seed"]) for model in new["models"]}
    kept = [model for model in known["models"] if (model["arm"], model["seed"]) not in ours]
    return {**new, "models": kept + list(new["models"])}


def _add(known: Published, new: Published) -> Published:
    """Everything of two files, the second one winning."""
    looks = {task: merge_looks(known.saliency.get(task), it) for task, it in new.saliency.items()}
    datasets = {task: it for task, it in new.demonstrations.items() if it is not None}
    return Published(
        study=new.study,
        records=records.merged(known.records, new.records),
        demonstrations={**known.demonstrations, **datasets},
        saliency={**known.saliency, **looks},
    )


def _planned(study: Protocol, found: Published, path: Path) -> Published:
    """What a study names of a file."""
    check_settings(study, found.records.values(), path)
    names = plan.settings(study)
    tasks = {task.name for task in study.tasks}
    looks = {
        task: {**it, "models": [
            model for model in it["models"]
            if jobs.job_name(task, model["arm"], model["seed"]) in names
        ]}
        for task, it in found.saliency.items() if task in tasks
    }  # fmt: skip
    return Published(
        study=found.study,
        records={name: it for name, it in found.records.items() if name in names},
        demonstrations={t: it for t, it in found.demonstrations.items() if t in tasks},
        saliency={task: it for task, it in looks.items() if it["models"]},
    )


def _look(found: Mapping[str, Any]) -> dict[str, Any]:
    """Check a task's `saliency` by reading what is used of it later."""
    models = [dict(model) for model in found["models"]]
    for model in models:
        _ = model["arm"], model["seed"]
    return {**found, "views": found["views"], "pixels": found["pixels"], "models": models}


def read_file(path: Path) -> Published:
    """Read what one file holds.

    Raises:
        DatasetError: it is missing or is no published result.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = [records.from_dict(values) for values in data["records"]]
        return Published(
            study=str(data["manifest"].get("study", {}).get("name", "")),
            records={record.name: record for record in found},
            demonstrations=dict(data["manifest"]["demonstrations"]),
            saliency={task: _look(found) for task, found in data["saliency"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            "a results.json that a study has written",
            "Check that path, or bring the file back as it was published.",
        ) from error
