"""Measure training, data, rollouts and collection beside robomimic's own algorithms."""

import argparse
import logging
import sys
from pathlib import Path

import robomimic_vae_ext.errors as errors

# robosuite's advice on its settings, once in every process; spawned workers run this line too.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
PARTS = ("steps", "data", "train", "rollouts", "collect")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON; a chart goes beside it")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--repeats", type=int, default=7, help="samples of everything")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes")
    parser.add_argument("--fast", action="store_true", help="a miniature that measures nothing")
    args = parser.parse_args()
    if args.repeats < 1 or 1 not in args.workers or min(args.workers) < 1:
        parser.error("--repeats and --workers must be at least 1, and 1 worker among them")
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("robomimic_vae_ext.benchmark").setLevel(logging.INFO)
    # The owner `vae` breaks its contract on purpose, and the audit would say so.
    logging.getLogger("robomimic_vae_ext.gradient_flow").setLevel(logging.ERROR)
    # Only now: --help needs neither torch nor a simulator.
    import torch

    from robomimic_vae_ext.benchmark import run

    workers = tuple(sorted(set(args.workers)))
    device = torch.device(args.device)
    plan = run.fast_plan(workers) if args.fast else run.full_plan(device, args.repeats, workers)
    print(run.summary(run.run(plan, args.only, device, args.out)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except errors.VaeExtError as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        sys.exit(2)
