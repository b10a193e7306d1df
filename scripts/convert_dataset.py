"""Complete or translate a dataset into a new file; nothing is changed in place."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from robomimic_vae_ext.errors import exit_code

# robosuite's advice on its settings.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the dataset, or robosuite's demo.hdf5")
    parser.add_argument("target", type=Path, help="the file to make")
    parser.add_argument(
        "--assume-success", action="store_true", help="missing rewards: 1 at the end"
    )
    parser.add_argument("--clip-actions", action="store_true", help="to [-1, 1]")
    parser.add_argument("--robosuite", default="", help="env_args for this version, or 'installed'")
    parser.add_argument("--replay", action="store_true", help="states to observations and rewards")
    parser.add_argument("--cameras", nargs="*", default=[], help="with --replay")
    parser.add_argument("--size", type=int, default=84, help="of the pictures [pixel]")
    parser.add_argument("--rendering", default="fast", help="fast or full")
    parser.add_argument("--compress", default="", help="gzip or lzf, for pictures")
    args = parser.parse_args()
    if args.replay:
        from robomimic_vae_ext.data.replay import replay_dataset

        print(
            replay_dataset(
                args.source, args.target, args.cameras, args.size, args.rendering, args.compress
            ).describe()
        )
    else:
        from robomimic_vae_ext.data.convert import complete_dataset

        print(
            complete_dataset(
                args.source, args.target, args.assume_success, args.clip_actions, args.robosuite
            ).describe()
        )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("convert_dataset.py", main))
