"""Configs of a training: read, changed by flags, and checked before anything is built."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import robomimic.config as config_module

from robomimic_vae_ext import compat, overrides, shipped_configs
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.lapo.config import check_schedule

# Keys of ours that robomimic's configs do not have.
WORKERS_KEY = "num_workers"  # in experiment.rollout
KEEP_KEY = "keep_last"  # in experiment.save
SEEDS = 2**32

#: Whole numbers of robomimic's own sections: the least value, and whether null is allowed.
_WHOLE_NUMBERS = {
    "train.num_epochs": (1, False),
    "train.batch_size": (1, False),
    "train.seed": (0, False),
    "train.num_data_workers": (0, False),
    "experiment.epoch_every_n_steps": (1, True),
    "experiment.validation_epoch_every_n_steps": (1, True),
    "experiment.save.every_n_epochs": (1, True),
    "experiment.rollout.n": (1, False),
    "experiment.rollout.horizon": (1, False),
    "experiment.rollout.rate": (1, False),
    "experiment.rollout.warmstart": (0, False),
}
LARGEST = 10**9  # of a number of epochs, steps or transitions


def read_values(config: str | None, algo: str | None) -> tuple[dict[str, Any], str]:
    """Read a config file, or begin with the defaults of an algorithm.

    Args:
        config: path, or name of a shipped config.
        algo: name of a registered algorithm, read where no config is given.

    Returns:
        What the file holds, and what to call it in messages.

    Raises:
        ConfigError: neither is given, or the file is missing or unreadable.
    """
    if config is None:
        if algo is None:
            raise ConfigError(
                "neither --config nor --algo is given", "one of them",
                "Add it, for instance --config vae_joint.",
            )  # fmt: skip
        return {"algo_name": algo}, f"--algo {algo}"
    path = shipped_configs.find(config)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
        raise ConfigError(
            f"{path} is not JSON ({error})", "a config JSON", "Correct the file."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}", "a JSON object", "Correct it.")
    return values, str(path)


def change(values: dict[str, Any], changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a config's values with others in their place.

    Args:
        values: of a config file; not changed.
        changes: key of the config, levels joined by dots, to value.
        source: what to call the config in messages.

    Raises:
        ConfigError: a key that the algorithm's config does not have, or a value of another kind.
    """
    known = json.loads(config_from(values, source).dump())
    # Not keys of robomimic's configs, but ours; see `take_workers`.
    overrides.set_nested(known, f"experiment.rollout.{WORKERS_KEY}", 0)
    overrides.set_nested(known, f"experiment.save.{KEEP_KEY}", 0)
    overrides.check_keys_and_kinds(known, changes)
    changed = deepcopy(values)
    for key, value in changes.items():
        overrides.set_nested(changed, key, value)
    return changed


def config_from(values: Any, source: str) -> Any:
    """Make a locked config of what a file holds, without the keys that only we know.

    Args:
        values: of the file; not changed.
        source: what to call it in messages.

    Raises:
        ConfigError: unknown algorithm, key or value.
    """
    if not isinstance(values, dict) or "algo_name" not in values:
        raise ConfigError(f"{source} has no 'algo_name'", "a robomimic config", "Add the key.")
    values = deepcopy(values)
    try:
        take_workers(values)
        normalize_data(values)
        take_keep_last(values)
        config = _config_of(values["algo_name"])
        with config.values_unlocked():
            config.update(values)
        config.lock()
    except ConfigError as error:  # of those who do not know the source
        raise ConfigError(f"{source}: {error.found}", error.expected, error.action) from error
    except RuntimeError as error:  # robomimic's own configs say it this way
        raise ConfigError(
            f"{source}: {error}",
            f"the keys that config_factory('{values['algo_name']}') has",
            "Correct the spelling of that key, or remove it.",
        ) from error
    return config


def normalize_data(values: dict[str, Any]) -> None:
    """Write train.data of a config's values as the installed robomimic reads it.

    Raises:
        ConfigError: it cannot read that.
    """
    train = values.get("train")
    if isinstance(train, dict) and train.get("data") is not None:
        train["data"] = compat.readable_data(train["data"])


def take_workers(values: dict[str, Any]) -> int:
    """Take `experiment.rollout.num_workers` out of a config's values; without it 0.

    robomimic's configs are locked, and a run's config.json is to be of use to stock train.py.

    Raises:
        ConfigError: not a number of processes.
    """
    rollout = overrides.get_nested(values, "experiment", "rollout")
    count = rollout.pop(WORKERS_KEY, 0) if isinstance(rollout, dict) else 0
    if not _is_whole(count) or count < 0:
        raise ConfigError(
            f"experiment.rollout.{WORKERS_KEY} = {count!r}",
            "a number of processes; 0 is robomimic's own loop in this one",
            "Correct it, or remove it.",
        )
    return int(count)


def take_keep_last(values: dict[str, Any]) -> int | None:
    """Take `experiment.save.keep_last` out of a config's values; without it None, which is all.

    Raises:
        ConfigError: not a number of checkpoints.
    """
    save = overrides.get_nested(values, "experiment", "save")
    count = save.pop(KEEP_KEY, None) if isinstance(save, dict) else None
    if count is not None and (not _is_whole(count) or count < 1):
        raise ConfigError(
            f"experiment.save.{KEEP_KEY} = {count!r}",
            "a number of checkpoints from 1, or null for all",
            "Correct it, or remove it.",
        )
    return count


def check_run(config: Any, output: Path) -> None:
    """Check lengths, names and the output folder, which robomimic would trip over later.

    Args:
        config: of any algorithm.
        output: folder of the experiments.

    Raises:
        ConfigError: a value that cannot be used, or a folder that cannot be written to.
    """
    for key, section in _sections(config.algo, "algo", "learning_rate"):
        check_schedule(section, key)
    for key, (least, may_be_null) in _WHOLE_NUMBERS.items():
        value = overrides.get_nested(config, *key.split("."))
        most = SEEDS - 1 if key == "train.seed" else LARGEST
        if (value is None and may_be_null) or (_is_whole(value) and least <= value <= most):
            continue
        null = " or null" if may_be_null else ""
        raise ConfigError(
            f"{key} is {value!r}", f"a whole number from {least} to {most}{null}", "Correct it."
        )
    name = config.experiment.name
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise ConfigError(
            f"experiment.name is {name!r}",
            "the name of a folder, without separators",
            "Change it, or pass --name.",
        )
    nearest = next(folder for folder in (output, *output.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(
            f"train.output_dir is {output}, and {nearest} "
            + ("cannot be written to" if nearest.is_dir() else "is a file"),
            "a folder that can be made and written to",
            "Change it, or pass --output.",
        )


def _sections(config: Any, prefix: str, name: str) -> Iterator[tuple[str, Any]]:
    """All sections of this name below a section, of hierarchical algorithms too."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if key == name:
                yield f"{prefix}.{key}", value
            yield from _sections(value, f"{prefix}.{key}", name)


def output_folder(config: Any) -> Path:
    """Folder of the experiments; a relative one is relative to the current folder.

    Raises:
        ConfigError: it is not a text.
    """
    folder = config.train.output_dir
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"train.output_dir is {folder!r}", "a folder", "Pass --output.")
    return Path(folder).expanduser().absolute()


def _config_of(algo: Any) -> Any:
    known = sorted(config_module.base_config.REGISTERED_CONFIGS)
    if algo not in known:
        raise ConfigError(f"algorithm '{algo}'", f"one of {known}", "Correct its name.")
    return config_module.config_factory(algo)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
