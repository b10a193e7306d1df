"""A study as a JSON file: tasks x arms x seeds, how each trains, and what is measured.

Paths in the file are relative to it. Reading it imports neither torch nor a simulator.
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

ACTION: Final = "Change it in the study file."
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # tasks and arms become folders
DATASETS_FOLDER: Final = "datasets"  # beside the folders of the tasks
SEEDS: Final = 2**32  # numpy's limit
#: Keys of `collect` and their types.
COLLECT: Final = {
    "env": str, "quality": str, "compress": str, "rendering": str, "n": int, "size": int,
    "seed": int, "horizon": int, "cameras": list,
}  # fmt: skip
# Keys of the training config that the study sets itself: an arm that changed one of these would not
# be comparable, or its results would not be found.
STUDY_KEYS: Final = (
    "algo_name", "experiment.name", "experiment.validate", "experiment.epoch_every_n_steps",
    "experiment.save", "experiment.rollout", "train.data", "train.output_dir", "train.num_epochs",
    "train.seed", "train.batch_size", "train.cuda", "train.hdf5_filter_key",
    "train.hdf5_validation_filter_key",
)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """Length and batches of every training.

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
        zero_latent_episodes: of LAPO's last checkpoint with z = 0 in place of its actor's z; 0: no
            such episodes, and the actor is not measured.
    """

    final_episodes: int
    earlier_episodes: int
    earlier_checkpoints: int
    seed: int
    zero_latent_episodes: int = 0


@dataclass(frozen=True)
class Task:
    """A dataset and the environment that it is from.

    Args:
        name: also of its folder.
        horizon: steps after which an episode has failed.
        dataset: an existing HDF5 file, or None.
        collect: what to collect (`COLLECT`), or None; exactly one of both is given.
        training: values of `Training` that differ for this task.
    """

    name: str
    horizon: int
    dataset: Path | None
    collect: Mapping[str, Any] | None
    training: Mapping[str, int]


@dataclass(frozen=True)
class Arm:
    """A training config.

    Args:
        name: also of its folder.
        config: a robomimic config.
        changes: nested overrides of that config (`set` in the file).
        training: values of `Training` that differ for this arm; they override the task's.
    """

    name: str
    config: Path
    changes: Mapping[str, Any]
    training: Mapping[str, int]


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        name: of the study.
        path: the file that it was read from.
        tasks: in the order of the file.
        arms: in the order of the file.
        seeds: of training.
        training: for all jobs, unless a task or an arm has its own values.
        evaluation: for all jobs.
        reference_arm: with which the other arms are compared.
        references: arm to the arm that it is compared with instead of `reference_arm`.
    """

    name: str
    path: Path
    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    training: Training
    evaluation: Evaluation
    reference_arm: str
    references: Mapping[str, str] = field(default_factory=dict)

    def training_of(self, task: Task, arm: Arm) -> Training:
        """Training of one arm on one task."""
        return replace(self.training, **{**task.training, **arm.training})

    def reference_of(self, arm: str) -> str | None:
        """The arm that an arm is compared with; None for the reference itself."""
        return self.references.get(arm, None if arm == self.reference_arm else self.reference_arm)


def read_study(path: Path) -> Study:
    """Read a study file.

    Args:
        path: JSON file.

    Raises:
        ConfigError: missing file, unknown or missing key, impossible value.
    """
    values = _section(
        _read_json(path),
        str(path),
        required=("name", "tasks", "arms", "seeds", "training", "evaluation", "reference_arm"),
        optional=("references",),
    )
    base = path.resolve().parent
    study = Study(
        name=_name(values["name"], "name"),
        path=path,
        tasks=tuple(_task(name, v, base) for name, v in _named(values["tasks"], "tasks")),
        arms=tuple(_arm(name, v, base) for name, v in _named(values["arms"], "arms")),
        seeds=_seeds(values["seeds"]),
        training=Training(**_training(values["training"], "training", complete=True)),
        evaluation=_evaluation(values["evaluation"]),
        reference_arm=values["reference_arm"],
        references=values.get("references", {}),
    )
    _check_references(study)
    for task in study.tasks:
        for arm in study.arms:
            _check_lengths(study, task, arm)
    return study


def _check_references(study: Study) -> None:
    """Refuse references that are no arms, or that are themselves compared with a third arm."""
    names, given = [arm.name for arm in study.arms], study.references
    if study.reference_arm not in names:
        raise ConfigError(f"reference_arm is {study.reference_arm!r}", f"one of {names}", ACTION)
    if not isinstance(given, dict) or not all(
        arm in names
        and arm != study.reference_arm
        and other in names
        and other != arm
        and other not in given
        for arm, other in given.items()
    ):
        raise ConfigError(
            f"references is {given!r}",
            f"arm to another arm, which has no entry itself, of {names}",
            ACTION,
        )


def _check_lengths(study: Study, task: Task, arm: Arm) -> None:
    """Refuse a training whose checkpoints do not fit its length."""
    training, where = study.training_of(task, arm), f"training of {task.name}/{arm.name}"
    if training.steps % training.steps_per_checkpoint:
        raise ConfigError(
            f"{where}: {training.steps} steps with a checkpoint every "
            f"{training.steps_per_checkpoint}",
            "steps to be a multiple of steps_per_checkpoint",
            ACTION,
        )
    earlier = study.evaluation.earlier_checkpoints
    if earlier >= training.checkpoints:
        raise ConfigError(
            f"{where} makes {training.checkpoints} checkpoints",
            f"more than evaluation.earlier_checkpoints ({earlier}), which excludes the last one",
            ACTION,
        )


def _task(name: str, value: Any, base: Path) -> Task:
    where = f"tasks.{name}"
    value = _section(value, where, ("horizon",), ("dataset", "collect", "training"))
    if name == DATASETS_FOLDER:
        raise ConfigError(f"a task named '{name}'", "another name: that folder is used", ACTION)
    if ("dataset" in value) == ("collect" in value):
        raise ConfigError(f"{where} has the keys {sorted(value)}", "dataset or collect", ACTION)
    collect = _collect(value["collect"], f"{where}.collect") if "collect" in value else None
    return Task(
        name=name,
        horizon=_whole_number(value["horizon"], f"{where}.horizon", 1),
        dataset=None if collect else _file(value.get("dataset"), f"{where}.dataset", base),
        collect=collect,
        training=_training(value.get("training", {}), f"{where}.training"),
    )


def _collect(value: Any, where: str) -> dict[str, Any]:
    """Refuse values of the wrong type; `run_study.collect_settings` checks the rest."""
    value = _section(value, where, ("env", "n"), COLLECT)
    for key, entry in value.items():
        if type(entry) is not COLLECT[key]:  # exactly: True is an int, too
            raise ConfigError(
                f"{where}.{key} is {entry!r}", f"a value of type {COLLECT[key].__name__}", ACTION
            )
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
                "Remove it; lengths and batch size belong in `training`.",
            )
    return Arm(
        name=name,
        config=_file(value["config"], f"{where}.config", base),
        changes=changes,
        training=_training(value.get("training", {}), f"{where}.training"),
    )


def _training(value: Any, where: str, complete: bool = False) -> dict[str, int]:
    required, optional = _keys(Training)
    value = _section(value, where, required if complete else (), (*required, *optional))
    return {key: _whole_number(number, f"{where}.{key}", 1) for key, number in value.items()}


def _evaluation(value: Any) -> Evaluation:
    value = _section(value, "evaluation", *_keys(Evaluation))
    least = {"final_episodes": 1, "earlier_episodes": 1}
    evaluation = Evaluation(
        **{k: _whole_number(v, f"evaluation.{k}", least.get(k, 0)) for k, v in value.items()}
    )
    if evaluation.zero_latent_episodes > evaluation.final_episodes:
        raise ConfigError(
            f"evaluation.zero_latent_episodes is {evaluation.zero_latent_episodes}",
            f"at most final_episodes ({evaluation.final_episodes}), whose seeds it shares",
            ACTION,
        )
    return evaluation


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
        raise ConfigError(f"seeds is {value!r}", "a list of different whole numbers", ACTION)
    if any(isinstance(seed, int) and seed >= SEEDS for seed in value):
        raise ConfigError(f"seeds is {value!r}", f"numbers below {SEEDS}, numpy's limit", ACTION)
    return tuple(_whole_number(seed, "seeds", 0) for seed in value)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", "a study in JSON", "Check the path.")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON ({error})", "a study in JSON", "Correct the file."
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A section of JSON without repeated keys, of which Python would drop the first."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"the study file has the key '{twice}' twice in one section", "it once", ACTION
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


def _whole_number(value: Any, where: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{where} is {value!r}", f"a whole number from {least}", ACTION)
    return value


def _file(value: Any, where: str, base: Path) -> Path:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}", "the path of a file", ACTION)
    path = base / os.path.expanduser(value)  # pathlib's raises where a user is unknown
    if not os.path.isfile(path):  # pathlib's raises where a name is too long
        raise ConfigError(
            f"{where}: there is no file {path}", "a path relative to the study file", ACTION
        )
    return path


def _has(values: Mapping[str, Any], key: str) -> bool:
    """Whether nested mappings hold a dotted key."""
    head, _, rest = key.partition(".")
    if head not in values or not rest:
        return head in values
    return isinstance(values[head], Mapping) and _has(values[head], rest)


def _keys(section: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Required and optional keys of a section: those without and with a default."""
    required = tuple(entry.name for entry in fields(section) if entry.default is MISSING)
    return required, tuple(entry.name for entry in fields(section) if entry.name not in required)
