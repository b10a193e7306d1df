"""Train from a config, of any algorithm of robomimic.

The config and the whole dataset are checked before anything starts, every run gets a folder of its
own, and the exit code says whether it finished. Otherwise this is robomimic's own train.py.

example:
  lapo train --config vae_joint --dataset datasets/lift_mixed.hdf5 --seed 1 --output runs
  lapo train --resume runs/vae_joint/20261129120000

A run that has stopped, for whatever reason, goes on where its state was saved last: on the CPU to
the same bits as without the interruption. `--resume auto`, added to a complete command, continues
the newest unfinished run of that command, or begins one: for jobs that are started again.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from robomimic_vae_ext.errors import ConfigError

#: Flag to the key of the config that it sets.
_FLAGS: Final = {
    "dataset": "train.data",
    "seed": "train.seed",
    "epochs": "train.num_epochs",
    "output": "train.output_dir",
    "name": "experiment.name",
    "keep_last": "experiment.save.keep_last",
    "workers": "experiment.rollout.num_workers",
}


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
    where.add_argument(
        "--output", "--out",
        help="folder of experiments, for train.output_dir (shipped configs: "
        "~/robomimic_vae_ext_runs)",
    )  # fmt: skip
    where.add_argument("--name", help="of the experiment, instead of experiment.name")
    where.add_argument("--device", help="torch device (default: as train.cuda says)")
    where.add_argument(
        "--workers", type=int, metavar="N", help="processes for the rollouts (default: none)"
    )
    parser.add_argument(
        "--debug", action="store_true",
        help="robomimic's few steps of everything, into /tmp/tmp_trained_models",
    )  # fmt: skip
    safety = parser.add_argument_group("interruptions and failures")
    safety.add_argument(
        "--resume", metavar="RUN",
        help="folder of a run, or of an experiment with an unfinished one, to continue with its "
        "own config; or auto",
    )  # fmt: skip
    safety.add_argument(
        "--save-state-minutes", type=float, default=10.0, metavar="M",
        help="most time between two saved states within an epoch [min]; one is saved after every "
        "epoch too",
    )  # fmt: skip
    safety.add_argument(
        "--save-state-steps", type=int, metavar="N",
        help="most gradient steps between them (default: no limit)",
    )  # fmt: skip
    safety.add_argument(
        "--keep-last", type=int, metavar="N",
        help="remove older checkpoints, except the best by success, return and validation "
        "(default: keep all)",
    )  # fmt: skip
    safety.add_argument(
        "--on-nan", choices=("stop", "skip"), default="stop",
        help="what to do about a loss or gradient that is not finite: end the run, or leave out "
        "the optimizer step",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train; print the run's folder at the start and at the end."""
    _check(args)
    from robomimic_vae_ext import overrides
    from robomimic_vae_ext.training import training_run

    flags: dict[str, Any] = {name: getattr(args, flag) for flag, name in _FLAGS.items()}
    settings = overrides.parse(args.set)
    for key, value in flags.items():
        if value is None:
            continue
        if key in settings:
            raise ConfigError(
                f"{key} is given twice, by --set and by its own flag", "it once", "Leave one out."
            )
        settings[key] = value
    saving = training_run.Saving(args.save_state_minutes, args.save_state_steps)
    folder = training_run.train(
        training_run.TrainOptions(
            args.config, args.algo, settings, args.device, args.debug, args.resume, saving,
            args.on_nan == "skip",
        )
    )  # fmt: skip
    saved = len(list(folder.glob("models/*.pth")))
    print(f"{saved} checkpoints, logs and videos: {folder}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Check the arguments against each other.

    Raises:
        ConfigError: no config, or one beside that of a run to continue; a number out of range.
    """
    from robomimic_vae_ext import shipped_configs

    config = [
        flag
        for flag in ("config", "algo", *_FLAGS, "set", "debug")
        if getattr(args, flag) not in (None, False, [])
    ]
    if args.resume not in (None, "auto") and config:
        raise ConfigError(
            f"--resume {args.resume} with {', '.join('--' + flag for flag in config)}",
            "no other config: the run goes on with its own",
            "Leave them out, or write --resume auto.",
        )
    if args.resume in (None, "auto") and args.config is None and args.algo is None:
        raise ConfigError(
            "neither --config nor --algo is given",
            "a config to train from",
            "Add one, for instance: lapo train --config vae_joint --dataset data.hdf5",
        )
    if args.config is not None and args.algo is not None:
        raise ConfigError(
            f"--config {args.config} and --algo {args.algo}",
            "one of them: a config names its algorithm",
            "Leave one out.",
        )
    if args.debug and args.output is not None:
        raise ConfigError(
            f"--debug with --output {args.output}",
            "--debug alone: it writes to /tmp/tmp_trained_models",
            "Leave one out; for a short training in a folder of your own use --epochs.",
        )
    # What needs no imports is checked before they take their seconds.
    if args.config is not None:
        shipped_configs.find(args.config)
    for flag in ("save_state_minutes", "save_state_steps"):
        value = getattr(args, flag)
        least = 0 if flag == "save_state_minutes" else 1
        if value is not None and not value >= least:
            raise ConfigError(
                f"--{flag.replace('_', '-')} {value}", f"a number from {least}", "Correct it."
            )
