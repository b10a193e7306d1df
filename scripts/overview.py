"""One table and one figure of the claims of several published studies, for a README.

python scripts/overview.py docs/results.json docs/longer/results.json --figure docs/overview.png
"""

import argparse
import sys
from pathlib import Path

from robomimic_vae_ext.errors import exit_code


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="results.json")
    parser.add_argument("--figure", type=Path, default=Path("overview.png"), help="PNG or PDF")
    parser.add_argument("--readme", type=Path, help="fill in the tables at '<!-- overview -->'")
    args = parser.parse_args()
    if args.figure.suffix not in (".png", ".pdf", ".svg"):
        parser.error("--figure must end in .png, .pdf or .svg")
    from robomimic_vae_ext.study import overview

    print(overview.write(args.results, args.figure, args.readme))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("overview.py", main))
