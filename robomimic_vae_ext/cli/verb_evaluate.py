"""Play a checkpoint over episodes with fixed seeds: success rate with its interval, JSON, video.

Any robomimic checkpoint of any algorithm will do, on a robosuite environment. The same seed gives
the same episodes, with any number of workers.

examples:
  lapo evaluate RUN --n 50 --seed 0 --workers 2 --video policy.mp4 --out evaluation.json
  lapo evaluate RUN/models/model_epoch_10.pth --set algo.actor.extraction=zero
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo evaluate`."""
    parser.add_argument(
        "agent", type=Path, nargs="?",
        help="checkpoint (*.pth), or the folder of a run or an experiment: its newest one",
    )  # fmt: skip
    parser.add_argument("--agent", dest="agent_flag", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=50, help="number of episodes")
    parser.add_argument("--seed", type=int, default=0, help="base seed of the episodes")
    parser.add_argument("--horizon", type=int, help="steps per episode (default: the config's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="value of the config other than in training; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--trust", action="store_true",
        help="also read a checkpoint that is not data alone; this runs the code that it names",
    )  # fmt: skip
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", "--json", type=Path, help="JSON with every episode")
    outputs.add_argument("--video", type=Path, help="MP4 of the first episodes")
    outputs.add_argument("--video-episodes", type=int, default=5, help="episodes in the video")
    outputs.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--workers", type=int, default=1, help="episodes at the same time")
    speed.add_argument("--device", help="torch device (default: as the checkpoint's config says)")
    speed.add_argument(
        "--policy", choices=("worker", "one"),
        help="one policy for every worker, or one for all; the outcomes are the same "
        "(default: one for all on a GPU, where it can be)",
    )  # fmt: skip
    speed.add_argument("--start-timeout", type=float, default=120.0, help="of a worker [s]")
    speed.add_argument("--step-timeout", type=float, default=60.0, help="of a worker [s]")


def check(args: argparse.Namespace) -> Path:
    """Check the arguments; return the path that was given.

    Raises:
        ConfigError: no checkpoint, or a number out of range.
        OutputError: an output that exists.
    """
    agent = args.agent or args.agent_flag
    if agent is None:
        raise ConfigError(
            "no checkpoint is given",
            "a checkpoint or the folder of a training run",
            "For instance: lapo evaluate runs/vae_joint --n 50",
        )
    for flag in ("n", "workers", "video_episodes", "start_timeout", "step_timeout", "horizon"):
        value = getattr(args, flag)
        if value is not None and not value >= 1:
            raise ConfigError(
                f"--{flag.replace('_', '-')} {value}", "a number from 1", "Correct it."
            )
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}", "a number from 0", "Correct it.")
    if args.video is not None and args.video.suffix != ".mp4":
        raise ConfigError(
            f"--video {args.video}", "a name that ends in .mp4", "Rename it, such as policy.mp4."
        )
    from robomimic_vae_ext import files

    for flag in ("out", "video"):
        if getattr(args, flag) is not None:
            files.check_output(getattr(args, flag), args.overwrite, f"--{flag}")
    return Path(agent)


def run(args: argparse.Namespace) -> int:
    """Play the episodes and print the result in one line."""
    agent = check(args)
    from robomimic_vae_ext import overrides, runs
    from robomimic_vae_ext.rollout.evaluate import evaluate, write_json
    from robomimic_vae_ext.rollout.worker_pool import Patience

    checkpoint = runs.find_checkpoint(agent)
    for path in (args.out, args.video):
        if path is not None:  # what cannot be written is an error before the first episode
            path.parent.mkdir(parents=True, exist_ok=True)
    result = evaluate(
        checkpoint, args.n, args.seed, args.horizon, args.video, args.video_episodes,
        args.workers, args.device, args.policy and args.policy == "one",
        Patience(args.start_timeout, args.step_timeout), overrides.parse(args.set), args.trust,
    )  # fmt: skip
    try:
        if args.out is not None:
            write_json(result, args.out)
            print(f"every episode: {args.out}")
        if args.video is not None:
            print(f"video: {args.video}")
    finally:
        print(result.one_line())
    return 0
