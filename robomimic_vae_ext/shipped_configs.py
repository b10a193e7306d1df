"""The configs that come with the project, by name."""

from __future__ import annotations

from pathlib import Path

from robomimic_vae_ext.errors import ConfigError

_FOLDER = Path(__file__).parent.parent / "configs"


def find(name: str) -> Path:
    """Path of a config.

    Args:
        name: a file, or the name of a shipped config such as `vae_fixed`.

    Raises:
        ConfigError: neither a file nor a shipped config.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = _FOLDER / f"{name}.json"
    if shipped.is_file():
        return shipped
    raise ConfigError(
        f"there is no config {name}",
        f"a file, or one of {', '.join(sorted(p.stem for p in _FOLDER.glob('*.json')))}",
        "Correct the name or the path.",
    )
