"""The configs that come with the package, by name: `vae_joint`, `baselines/bc`, ..."""

from __future__ import annotations

import os
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parent


def folder() -> Path:
    """Folder of the shipped configs: inside an installed package, beside a source checkout's.

    Raises:
        ConfigError: neither is there.
    """
    # An editable installation and PYTHONPATH use the checkout, where `configs` is at the top.
    for candidate in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (candidate / "vae_joint.json").is_file():
            return candidate
    raise ConfigError(
        f"no configs in {PACKAGE} or beside it", "the shipped configs", "Install the package again."
    )


def names() -> tuple[str, ...]:
    """Names of all shipped configs: their paths below `folder()`, without `.json`."""
    root = folder()
    paths = (path.relative_to(root).with_suffix("") for path in root.rglob("*.json"))
    return tuple(sorted(path.as_posix() for path in paths))


def find(name_or_path: str | Path) -> Path:
    """Return the path of a config that is a file, or shipped under this name.

    A file comes first where the words say that one is meant (by a separator or `.json`); a bare
    name such as `vae_joint` is the shipped config even where a file is called so.

    Args:
        name_or_path: a path, or a name of `names()` with or without `.json`.

    Raises:
        ConfigError: there is neither such a file nor such a name.
    """
    text = os.path.expanduser(name_or_path)
    path = Path(text)
    explicit = path.suffix == ".json" or len(path.parts) > 1 or os.sep in text
    if explicit and path.is_file():
        return path
    name = path.as_posix().removesuffix(".json")
    if name in names():
        return folder() / f"{name}.json"
    if path.is_file():
        return path
    raise ConfigError(
        f"no config {name_or_path}{did_you_mean(path.stem, names())}",
        f"a file, or one of {', '.join(names())}",
        "Correct the name.",
    )
