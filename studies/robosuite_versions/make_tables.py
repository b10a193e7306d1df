"""Write the two generated tables of docs/data_conversion.md.

    python studies/robosuite_versions/make_tables.py motion
    python studies/robosuite_versions/make_tables.py human --demos datasets/human --out FOLDER

`motion` plays the recordings of robosuite 1.4.1 (`record_14.py`) under the installed robosuite, in
five minutes on one core. `human` converts what fetch_human_demos.py wrote, with pictures of two
cameras and a contact sheet per file, and writes them to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from robomimic_vae_ext import errors, files
from robomimic_vae_ext.errors import DatasetError

PAGE = Path(__file__).parents[2] / "docs" / "data_conversion.md"


def motion_table() -> str:
    """Play every recording and hold a pose with every controller."""
    from studies.robosuite_versions import motion

    head = (
        "| controller | actions | frame in 1.5 | robot's base | robot | config | result | follows "
        "[mm, °] | of a path of [mm] | holds [mm, °] |"
    )
    lines = [head, "| --- " * 7 + "| ---: | ---: | ---: |"]
    for recording in motion.recordings():
        changes = dict(recording.changes)
        delta = changes.pop("control_delta", None)
        if delta is False and recording.given == "delta":
            changes["control_delta"] = False
        config = ", ".join(f"{key}: {json.dumps(value)}" for key, value in changes.items())
        row = [recording.controller, recording.given]
        case = [recording.base, recording.robot, config]
        try:
            followed = motion.follow(recording)
        except DatasetError:
            lines.append(" | ".join(["|", *row, "–", *case, "refused", "", "", "", "|"])[2:])
            continue
        held = motion.hold(recording) if config.count("impedance") == 0 else None
        same = followed[0] <= motion.SAME[0] and followed[1] <= motion.SAME[1]
        near = followed[0] <= motion.NEAR[0] and followed[1] <= motion.NEAR[1]
        result = "same" if same else "near" if near else "DIFFERENT"
        frame = "world" if recording.controller == "OSC_POSE" else "joints"
        numbers = [
            f"{1000 * followed[0]:.2f}, {followed[1]:.2f}",
            f"{1000 * recording.travel:.0f}",
            f"{1000 * held[0]:.2f}, {held[1]:.2f}" if held else "",
        ]
        lines.append("| " + " | ".join([*row, frame, *case, result, *numbers]) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def human_table(demos: Path, out: Path, cameras: list[str]) -> str:
    """Convert every human file; a line per file."""
    from robomimic_vae_ext.data.conversion.contact_sheet import write_contact_sheet
    from robomimic_vae_ext.data.conversion.playback import replay_dataset

    lines = [
        "| file | demonstrations | transitions | success | actions | clipped values | one action "
        "errs by / motion [mm] | left out |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for source in sorted(demos.glob("*.hdf5")):
        target = out / source.name
        try:
            report = replay_dataset(source, target, cameras, compress="lzf", overwrite=True)
        except DatasetError as error:
            reason = error.found.split("(", 1)[-1].removesuffix(")")
            lines.append(f"| {source.stem} | 0 | | | | | | {reason} |")
            print(error, flush=True)
            continue
        print(report.describe(), flush=True)
        if cameras:
            write_contact_sheet(target, target.with_suffix(".png"), overwrite=True)
        error = max(1000 * demo.motion_error for demo in report.kept)
        moved = sum(1000 * demo.motion for demo in report.kept) / len(report.kept)
        refused = "; ".join(demo.describe() for demo in report.demos if demo.refused)
        shifted = sum(map(bool, report.shifts))
        lines.append(
            f"| {source.stem} | {len(report.kept)} of {len(report.demos)} | {report.transitions} | "
            f"{report.successes} | {f'{shifted} shifted' if shifted else 'aligned'} | "
            f"{report.clipped} | {error:.1f} / {moved:.1f} | {refused or 'nothing'} |"
        )
    return "\n".join(lines) + "\n"


def fill(page: str, name: str, table: str) -> str:
    """Return the page with a table between its markers."""
    pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise DatasetError(f"{PAGE} has no marker of {name}", "it", "Put the markers back.")
    return pattern.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", page)


def main() -> int:
    """Make a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("motion", "human"))
    parser.add_argument("--demos", type=Path, default=Path("datasets/human"))
    parser.add_argument("--out", type=Path, default=Path("datasets/human_converted"))
    parser.add_argument("--cameras", nargs="*", default=["agentview", "robot0_eye_in_hand"])
    args = parser.parse_args()
    if args.table == "motion":
        table = motion_table()
    else:
        table = human_table(args.demos, args.out, args.cameras)
    files.write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), args.table, table))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(errors.exit_code("make_tables", main))
