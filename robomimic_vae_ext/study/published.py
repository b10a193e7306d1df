"""Published results (results.json) that count as done: of other sittings, or of other machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import plan, records
from robomimic_vae_ext.study.protocol import Protocol


@dataclass(frozen=True)
class Published:
    """What published results hold of a study.

    Args:
        records: job's name to its record.
        demonstrations: as in a manifest, by task.
        saliency: as published, by task.
    """

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
    if not files:
        return Published()
    planned = {job.name: job.settings for job in plan.all_jobs(study)}
    known: dict[str, records.Record] = {}
    demonstrations: dict[str, Any] = {}
    saliency: dict[str, Any] = {}
    for path in files:
        found, manifest, looks = _read(path)
        for record in found:
            if planned.get(record.name, record.settings) != record.settings:
                raise ConfigError(
                    f"{path}: {record.name} was run with other settings than {study.path} has",
                    "the same, since results of both do not belong together",
                    "Leave that file out, or give the study the settings of then.",
                )
        known |= {record.name: record for record in found if record.name in planned}
        demonstrations |= manifest["demonstrations"]
        saliency |= looks
    return Published(known, demonstrations, saliency)


def _read(path: Path) -> tuple[list[records.Record], dict[str, Any], dict[str, Any]]:
    """Records, manifest and saliency of one file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = [records.from_dict(values) for values in data["records"]]
        return found, data["manifest"], data["saliency"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            "a results.json that a study has written",
            "Check the path given with --merge.",
        ) from error
