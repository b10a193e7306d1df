"""Show what is installed, whether it works, and what to do where it does not.

    lapo doctor
    lapo doctor --out doctor.json      the same as a file, for a bug report

Exit code: 0 if all that is needed is there, 1 otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lapo doctor`."""
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where output will go: is it writable, how full"
    )
    parser.add_argument(
        "--timeout", type=float, default=60, help="of all imports and the frame [s]"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Examine, print, and write the file."""
    if args.timeout <= 0:
        raise ConfigError(f"--timeout {args.timeout:g}", "more than 0 s", "Correct it.")
    from robomimic_vae_ext import doctor, files

    if args.out is not None:
        files.check_output(args.out, args.overwrite)
    checks = doctor.examine(args.folder, args.timeout)
    print(doctor.describe(checks))
    result = doctor.as_json(checks)
    if args.out is not None:
        files.write_json(args.out, result)
    return 0 if result["ok"] else 1
