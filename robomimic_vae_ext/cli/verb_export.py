"""Write a LAPO policy to a file that acts without robomimic and without a simulator.

torchscript holds the whole policy: it takes raw observations (pictures as the camera gives them)
and returns actions, with torch alone. safetensors holds the weights, with config and shapes as
metadata, for other frameworks. docs/examples/act_from_export.py acts from such a file.

example:
  lapo export runs/vae_joint --format torchscript --out policy.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo export`."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT",
        help="file (*.pth), or the folder of a run or an experiment: its newest one",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("torchscript", "safetensors"), default="torchscript",
        help="what to write",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--trust", action="store_true",
        help="also read a checkpoint that is not data alone; this runs the code that it names",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the file; print what the policy takes and gives."""
    from robomimic_vae_ext import files

    files.check_output(args.out, args.overwrite)
    from robomimic_vae_ext import runs
    from robomimic_vae_ext.rollout import exported_policy

    note = exported_policy.export(
        runs.find_checkpoint(args.checkpoint), args.format, args.out, args.trust
    )
    for key, shape in note["observations"].items():
        print(f"observation {key}: {tuple(shape)}")
    print(f"action: {note['action']} numbers in [-1, 1]")
    print(f"policy: {args.out}")
    return 0
