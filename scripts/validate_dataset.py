"""Check a robomimic dataset: exit code 0 if it can be trained on, 2 and one line if not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="the HDF5 file")
    parser.add_argument("--obs-keys", nargs="*", default=[], help="that must be there")
    parser.add_argument("--filter-keys", nargs="*", default=[], help="that must be there")
    parser.add_argument(
        "--imitation", action="store_true", help="next_obs, rewards and dones may be missing"
    )
    parser.add_argument(
        "--strict-version", action="store_true", help="another robosuite version is an error"
    )
    parser.add_argument(
        "--read-pictures", action="store_true", help="their pixels too, which finds damage"
    )
    args = parser.parse_args()
    info = validate_dataset(
        args.dataset,
        args.obs_keys,
        args.filter_keys,
        need_transitions=not args.imitation,
        strict_version=args.strict_version,
        read_pictures=args.read_pictures,
    )
    print(
        f"{info.path}: valid; {len(info.demos)} demonstrations, {info.transitions} transitions, "
        f"environment {info.env_args['env_name']}, actions ({info.action_size},)"
    )
    for key, shape in info.obs_shapes.items():
        print(f"  {key}: {shape}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("validate_dataset.py", main))
