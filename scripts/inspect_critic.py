"""How wrong Q is on demonstrations that it was trained on (mask train) and others (mask valid)."""

import argparse
import sys
from pathlib import Path

import robomimic_vae_ext.errors as errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=Path, nargs="+", required=True, help="checkpoints")
    parser.add_argument("--dataset", type=Path, required=True, help="that they were trained on")
    parser.add_argument(
        "--most", type=int, default=200, help="demonstrations of each mask, which lie in memory"
    )
    parser.add_argument("--csv", type=Path, help="also write the table there")
    args = parser.parse_args()
    if args.most < 1:
        parser.error("--most must be at least 1")
    from robomimic_vae_ext.study import critic_errors

    found = critic_errors.of_checkpoints(args.agent, args.dataset, args.most)
    print(critic_errors.table(args.agent, found))
    if args.csv:
        critic_errors.write_csv(args.csv, args.agent, found)
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("inspect_critic.py", main))
