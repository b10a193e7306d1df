"""Collect a robosuite dataset with scripted experts, in robomimic's HDF5 schema."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from robomimic_vae_ext.errors import exit_code

# robosuite's advice on its settings, once in every process; spawned workers run this line too.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Lift", help="Lift, Stack, PickPlaceCan or PlayLift")
    parser.add_argument("--quality", default="mixed", help="expert, mixed, noisy, random, paired")
    parser.add_argument("--n", type=int, default=200, help="number of episodes")
    parser.add_argument("--cameras", nargs="*", default=[], help="none: low-dimensional only")
    parser.add_argument("--size", type=int, default=84, help="of the pictures [pixel]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--horizon", type=int, default=0, help="[steps]; 0: the task's own")
    parser.add_argument("--compress", default="", help="gzip or lzf, for pictures")
    parser.add_argument("--rendering", default="fast", help="fast or full")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--out", type=Path, required=True, help="the HDF5 file to make")
    args = parser.parse_args()
    try:
        from robomimic_vae_ext.data.collect import collect
        from robomimic_vae_ext.data.envs import EnvSpec
        from robomimic_vae_ext.data.scripted_episode import CollectSettings

        spec = EnvSpec(args.env, tuple(args.cameras), args.size, args.rendering)
        settings = CollectSettings(
            spec, args.quality, args.n, args.seed, args.horizon, args.compress
        )
        report = collect(settings, args.out, args.workers, args.resume, args.overwrite)
        print(report.describe())
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("collect_dataset.py", main))
