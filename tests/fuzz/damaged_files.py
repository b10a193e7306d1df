"""Files with flipped bytes and cut-off ends: each is used or ends in one message.

A process of its own, since libhdf5 may end it:

    python -m tests.fuzz.damaged_files COUNT FIRST_SEED
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robomimic_vae_ext.cli import main
from tests.data import layouts

TIMEOUT = 30.0  # of one file [s]; libhdf5 itself can go in circles in a damaged index
VERBS: dict[str, list[str]] = {
    "validate": ["--read-pictures"],
    "convert": ["--assume-success", "--dones-from", "end"],
}


def tiny(path: Path) -> None:
    """A little of everything: compression, checksums, chunks, strings, links, masks."""
    layouts.robomimic_low_dim(path)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            values = demo["actions"][()]
            del demo["actions"]
            demo.create_dataset("actions", data=values, compression="gzip", fletcher32=True)
            demo["language"] = np.array(["pick", "place"], dtype=h5py.string_dtype())
        file["data/demo_9"] = h5py.SoftLink("/data/demo_0")


SOURCES = {"tiny": tiny, "Isaac Lab": layouts.isaac_lab, "mg": layouts.robomimic_mg}


def damage(whole: bytes, seed: int) -> bytes:
    """Flip bits of some bytes, or cut the end off; by the seed alone."""
    rng = np.random.default_rng(seed)
    if seed % 5 == 0:
        return whole[: int(rng.integers(0, len(whole)))]
    damaged = bytearray(whole)
    for _ in range(int(rng.choice([1, 3, 20, 200]))):
        damaged[int(rng.integers(0, len(whole)))] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def use(words: list[str]) -> str:
    """Run a command; return how it ended: used, refused, or the fault."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except BaseException:
        return "crash: " + traceback.format_exc()[-1500:]
    lines = [line for line in err.getvalue().splitlines() if line.startswith("lapo ")]
    if code == 0:
        return "used"
    return "refused" if code == 2 and len(lines) == 1 else f"crash: {code} {err.getvalue()}"


def run(count: int, first: int) -> dict[str, Any]:
    """Try that many files; return how often each end was seen, and the crashes."""
    ends: Counter[str] = Counter()
    crashes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wholes = []
        for source in SOURCES.values():
            source(folder / "whole.hdf5")
            wholes.append((folder / "whole.hdf5").read_bytes())
        for seed in range(first, first + count):
            path, target = folder / "x.hdf5", folder / "new.hdf5"
            path.write_bytes(damage(wholes[seed % len(wholes)], seed))
            print(f"seed {seed}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback_later(TIMEOUT, exit=True)
            found = {
                verb: use([verb, str(path), *([str(target)] if verb == "convert" else []), *flags])
                for verb, flags in VERBS.items()
            }
            faulthandler.cancel_dump_traceback_later()
            left = sorted(it.name for it in folder.glob("new.hdf5*"))
            if left != (["new.hdf5"] if found["convert"] == "used" else []):
                crashes.append(f"seed {seed}: {left} is left behind by convert")
            target.unlink(missing_ok=True)
            for verb, end in found.items():
                ends[f"{verb}: {end.partition(':')[0]}"] += 1
                if end.startswith("crash"):
                    crashes.append(f"seed {seed}, {verb}: {end}")
    # Not by getrusage, whose peak includes that of the process which started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"files": count, "ends": dict(sorted(ends.items())), "crashes": crashes,
            "peak_mib": round(peak)}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
