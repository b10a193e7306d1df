"""What a result depends on besides its settings: versions, machine, commit of this package."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def versions() -> dict[str, str]:
    """Versions of everything that a result depends on besides our code."""
    import torch

    from robomimic_vae_ext import compat

    return {
        "python": platform.python_version(),
        "robomimic": str(compat.robomimic_version()),
        "robosuite": metadata.version("robosuite"),
        "mujoco": metadata.version("mujoco"),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "h5py": metadata.version("h5py"),
    }


def device_name(device: torch.device) -> str:
    """Name of a CUDA device; for any other device, of the processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Name of the processor; Linux alone tells it in a file."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of the repository that this package is in, with "-dirty" after uncommitted changes."""
    package = Path(__file__).resolve().parent
    git = ["git", "-C", str(package.parent)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
        if top.returncode or Path(top.stdout.strip()) != package.parent:
            return None  # installed somewhere below another repository
        words = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found = subprocess.run(words, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None
