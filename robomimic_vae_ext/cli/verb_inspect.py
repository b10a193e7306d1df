"""What the critic or the actor of checkpoints does on the demonstrations of a dataset.

    lapo inspect critic runs/demo/joint --dataset lift.hdf5 --out critic.csv
    lapo inspect actor model_epoch_6.pth --dataset lift.hdf5

critic: error of Q against the demonstrations' returns, on those that it was trained on (mask
"train") and on held-out ones (mask "valid"), and how well Q separates rewarded demonstrations from
others (AUC). Any algorithm with a critic.

actor: how far LAPO's actor moves actions away from those of z = 0, for how much Q, on held-out
demonstrations.

A checkpoint is a file, a run's folder or an experiment's folder, of which the newest is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("what", choices=("critic", "actor"), help="which part of the algorithm")
    parser.add_argument("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--agent", nargs="+", type=Path, default=[], help=argparse.SUPPRESS)
    parser.add_argument(
        "--dataset", type=Path, required=True, help="HDF5 file that they were trained on"
    )
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    parser.add_argument("--csv", type=Path, dest="out", help=argparse.SUPPRESS)
    parser.add_argument(
        "--most", type=int, default=200, help="demonstrations of each mask, which are read at once"
    )
    parser.add_argument(
        "--trust", action="store_true",
        help="also read a checkpoint that is not data alone; this runs the code that it names",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing table")


def run(args: argparse.Namespace) -> int:
    """Print the table, and write it where --out says; the exit code is 0."""
    from robomimic_vae_ext import files

    paths = [*args.checkpoints, *args.agent]
    if not paths:
        raise ConfigError("no CHECKPOINT is given", "at least one", "Add one.")
    if args.most < 1:
        raise ConfigError(f"--most {args.most}", "at least 1", "Correct it.")
    if args.out is not None:
        files.check_output(args.out, args.overwrite)
    from robomimic_vae_ext import markdown, runs
    from robomimic_vae_ext.analysis import actor_shift, critic_errors

    found = [runs.find_checkpoint(path) for path in paths]
    part = critic_errors if args.what == "critic" else actor_shift
    table = part.of_checkpoints(found, args.dataset, args.most, trust=args.trust)
    print(markdown.frame(table.rename(columns=part.HEADINGS)))
    if args.out is not None:
        files.write_text(args.out, table.to_csv(index=False, float_format="%.6g"))
        print(f"table: {args.out}")
    return 0
