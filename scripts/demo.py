"""From nothing to a trained, evaluated policy with video and figures; what `make demo` runs."""

import argparse
import sys
from pathlib import Path

import robomimic_vae_ext.demo as demo
import robomimic_vae_ext.errors as errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything")
    parser.add_argument("--fast", action="store_true", help="a miniature that learns nothing")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    args = parser.parse_args()
    demo.run(args.out, args.fast, args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("demo.py", main))
