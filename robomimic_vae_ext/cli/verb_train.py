"""Train from a config, of any algorithm of robomimic.

The config and the whole dataset are checked before anything starts, every run gets a folder of its
own, and the exit code says whether it finished. Otherwise this is robomimic's own train.py.

example:
  lapo train --config vae_joint --dataset datasets/lift_mixed.hdf5 --seed 1 --output runs
"""

from __future__ import annotations

import argparse
from typing import Any

from robomimic_vae_ext.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo train`."""
    what = parser.add_argument_group("what to train")
    what.add_argument("--config", help="path of a config JSON, or name of a shipped config")
    what.add_argument("--algo", help="a registered algorithm with its defaults, without --config")
    what.add_argument("--dataset", help="HDF5 file, instead of train.data")
    what.add_argument("--seed", type=int, help="of the training, instead of train.seed")
    what.add_argument("--epochs", type=int, help="instead of train.num_epochs")
    what.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="another value of the config, such as algo.encoder.owner=critic; may be repeated",
    )  # fmt: skip
    where = parser.add_argument_group("where")
    where.add_argument("--output", "--out", help="folder of experiments, for train.output_dir")
    where.add_argument("--name", help="of the experiment, instead of experiment.name")
    where.add_argument("--device", help="torch device (default: as train.cuda says)")
    where.add_argument(
        "--workers", type=int, metavar="N", help="processes for the rollouts (default: none)"
    )
    parser.add_argument("--debug", action="store_true", help="robomimic's few steps of everything")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the only run there (robomimic 0.5.0)"
    )


def run(args: argparse.Namespace) -> int:
    """Train; print the run's folder at the start and at the end."""
    if args.config is None and args.algo is None:
        raise ConfigError(
            "neither --config nor --algo is given",
            "a config to train from",
            "Add one, for instance: lapo train --config vae_joint --dataset data.hdf5",
        )
    from robomimic_vae_ext import overrides, training

    flags: dict[str, Any] = {
        "train.data": args.dataset,
        "train.seed": args.seed,
        "train.num_epochs": args.epochs,
        "train.output_dir": args.output,
        "experiment.name": args.name,
        "experiment.rollout.num_workers": args.workers,
    }
    settings = overrides.parse(args.set)
    for key, value in flags.items():
        if value is None:
            continue
        if key in settings:
            raise ConfigError(
                f"{key} is given twice, by --set and by its own flag", "it once", "Leave one out."
            )
        settings[key] = value
    folder = training.train(
        training.TrainOptions(
            args.config, args.algo, settings, args.device, args.debug, args.resume
        )
    )
    saved = len(list(folder.glob("models/*.pth")))
    print(f"{saved} checkpoints, logs and videos: {folder}")
    return 0
