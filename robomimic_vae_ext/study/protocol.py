"""A study as a JSON file: tasks x arms x seeds, and what is measured in each.

Paths in the file are relative to it. The file is read and checked here, and nothing is imported
that a report would not need: neither torch nor a simulator.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext.errors import ConfigError

ACTION: Final = "Change it in the study's file."
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # tasks and arms become folders
LABEL: Final = re.compile(r"(?:[\w.,-]+(?: [\w.,-]+)*)?", re.ASCII)
DATASETS_FOLDER: Final = "datasets"  # beside the folders of the tasks
SEEDS: Final = 2**32
COLLECT_WORDS: Final = ("env", "quality", "compress", "rendering")
COLLECT_NUMBERS: Final = ("n", "size", "seed", "horizon")
COLLECT_KEYS: Final = (*COLLECT_WORDS, *COLLECT_NUMBERS, "cameras")
# What the study itself sets in every training config: an arm that changed one of these would not
# be comparable, or its results not be found.
STUDY_KEYS: Final = (
    "algo_name", "experiment.name", "experiment.validate", "experiment.epoch_every_n_steps",
    "experiment.save", "experiment.rollout", "train.data", "train.output_dir", "train.num_epochs",
    "train.seed", "train.batch_size", "train.cuda", "train.hdf5_filter_key",
    "train.hdf5_validation_filter_key",
)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """How long and with what every job trains.

    Args:
        steps: gradient steps; a multiple of `steps_per_checkpoint`.
        steps_per_checkpoint: gradient steps between two measured checkpoints.
        batch_size: transitions.
        threads: torch threads of a job.
    """

    steps: int
    steps_per_checkpoint: int
    batch_size: int
    threads: int = 1

    @property
    def checkpoints(self) -> int:
        """Number of checkpoints."""
        return self.steps // self.steps_per_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """The rollouts of every job.

    Args:
        final_episodes: of the last checkpoint.
        earlier_episodes: of each of the `earlier_checkpoints` before it.
        earlier_checkpoints: how many.
        seed: base seed of the episodes, the same for all jobs.
        zero_latent_episodes: of the last checkpoint of LAPO once more, with z = 0 in place of its
            actor's z; 0: none, and its actor is not looked at.
    """

    final_episodes: int
    earlier_episodes: int
    earlier_checkpoints: int
    seed: int
    zero_latent_episodes: int = 0


@dataclass(frozen=True)
class Task:
    """One dataset and the environment that it is from.

    Args:
        name: also of its folder.
        horizon: steps after which an episode has failed.
        dataset: an existing HDF5 file, or None.
        collect: what to collect (`COLLECT_KEYS`), or None; exactly one of both is given.
        training: values of `Training` that differ for this task.
    """

    name: str
    horizon: int
    dataset: Path | None
    collect: Mapping[str, Any] | None
    training: Mapping[str, int]


@dataclass(frozen=True)
class Arm:
    """One training config.

    Args:
        name: also of its folder.
        config: a robomimic config.
        changes: nested overrides of that config (`set` in the file).
        training: values of `Training` that differ for this arm; they go before the task's.
    """

    name: str
    config: Path
    changes: Mapping[str, Any]
    training: Mapping[str, int]


@dataclass(frozen=True)
class Protocol:
    """A study.

    Args:
        name: of the study.
        path: the file that it was read from.
        tasks: in the order of the file.
        arms: in the order of the file.
        seeds: of training.
        training: for all jobs, unless a task or an arm says otherwise.
        evaluation: for all jobs.
        reference_arm: what the other arms are compared with.
        claims_of: arms that the table of claims is about; empty: the one that it finds.
        references: arms that are compared with another one than `reference_arm`, and with which.
        groups: title to the arms that share a row of panels in the figures; empty: all share one.
        label: what sets it apart, in an overview, from other studies of the same tasks.
    """

    name: str
    path: Path
    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    training: Training
    evaluation: Evaluation
    reference_arm: str
    claims_of: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label: str = ""

    def training_of(self, task: Task, arm: Arm) -> Training:
        """Training of one arm on one task."""
        return replace(self.training, **{**task.training, **arm.training})


def read_protocol(path: Path) -> Protocol:
    """Read a study's file.

    Args:
        path: JSON file.

    Raises:
        ConfigError: missing file, unknown or missing key, impossible value.
    """
    values = _section(
        _read_json(path),
        str(path),
        required=("name", "tasks", "arms", "seeds", "training", "evaluation", "reference_arm"),
        optional=("claims_of", "references", "groups", "label"),
    )
    base, training = path.resolve().parent, values["training"]
    study = Protocol(
        name=_name(values["name"], "name"),
        path=path,
        tasks=tuple(_task(name, v, base) for name, v in _named(values["tasks"], "tasks")),
        arms=tuple(_arm(name, v, base) for name, v in _named(values["arms"], "arms")),
        seeds=_seeds(values["seeds"]),
        training=Training(**_training(training, "training", whole=True)),
        evaluation=_evaluation(values["evaluation"]),
        reference_arm=values["reference_arm"],
        claims_of=_list(values.get("claims_of", []), "claims_of"),
        references=values.get("references", {}),
        groups=_groups(values.get("groups", {}), tuple(values["arms"])),
        label=_label(values.get("label", "")),
    )
    names = [arm.name for arm in study.arms]
    if study.reference_arm not in names:
        raise ConfigError(f"reference_arm is {study.reference_arm!r}", f"one of {names}", ACTION)
    _check_references(study, names)
    names.remove(study.reference_arm)
    claims = study.claims_of
    if any(name not in names for name in claims) or len(set(claims)) < len(claims):
        raise ConfigError(
            f"claims_of is {values['claims_of']!r}", f"some of {names}, each once", ACTION
        )
    for task in study.tasks:
        for arm in study.arms:
            _check_lengths(study, task, arm)
    return study


def _check_references(study: Protocol, names: Collection[str]) -> None:
    """Refuse references that are no arms, or that are compared with a third one themselves."""
    found = study.references
    if not isinstance(found, dict) or not all(
        arm in names
        and arm != study.reference_arm
        and other in names
        and other != arm
        and other not in found
        for arm, other in found.items()
    ):
        raise ConfigError(
            f"references is {found!r}",
            f"arm to another arm, which has no entry, of {names}",
            ACTION,
        )


def _check_lengths(study: Protocol, task: Task, arm: Arm) -> None:
    """Refuse a training whose checkpoints do not fit its length."""
    training, where = study.training_of(task, arm), f"training of {task.name}/{arm.name}"
    if training.steps % training.steps_per_checkpoint:
        raise ConfigError(
            f"{where}: {training.steps} steps with a checkpoint every "
            f"{training.steps_per_checkpoint}",
            "steps to be a multiple of steps_per_checkpoint",
            ACTION,
        )
    if study.evaluation.earlier_checkpoints >= training.checkpoints:
        raise ConfigError(
            f"{where} makes {training.checkpoints} checkpoints",
            "more than evaluation.earlier_checkpoints "
            f"({study.evaluation.earlier_checkpoints}), since the last one is counted apart",
            ACTION,
        )


def _task(name: str, value: Any, base: Path) -> Task:
    where = f"tasks.{name}"
    value = _section(value, where, ("horizon",), ("dataset", "collect", "training"))
    if name == DATASETS_FOLDER:
        raise ConfigError(f"a task named '{name}'", "another name: the folder is taken", ACTION)
    if ("dataset" in value) == ("collect" in value):
        raise ConfigError(f"{where} has the keys {sorted(value)}", "dataset or collect", ACTION)
    collect = value.get("collect")
    if collect is not None:
        collect = _collect(collect, f"{where}.collect")
    dataset = value.get("dataset")
    return Task(
        name=name,
        horizon=_whole(value["horizon"], f"{where}.horizon", 1),
        dataset=_file(dataset, f"{where}.dataset", base) if collect is None else None,
        collect=collect,
        training=_training(value.get("training", {}), f"{where}.training"),
    )


def _collect(value: Any, where: str) -> dict[str, Any]:
    """Refuse values of the wrong type; whether they can be collected, the collector knows."""
    value = _section(value, where, ("env", "n"), COLLECT_KEYS)
    for key in COLLECT_NUMBERS:
        if key in value:
            _whole(value[key], f"{where}.{key}", 0)
    for key in COLLECT_WORDS:
        if not isinstance(value.get(key, ""), str):
            raise ConfigError(f"{where}.{key} is {value[key]!r}", "a word", ACTION)
    cameras = value.get("cameras", [])
    if not isinstance(cameras, list) or not all(isinstance(name, str) for name in cameras):
        raise ConfigError(f"{where}.cameras is {cameras!r}", "a list of names", ACTION)
    return value


def _arm(name: str, value: Any, base: Path) -> Arm:
    where = f"arms.{name}"
    value = _section(value, where, ("config",), ("set", "training"))
    changes = value.get("set", {})
    if not isinstance(changes, dict):
        raise ConfigError(f"{where}.set is {changes!r}", "a section of the config", ACTION)
    for key in STUDY_KEYS:
        if _has(changes, key):
            raise ConfigError(
                f"{where}.set changes {key}",
                "only keys that the study does not set itself",
                "Remove it; lengths and batch size stand in `training`.",
            )
    return Arm(
        name=name,
        config=_file(value["config"], f"{where}.config", base),
        changes=changes,
        training=_training(value.get("training", {}), f"{where}.training"),
    )


def _training(value: Any, where: str, whole: bool = False) -> dict[str, int]:
    required, optional = _names(Training)
    value = _section(value, where, required if whole else (), (*required, *optional))
    return {key: _whole(number, f"{where}.{key}", 1) for key, number in value.items()}


def _evaluation(value: Any) -> Evaluation:
    value = _section(value, "evaluation", *_names(Evaluation))
    least = {"final_episodes": 1, "earlier_episodes": 1}
    found = Evaluation(
        **{k: _whole(v, f"evaluation.{k}", least.get(k, 0)) for k, v in value.items()}
    )
    if found.zero_latent_episodes > found.final_episodes:
        raise ConfigError(
            f"evaluation.zero_latent_episodes is {found.zero_latent_episodes}",
            f"at most final_episodes ({found.final_episodes}), whose first ones it repeats",
            ACTION,
        )
    return found


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
        raise ConfigError(f"seeds is {value!r}", "a list of different whole numbers", ACTION)
    if any(isinstance(seed, int) and seed >= SEEDS for seed in value):
        raise ConfigError(
            f"seeds is {value!r}", f"numbers below {SEEDS}, as numpy has them", ACTION
        )
    return tuple(_whole(seed, "seeds", 0) for seed in value)


def _list(value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} is {value!r}", "a list", ACTION)
    return tuple(value)


def _groups(value: Any, arms: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Refuse groups that name no arm, or leave one out of the figures."""
    if not isinstance(value, dict):
        raise ConfigError(f"groups is {value!r}", "title to a list of arms", ACTION)
    for title in value:
        if not title.strip() or "$" in title:  # a formula to matplotlib
            raise ConfigError(f"groups has the title {title!r}", "words without '$'", ACTION)
    groups = {title: _list(names, f"groups.{title}") for title, names in value.items()}
    for title, names in groups.items():
        if not names or len(set(map(str, names))) < len(names) or any(n not in arms for n in names):
            raise ConfigError(
                f"groups.{title} is {value[title]!r}", f"some of {list(arms)}", ACTION
            )
    left_out = [
        arm for arm in arms if groups and not any(arm in names for names in groups.values())
    ]
    if left_out:
        raise ConfigError(f"groups has no {left_out}", "every arm in a group", ACTION)
    return groups


def _label(value: Any) -> str:
    if not isinstance(value, str) or not LABEL.fullmatch(value):  # it stands in figures and tables
        raise ConfigError(
            f"label is {value!r}", "words of letters, digits, '-', '.' and ','", ACTION
        )
    return value


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", "a study in JSON", "Check --study.")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON ({error})", "a study in JSON", "Correct the file."
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A section of JSON, in which no key may hide another one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"the study's file has the key '{twice}' twice in one section", "it once", ACTION
        )
    return values


def _section(
    value: Any, where: str, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Check the keys of a section."""
    known = sorted({*required, *optional})
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}", f"a section with the keys {known}", ACTION)
    unknown, missing = sorted(set(value) - set(known)), sorted(set(required) - set(value))
    if unknown:
        raise ConfigError(
            f"{where} has the unknown key '{unknown[0]}'", f"only {known}", "Correct its spelling."
        )
    if missing:
        raise ConfigError(f"{where} lacks '{missing[0]}'", f"the keys {known}", "Add it.")
    return value


def _named(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{where} is {value!r}", "at least one named entry", ACTION)
    return [(_name(name, where), entry) for name, entry in value.items()]


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(
            f"{where} holds the name {value!r}",
            "letters, digits, '_', '-' and '.', since it becomes the name of a folder",
            ACTION,
        )
    return value


def _whole(value: Any, where: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{where} is {value!r}", f"a whole number from {least}", ACTION)
    return value


def _file(value: Any, where: str, base: Path) -> Path:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}", "the path of a file", ACTION)
    path = base / os.path.expanduser(value)  # that of pathlib fails where a user is not known
    if not os.path.isfile(path):  # likewise where a name is too long
        raise ConfigError(
            f"{where}: there is no file {path}", "a path relative to the study's file", ACTION
        )
    return path


def _has(values: Mapping[str, Any], key: str) -> bool:
    """Whether nested mappings hold a dotted key."""
    head, _, rest = key.partition(".")
    if head not in values or not rest:
        return head in values
    return isinstance(values[head], Mapping) and _has(values[head], rest)


def _names(section: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Required and optional keys of a section: those without and with a default."""
    required = tuple(entry.name for entry in fields(section) if entry.default is MISSING)
    return required, tuple(entry.name for entry in fields(section) if entry.name not in required)
