"""Make a dataset in robomimic's HDF5 layout: a scripted expert plays a robosuite task.

The content of the file depends on the task, the quality, the number of episodes, the seed and the
cameras, not on the number of processes. An interrupted run is continued with --resume.

Example:
  lapo collect --env Lift --quality mixed --n 200 --cameras agentview robot0_eye_in_hand \\
      --workers 2 --out datasets/lift_mixed.hdf5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from robomimic_vae_ext import errors, files

# Here too, since the modules that define them import a simulator; a test compares both.
ENVIRONMENTS: Final = ("Lift", "Stack", "PickPlaceCan", "PlayLift")
QUALITIES: Final = ("expert", "mixed", "noisy", "random", "paired")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo collect`."""
    parser.add_argument("--env", default="Lift", choices=ENVIRONMENTS, help="the task")
    parser.add_argument(
        "--quality",
        default="mixed",
        choices=QUALITIES,
        help="of the demonstrations; paired, for PickPlaceCan only: each start once with success "
        "and once with failure",
    )
    parser.add_argument("--n", type=int, default=200, help="number of episodes")
    parser.add_argument(
        "--cameras", nargs="*", default=[], help="robosuite's camera names; none: no images"
    )
    parser.add_argument("--size", type=int, default=84, help="height and width of images [pixel]")
    parser.add_argument("--seed", type=int, default=0, help="of the whole dataset")
    parser.add_argument(
        "--horizon",
        type=int,
        default=0,
        help="length of an episode without success [steps]; 0: the task's own, 80 to 160",
    )
    parser.add_argument("--compress", choices=("gzip", "lzf"), help="compression of images")
    parser.add_argument(
        "--rendering",
        default="fast",
        choices=("fast", "full"),
        help="fast: without reflections and multisampling; full: as robosuite renders",
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--out", type=Path, required=True, help="the HDF5 file to write")


def run(args: argparse.Namespace) -> int:
    """Collect the dataset; returns the exit code."""
    least = {"n": 1, "size": 1, "seed": 0, "horizon": 0, "workers": 1}
    for name, bound in least.items():
        value = getattr(args, name)
        if value < bound:
            raise errors.ConfigError(f"--{name} {value}", f"at least {bound}", f"Change --{name}.")
    files.check_output(args.out, args.overwrite)

    from robomimic_vae_ext.data.simulation import collect, envs, scripted_episode

    spec = envs.EnvSpec(args.env, tuple(args.cameras), args.size, args.rendering)
    settings = scripted_episode.CollectSettings(
        spec, args.quality, args.n, args.seed, args.horizon, args.compress or ""
    )
    try:
        report = collect.collect(settings, args.out, args.workers, args.resume, args.overwrite)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --resume continues", file=sys.stderr)
        return 130
    print(report.describe())
    return 0
