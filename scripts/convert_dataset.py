"""Complete or translate a dataset into a new file; nothing is changed in place."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError, exit_code

# robosuite's advice on its settings.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("source", type=Path, help="the dataset, or robosuite's demo.hdf5")
    parser.add_argument("target", type=Path, help="the file to make")
    complete = parser.add_argument_group("without --replay")
    complete.add_argument("--assume-success", action="store_true", help="no rewards: 1 at the end")
    complete.add_argument("--clip-actions", action="store_true", help="to [-1, 1]")
    complete.add_argument(
        "--robosuite", dest="robosuite_version", help="env_args for this version, or 'installed'"
    )
    replay = parser.add_argument_group("with --replay, which always clips, for this robosuite")
    replay.add_argument("--replay", action="store_true", help="states to observations and rewards")
    replay.add_argument("--cameras", nargs="*", help="pictures of these")
    replay.add_argument("--size", type=int, help="of the pictures [pixel] (84)")
    replay.add_argument("--rendering", help="fast or full (fast)")
    replay.add_argument("--compress", help="gzip or lzf, for pictures")
    options = vars(parser.parse_args())  # only what was given
    replaying = options.pop("replay", False)
    own = {"cameras", "size", "rendering", "compress"}
    ignored = [
        "--" + name.removesuffix("_version").replace("_", "-")
        for name in options
        if name not in {"source", "target"} and (name in own) != replaying
    ]
    if ignored:
        raise ConfigError(
            f"{' '.join(ignored)} {'beside' if replaying else 'without'} --replay",
            "one of the two ways, each with its own flags (see --help)",
            f"Leave it out{', or convert in two runs' if replaying else ', or add --replay'}.",
        )
    if replaying:
        from robomimic_vae_ext.data.playback import replay_dataset

        print(replay_dataset(**options).describe())
    else:
        from robomimic_vae_ext.data.convert import complete_dataset

        print(complete_dataset(**options).describe())
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("convert_dataset.py", main))
