"""Evaluate a checkpoint over fixed-seed episodes: success rate, interval, JSON, video."""

import argparse
import logging
import sys
from pathlib import Path

import robomimic_vae_ext.errors as errors

# robosuite's advice on its settings, in every process that is started.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=Path, required=True, help="checkpoint (*.pth) of a run")
    parser.add_argument("--n", type=int, default=50, help="number of episodes")
    parser.add_argument("--seed", type=int, default=0, help="base seed of the episodes")
    parser.add_argument("--horizon", type=int, help="steps per episode (default: the config's)")
    parser.add_argument("--video", type=Path, help="MP4 file for the first episodes")
    parser.add_argument("--video-episodes", type=int, default=5, help="episodes in the video")
    parser.add_argument("--json", type=Path, help="file for the result with every episode")
    parser.add_argument("--workers", type=int, default=1, help="episodes at the same time")
    parser.add_argument("--device", help="torch device (default: as the config says)")
    parser.add_argument(
        "--policy", choices=("worker", "one"), help="one policy for every worker, or one for all "
        "(default: one for all on a GPU, where it can be); the outcomes are the same",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="value of the config other than in training, such as algo.actor.rollout_latent=zero",
    )  # fmt: skip
    parser.add_argument("--start-timeout", type=float, default=120, help="of a worker [s]")
    parser.add_argument("--step-timeout", type=float, default=60, help="of a worker [s]")
    args = parser.parse_args()
    numbers = (args.n, args.workers, args.video_episodes, args.start_timeout, args.step_timeout)
    if min(numbers) < 1 or (args.horizon is not None and args.horizon < 1):
        parser.error("all numbers but --seed must be at least 1")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    # Only now: --help needs neither torch nor a simulator.
    from robomimic_vae_ext.rollout import overrides
    from robomimic_vae_ext.rollout.evaluate import evaluate, write_json
    from robomimic_vae_ext.rollout.worker_pool import Patience

    for path in (args.json, args.video):
        if path is not None:  # what cannot be written is said before the first episode
            path.parent.mkdir(parents=True, exist_ok=True)
    result = evaluate(
        args.agent, args.n, args.seed, args.horizon, args.video, args.video_episodes,
        args.workers, args.device, args.policy and args.policy == "one",
        Patience(args.start_timeout, args.step_timeout), overrides.parse(args.set),
    )  # fmt: skip
    try:
        if args.json is not None:
            write_json(result, args.json)
            print(f"every episode: {args.json}")
        if args.video is not None:
            print(f"video: {args.video}")
    finally:
        print(result.sentence())
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("evaluate.py", main))
