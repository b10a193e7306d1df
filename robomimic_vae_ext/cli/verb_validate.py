"""Check that datasets can be trained on.

Exit code 0 if all of them are valid; 2, and one line for the first problem of each file, if not.

Example:
  lapo validate datasets/lift_mixed.hdf5 --obs-keys agentview_image --filter-keys train valid
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from robomimic_vae_ext import errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo validate`."""
    parser.add_argument("datasets", type=Path, nargs="+", metavar="FILE", help="HDF5 files")
    parser.add_argument(
        "--obs-keys", nargs="*", default=[], metavar="KEY", help="observations that must exist"
    )
    parser.add_argument(
        "--filter-keys", nargs="*", default=[], metavar="MASK", help="masks that must exist"
    )
    parser.add_argument(
        "--imitation", action="store_true", help="next_obs, rewards and dones may be missing"
    )
    parser.add_argument(
        "--strict-version", action="store_true", help="another robosuite version is an error"
    )
    parser.add_argument(
        "--read-pictures",
        action="store_true",
        help="read the pixels of images too, which finds damaged files",
    )


def run(args: argparse.Namespace) -> int:
    """Check the datasets; returns the exit code."""
    from robomimic_vae_ext.data.validate import validate_dataset

    code = 0
    for path in args.datasets:
        try:
            info = validate_dataset(
                path,
                args.obs_keys,
                args.filter_keys,
                need_transitions=not args.imitation,
                strict_version=args.strict_version,
                read_pictures=args.read_pictures,
            )
        except errors.DatasetError as error:
            print(f"lapo validate: {error}", file=sys.stderr)
            code = 2
            continue
        print(
            f"{path}: valid; {len(info.demos)} demonstrations, {info.transitions} transitions, "
            f"environment {info.env_args['env_name']}, actions ({info.action_size},)"
        )
        for key, shape in info.obs_shapes.items():
            print(f"  {key}: {shape}")
    return code
