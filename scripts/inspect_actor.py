"""How far the latent actor moves actions on held-out demonstrations, and for how much Q."""

import argparse
import sys
from pathlib import Path

import robomimic_vae_ext.errors as errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=Path, nargs="+", required=True, help="checkpoints of lapo")
    parser.add_argument("--dataset", type=Path, required=True, help="with a mask 'valid'")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    args = parser.parse_args()
    from robomimic_vae_ext.study import actor_shift

    found = actor_shift.of_checkpoints(args.agent, args.dataset)
    print(actor_shift.table(args.agent, found))
    if args.csv:
        actor_shift.write_csv(args.csv, args.agent, found)
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("inspect_actor.py", main))
