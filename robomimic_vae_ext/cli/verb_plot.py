"""Draw the training curves of one or more robomimic runs in one figure.

    lapo plot runs/demo/vae runs/demo/joint --out curves.png --label vae joint

A run is its time-stamped folder, a checkpoint in it, or its experiment's folder, of which the
newest run is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from robomimic_vae_ext.errors import ConfigError

SUFFIXES: Final = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    parser.add_argument(  # the old spelling; `args.run` is the verb's function
        "--run", nargs="+", type=Path, default=[], dest="old_runs", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--label", nargs="+", help="one name for each run (default: the experiment's name)"
    )
    parser.add_argument("--out", type=Path, required=True, help="figure: PNG, PDF or SVG file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing figure")


def run(args: argparse.Namespace) -> int:
    """Draw the figure; the exit code is 0."""
    paths = [*args.runs, *args.old_runs]
    from robomimic_vae_ext import files

    if not paths:
        raise ConfigError("no RUN is given", "at least one run", "Add a run's folder.")
    if args.out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {args.out}", f"a file that ends in {SUFFIXES}", "Rename it.")
    files.check_output(args.out, args.overwrite)
    if args.label is not None and len(args.label) != len(paths):
        raise ConfigError(
            f"--label has {len(args.label)} names", f"{len(paths)}, one for each run", "Correct it."
        )
    from robomimic_vae_ext import runs
    from robomimic_vae_ext.analysis import curve_figures, run_metrics

    folders = [runs.find_run(path) for path in paths]
    labels = args.label or [folder.resolve().parent.name for folder in folders]
    if len(set(labels)) != len(labels):
        raise ConfigError(
            f"the runs are called {', '.join(labels)}", "different names", "Name them by --label."
        )
    series = {
        label: run_metrics.read_run(folder) for label, folder in zip(labels, folders, strict=True)
    }
    curve_figures.training_curves(series, args.out)
    print(f"figure: {args.out}")
    return 0
