"""Which loss trains which module, who owns it, did it move: 0 contract kept, 1 broken, 2 unusable.

python scripts/test_gradient_flow.py --config configs/vae_fixed.json
"""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="robomimic config in JSON")
    parser.add_argument("--algo", help="any registered algorithm: bc, bcq, cql, iql, ...")
    parser.add_argument("--dataset", help="HDF5 file; without it a batch is made up")
    parser.add_argument("--json", help="file for the report as JSON")
    parser.add_argument("--figure", help="file for the picture: .png, .pdf or .svg")
    parser.add_argument("--steps", type=int, default=2, help="recorded training steps")
    parser.add_argument("--trace", action="store_true", help="also print every event in order")
    args = parser.parse_args()
    if args.config is None and args.algo is None:
        parser.error("give --config, --algo or both")
    from robomimic_vae_ext.gradient_flow.command import run

    return run(args.config, args.algo, args.dataset, args.json, args.figure, args.steps, args.trace)


if __name__ == "__main__":
    sys.exit(main())
