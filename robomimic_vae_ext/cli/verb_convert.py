"""Complete or translate a dataset into a new file; the source is never changed.

Without --replay: adds next_obs and dones where they are missing, on request also rewards, clips
actions and translates env_args between robosuite 1.4 and 1.5. Everything else is copied. A report
says what was added, left out and clipped for each demonstration, and how that was decided.
With --replay: renders recorded simulator states in the installed robosuite, for robosuite's
demo.hdf5 (states and actions only) or for images of other cameras or another size. What was
recorded is compared with what is made; a demonstration that differs is left out and named.

Examples:
  lapo convert datasets/old.hdf5 datasets/new.hdf5 --clip-actions --robosuite installed
  lapo convert demo.hdf5 datasets/demo.hdf5 --replay --cameras agentview robot0_eye_in_hand
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import errors, files

_COMPLETE: Final = (
    "assume_success", "dones_from", "length", "clip_actions", "split", "robosuite_version",
    "follow_links",
)  # fmt: skip
_REPLAY: Final = ("cameras", "size", "rendering", "compress", "tolerance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lapo convert`."""
    parser.add_argument("source", type=Path, help="a robomimic dataset, or robosuite's demo.hdf5")
    parser.add_argument("target", type=Path, nargs="?", help="the HDF5 file to write")
    parser.add_argument("--out", type=Path, help="the same as target")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help="also draw a contact sheet: pictures of up to 12 demonstrations",
    )
    complete = parser.add_argument_group("without --replay")
    complete.add_argument(
        "--assume-success",
        action="store_true",
        help="where rewards are missing or all 0: reward 1 and done 1 at the end of every "
        "demonstration",
    )
    complete.add_argument(
        "--dones-from",
        choices=("success", "end", "none"),
        help="dones of every demonstration: 1 at each step whose reward shows success, 1 at the "
        "last step, or 0 (default: those of the file; where they are missing, success if rewards "
        "are paid once at the end, else an error)",
    )
    complete.add_argument(
        "--length",
        choices=("num_samples", "actions"),
        help="what counts the transitions (default: num_samples, if there are as many actions or "
        "one more)",
    )
    complete.add_argument(
        "--clip-actions", action="store_true", help="to [-1, 1]; refused for absolute actions"
    )
    complete.add_argument(
        "--split", action="store_true", help="add masks train and valid, with a tenth in valid"
    )
    complete.add_argument(
        "--follow-links",
        action="store_true",
        help="also copy what the file keeps in other files (default: refuse it)",
    )
    complete.add_argument(
        "--robosuite",
        dest="robosuite_version",
        metavar="VERSION",
        help="translate env_args for this version of robosuite, or 'installed'",
    )
    replay = parser.add_argument_group(
        "with --replay, which clips deltas to the controllers' range"
    )
    replay.add_argument(
        "--replay", action="store_true", help="make observations from recorded simulator states"
    )
    # No defaults here: a flag that was given without --replay is an error.
    replay.add_argument("--cameras", nargs="*", help="to render (default: none, no images)")
    replay.add_argument("--size", type=int, help="height and width of images [pixel] (default: 84)")
    replay.add_argument(
        "--rendering", choices=("fast", "full"), help="see lapo collect (default: fast)"
    )
    replay.add_argument(
        "--tolerance",
        type=float,
        help="largest median difference from a recorded observation [m, rad]; demonstrations "
        "beyond it are left out, inf keeps all (default: 0.005)",
    )
    replay.add_argument("--compress", choices=("gzip", "lzf"), help="compression of images")


def run(args: argparse.Namespace) -> int:
    """Convert the dataset; returns the exit code."""
    target = _target(args)
    options = _options(args)
    files.check_output(target, args.overwrite)
    if args.sheet is not None:
        files.check_output(args.sheet, args.overwrite, "--sheet")
        if args.replay and not args.cameras:
            raise errors.ConfigError(
                "--sheet without --cameras", "pictures to draw", "Add --cameras."
            )
    report: Any
    if args.replay:
        from robomimic_vae_ext.data.conversion.playback import replay_dataset

        report = replay_dataset(args.source, target, overwrite=args.overwrite, **options)
    else:
        from robomimic_vae_ext.data.conversion.convert import complete_dataset

        report = complete_dataset(args.source, target, overwrite=args.overwrite, **options)
    print(report.describe())
    if args.sheet is not None:
        from robomimic_vae_ext.data.conversion.contact_sheet import write_contact_sheet

        write_contact_sheet(target, args.sheet, overwrite=args.overwrite)
        print(f"contact sheet: {args.sheet}")
    return 0


def _target(args: argparse.Namespace) -> Path:
    """Return the file to write, which is named once."""
    named = [path for path in (args.target, args.out) if path is not None]
    if len(named) != 1:
        raise errors.ConfigError(
            f"{len(named)} files to write",
            "one, as `lapo convert SOURCE TARGET` or `lapo convert SOURCE --out TARGET`",
            "Name it once.",
        )
    return Path(named[0])


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that were given; refuse those of the other way to convert."""
    given = {
        name: getattr(args, name)
        for name in (*_COMPLETE, *_REPLAY)
        if getattr(args, name) not in (None, False)
    }
    ignored = [
        "--" + name.removesuffix("_version").replace("_", "-")
        for name in given
        if (name in _REPLAY) != args.replay
    ]
    if ignored:
        raise errors.ConfigError(
            f"{' '.join(ignored)} {'with' if args.replay else 'without'} --replay",
            "flags of one of the two ways to convert (see --help)",
            f"Leave it out{', or convert in two runs' if args.replay else ', or add --replay'}.",
        )
    size = given.get("size", 1)
    if size < 1:
        raise errors.ConfigError(f"--size {size}", "at least 1 pixel", "Change --size.")
    if not given.get("tolerance", 1) > 0:
        raise errors.ConfigError(
            f"--tolerance {given['tolerance']}", "a positive number", "Change --tolerance."
        )
    return given
