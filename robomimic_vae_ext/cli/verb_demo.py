"""From nothing to an evaluated policy with video and curves, in one command.

    lapo demo --out runs/demo
    lapo demo --out runs/demo_fast --fast      a few minutes; the policy learns nothing

Every step is a command that is printed before it runs. The same command again continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lapo demo`."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything")
    parser.add_argument("--fast", action="store_true", help="a miniature that learns nothing")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that collect and that evaluate"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    if args.workers < 1:
        raise ConfigError(f"--workers {args.workers}", "at least 1", "Correct it.")
    from robomimic_vae_ext import demo

    demo.run(args.out, args.fast, args.workers)
    return 0
