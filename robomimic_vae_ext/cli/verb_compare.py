"""Compare two robomimic runs: their curves in one figure, and a table by ranges of epochs.

    lapo compare runs/old runs/new --out runs/comparison

Writes comparison.md and comparison.png. The table says for epochs 1-10, 10-50 and 50+ whether the
loss settles and whether success rises. A run is its time-stamped folder, a checkpoint in it, or its
experiment's folder, of which the newest run is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("run_a", type=Path, metavar="RUN1", help="the old run")
    parser.add_argument("run_b", type=Path, metavar="RUN2", help="the new run")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/comparison"), help="folder of table and figure"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing comparison")


def run(args: argparse.Namespace) -> int:
    """Write table and figure; the exit code is 0."""
    from robomimic_vae_ext import files

    for name in ("comparison.md", "comparison.png"):
        files.check_output(args.out / name, args.overwrite)
    from robomimic_vae_ext.analysis import two_runs

    print(two_runs.compare_runs(args.run_a, args.run_b, args.out))
    return 0
