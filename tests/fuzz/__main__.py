"""Long fuzzing, with its figures as a page: `make fuzz`.

python -m tests.fuzz --examples 2000 --files 3000 --out docs/fuzz.md
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

CHUNK = 250  # files of one process


def replay(examples: int) -> tuple[int, int]:
    """Compare batches; return the numbers of files and of transitions. Raises where one differs."""
    words = ["-m", "pytest", "-q", "-s", "-n", "0", "tests/fuzz/test_replay_properties.py"]
    result = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True,
        env=dict(os.environ) | {"FUZZ_EXAMPLES": str(examples)},
    )  # fmt: skip
    found = re.search(r"FUZZ (\d+) files, (\d+) transitions", result.stdout)
    if result.returncode or not found:
        sys.exit(result.stdout[-5000:])
    return int(found[1]), int(found[2])


def damaged(files: int) -> tuple[Counter[str], list[str], list[int]]:
    """Try damaged files; return how they ended, crashes, and seeds at which libhdf5 hangs."""
    ends: Counter[str] = Counter()
    crashes: list[str] = []
    hangs: list[int] = []
    seed = 0
    while seed < files:
        count = min(CHUNK, files - seed)
        words = [sys.executable, "-m", "tests.fuzz.damaged_files", str(count), str(seed)]
        result = subprocess.run(words, capture_output=True, text=True)
        if result.returncode == 0:
            found = json.loads(result.stdout)
            ends.update(found["ends"])
            crashes += found["crashes"]
            seed += count
            continue
        last = int(re.findall(r"^seed (\d+)", result.stderr, re.MULTILINE)[-1])
        if "Timeout" in result.stderr:
            hangs.append(last)
        else:
            crashes.append(f"seed {last}: exit code {result.returncode}")
        if last > seed:  # once more, without the file that ended the process
            again = subprocess.run(
                [*words[:3], str(last - seed), str(seed)], capture_output=True, text=True
            )
            found = json.loads(again.stdout)
            ends.update(found["ends"])
            crashes += found["crashes"]
        seed = last + 1
    return ends, crashes, hangs


PAGE = """# Fuzzing of the data reader

Made by `make fuzz`; the test suite runs a small part of the same ({short}).

| what | tried | wrong |
|---|---|---|
| files of random shapes, types, chunks, masks and lengths: batches of the replay against a plain computation | {files} files, {transitions} transitions | 0 |
| files with flipped bytes or cut off, read by `lapo validate` and `lapo convert`: a traceback, a dead process, or something left behind | {damaged} files | {crashes} |
| the same: libhdf5 itself never returns (seeds {seeds}) | {damaged} files | {hangs} |

How the damaged files ended: {ends}. "Used" are files whose damage is in numbers, or in what nobody
reads; checksums of HDF5 (`fletcher32`) find those, too.
"""  # noqa: E501


def main() -> int:
    """Fuzz, and write the page; exit code 1 if there were crashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="files of random kinds")
    parser.add_argument("--files", type=int, default=3000, help="damaged files")
    parser.add_argument("--out", type=Path, default=Path("docs/fuzz.md"))
    args = parser.parse_args()
    files, transitions = replay(args.examples)
    ends, crashes, hangs = damaged(args.files)
    print("\n".join(crashes))
    text = PAGE.format(
        short="60 and 200 files", files=f"{files:,}", transitions=f"{transitions:,}",
        damaged=f"{args.files:,}", crashes=len(crashes), hangs=len(hangs),
        seeds=", ".join(map(str, hangs)) or "none",
        ends="; ".join(f"{end}: {count:,}" for end, count in sorted(ends.items())),
    )  # fmt: skip
    args.out.write_text(text, encoding="utf-8")
    return int(bool(crashes))


if __name__ == "__main__":
    sys.exit(main())
