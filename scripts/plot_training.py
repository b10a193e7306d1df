"""Draw the training curves of one or more robomimic runs over each other."""

import argparse
import sys
from pathlib import Path

import robomimic_vae_ext.errors as errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="run folders")
    parser.add_argument("--label", nargs="+", help="one name per run (default: experiment name)")
    parser.add_argument("--out", type=Path, required=True, help="PNG or PDF file")
    args = parser.parse_args()
    labels = args.label or [run.resolve().parent.name for run in args.run]
    if len(labels) != len(args.run) or len(set(labels)) != len(labels):
        parser.error("--label needs one different name per run")
    if args.out.suffix not in (".png", ".pdf", ".svg"):
        parser.error("--out must end in .png, .pdf or .svg")
    from robomimic_vae_ext.study import metrics, plots

    runs = {label: metrics.read_run(run) for label, run in zip(labels, args.run, strict=True)}
    plots.training_curves(runs, args.out)
    print(f"figure: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("plot_training.py", main))
