"""Measure the speed of training, data, rollouts and collection beside robomimic's algorithms.

Prints a table. With --out, the raw times go into a JSON file, to which later runs with --only can
add other parts. Nothing else should run on the machine meanwhile. docs/performance.md explains the
parts and has results.

Examples:
  lapo bench --fast
  lapo bench --only steps --device cuda --out bench_gpu.json
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Final

from robomimic_vae_ext import errors

PARTS: Final = ("steps", "data", "train", "rollouts", "collect")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo bench`."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"parts to measure, of {', '.join(PARTS)}",
    )
    parser.add_argument("--repeats", type=int, default=7, help="samples of each measurement")
    parser.add_argument("--device", default="cpu", help="torch device: cpu, cuda, ...")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of processes to compare in rollouts and collection; 1 must be among them",
    )
    parser.add_argument("--fast", action="store_true", help="a miniature, to see that all runs")
    parser.add_argument("--out", type=Path, help="JSON file for the raw times; parts are added")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code."""
    if args.repeats < 1:
        raise errors.ConfigError(f"--repeats {args.repeats}", "at least 1", "Change --repeats.")
    if 1 not in args.workers or min(args.workers) < 1:
        found = " ".join(map(str, args.workers))
        raise errors.ConfigError(
            f"--workers {found}", "positive numbers, 1 among them", "Change --workers."
        )
    if args.out is not None and args.out.is_dir():
        raise errors.OutputError(f"{args.out} is a folder", "a JSON file", "Choose another --out.")
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("robomimic_vae_ext.benchmark").setLevel(logging.INFO)
    # The owner `vae` breaks its contract on purpose, and the audit during training would warn.
    logging.getLogger("robomimic_vae_ext.gradient_flow").setLevel(logging.ERROR)

    import torch

    from robomimic_vae_ext.benchmark import bench_tables, run_benchmark

    workers = tuple(sorted(set(args.workers)))
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise errors.ConfigError(
            f"--device {args.device}", "a torch device such as cpu or cuda", "Change --device."
        ) from error
    if args.fast:
        plan = run_benchmark.fast_plan(workers)
    else:
        plan = run_benchmark.full_plan(device, args.repeats, workers)
    print(bench_tables.summary(run_benchmark.run(plan, args.only, device, args.out)))
    return 0
