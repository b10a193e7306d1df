"""Values of a config that a command line changes: `--set KEY=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from robomimic_vae_ext.errors import CheckpointError, ConfigError, did_you_mean


def parse(texts: list[str]) -> dict[str, Any]:
    """Read settings as a command line gives them.

    Args:
        texts: each `key.of.the.config=value`; a value that is not JSON is a string.

    Returns:
        Key to value.

    Raises:
        ConfigError: no `=`, or a key given twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals) or key in settings:
            raise ConfigError(
                f"--set '{text}'" + (" sets that key again" if key in settings else ""),
                "KEY=VALUE, such as algo.actor.extraction=zero, each key once",
                "Correct it.",
            )
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def get_nested(config: Any, *keys: str) -> Any:
    """A value of nested sections; None where one of them is missing, or is no section."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def set_nested(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value of nested dictionaries, making the sections that are missing.

    Args:
        values: changed in place.
        key: levels joined by dots.
        value: of the last level.

    Raises:
        ConfigError: a level of the key is a value, not a section.
    """
    *levels, last = key.split(".")
    for level in levels:
        values = values.setdefault(level, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"--set {key}: '{level}' is {values!r} in the config",
                "a section",
                "Correct the key.",
            )
    values[last] = value


def check_keys_and_kinds(config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that settings name values of a config, and are of the kinds that are there.

    Args:
        config: nested sections.
        settings: key of the config, levels joined by dots, to value.

    Raises:
        ConfigError: the config has no such value, or it is of another kind.
    """
    for key, value in settings.items():
        *levels, last = key.split(".")
        holder = get_nested(config, *levels)
        if not isinstance(holder, Mapping) or last not in holder:
            names = sorted(holder) if isinstance(holder, Mapping) else []
            raise ConfigError(
                f"--set {key}: the config has no such value{did_you_mean(last, names)}",
                f"one of {', '.join(names)}" if names else "levels of the config joined by dots",
                "Correct the key after --set.",
            )
        if isinstance(holder[last], Mapping) and not isinstance(value, Mapping):
            raise ConfigError(
                f"--set {key}={value!r}: {key} is a section",
                f"one of its keys {sorted(holder[last])}",
                "Name the key in full.",
            )
        if _kind(holder[last]) not in (None, _kind(value)) and value is not None:
            raise ConfigError(
                f"--set {key}={value!r} (a {_kind(value)})",
                f"a {_kind(holder[last])}, as the {holder[last]!r} that is there",
                "Correct the value; JSON's true, false and null are written in small letters.",
            )


def apply(checkpoint: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint with other values in its config; its weights are the same.

    Args:
        checkpoint: from `stored_policy.load_checkpoint`; not changed.
        settings: key of the config, levels joined by dots, to value.

    Raises:
        CheckpointError: the config has no such key, or it has keys below it.
        ConfigError: the value is of another kind than the one that is there.
    """
    config = json.loads(checkpoint["config"])
    for key, value in settings.items():
        *levels, last = key.split(".")
        holder = get_nested(config, *levels)
        if not isinstance(holder, dict) or last not in holder or isinstance(holder[last], dict):
            raise CheckpointError(
                f"the checkpoint's config has no value '{key}'",
                "a key of the config.json in the run's folder, levels joined by dots",
                "Correct the key after --set.",
            )
        check_keys_and_kinds(config, {key: value})
        holder[last] = value
    return checkpoint | {"config": json.dumps(config)}


def _kind(value: Any) -> str | None:
    """Kind of a JSON value; None for null, which may be replaced by any of them."""
    kinds = {bool: "truth value", int: "number", float: "number", str: "string", list: "list"}
    return kinds.get(type(value), "section") if value is not None else None
