"""Write the generated tables of performance.md, and the charts of bench_*.json.

    python docs/make_performance.py            # after `lapo bench --out docs/bench_cpu.json`
    python docs/make_performance.py --no-charts

A table is between `<!-- FILE.json: PART -->` and `<!-- end -->`. Parts that are not in the JSON
file keep their text.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from robomimic_vae_ext import errors, files, markdown
from robomimic_vae_ext.benchmark import bench_results, bench_tables, timing

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- (\S+\.json): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PEERS = ("bcq", "iql", "td3_bc", "bc")
# Goal of each ratio on the CPU and on a GPU.
GOALS = {
    "steps_vs_bcq": ("at least 5", "at least 5"),
    "steps_vs_iql": ("at least 3", "at least 3"),
    "step_over_limit": ("at most 1.2", "at most 1.5"),
    "data_wait_share": ("under 0.05", "under 0.05"),
    "rollout_2_workers": ("at least 1.8", "at least 1.8"),
    "collect_2_workers": ("at least 1.8", "at least 1.8"),
}


def block(results: dict[str, Any], kind: str) -> str:
    """Content of one generated block: a part, or `ratios`, `machine`, `peers`."""
    if kind == "machine":
        return machine(results)
    if kind == "peers":
        return peers(results)
    tables = bench_tables.tables(results, kind)
    if kind == "ratios":
        column = int(results["machine"]["device"] == "cuda")
        names = [row[0].strip("`") for row in tables[0].rows]
        goals = [GOALS[name][column] if name in GOALS else "" for name in names]
        rows = [(*row, goal) for row, goal in zip(tables[0].rows, goals, strict=True)]
        tables = [replace(tables[0], head=(*tables[0].head, "goal"), rows=rows)]
    return "\n\n".join(table.markdown() for table in tables)


def machine(results: dict[str, Any]) -> str:
    """Machine, versions and dates of the measurements."""
    found = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    when = "; ".join(
        f"{name} {part['measured_at']} (load average before and during: "
        f"{', '.join(f'{load:.1f}' for load in part['load_average'])})"
        for name, part in results["parts"].items()
    )
    return (
        f"{found['device_name']} ({found['device']}), {found['cores']} cores, torch with "
        f"{found['threads']} threads; {versions}. Measured: {when}."
    )


def peers(results: dict[str, Any]) -> str:
    """LAPO's gradient steps per second over those of each peer, one row a setting."""
    rows = []
    for name, setting in results["parts"]["steps"]["settings"].items():
        step = {key: samples["seconds"] for key, samples in setting["step"].items()}
        ratios = [timing.ratio(step[peer], step[bench_results.OURS]).value for peer in PEERS]
        rows.append(
            (f"{name}, batch {setting['batch_size']}", *(f"{ratio:.1f}" for ratio in ratios))
        )
    return markdown.table((results["machine"]["device_name"], *PEERS), rows)


def fill(text: str, folder: Path) -> str:
    """Return a document with all its blocks generated again.

    Args:
        text: the document.
        folder: of the JSON files.

    Raises:
        BenchmarkError: a marker names an unknown part or file.
    """

    def generate(match: re.Match[str]) -> str:
        begin, name, kind, end = match.groups()
        kinds = (*bench_results.PARTS, "ratios", "machine", "peers")
        if kind not in kinds or not (folder / name).is_file():
            raise errors.BenchmarkError(
                f"the marker '{name}: {kind}'",
                f"a JSON file of {folder} and one of {', '.join(kinds)}",
                "Correct the marker.",
            )
        results = json.loads((folder / name).read_text())
        if kind in bench_results.PARTS and kind not in results["parts"]:
            return match.group(0)
        return f"{begin}\n{block(results, kind)}\n\n{end}"

    return MARKED.sub(generate, text)


def chart(results: dict[str, Any], path: Path) -> None:
    """Draw gradient steps per second of all contenders, one panel a setting."""
    import matplotlib

    matplotlib.use("Agg")  # no display on a cluster
    import matplotlib.pyplot as plt

    settings = results["parts"]["steps"]["settings"]
    size = (5.5 * len(settings), 3.8)
    figure, grid = plt.subplots(1, len(settings), figsize=size, layout="constrained", squeeze=False)
    for axis, (name, setting) in zip(grid.flat, settings.items(), strict=True):
        names = list(setting["step"])
        rates = [[1 / s for s in setting["step"][n]["seconds"]] for n in names]
        middle = [timing.median(values) for values in rates]
        spans = [timing.quartiles(values) for values in rates]
        below = [max(0.0, m - low) for m, (low, _) in zip(middle, spans, strict=True)]
        above = [max(0.0, high - m) for m, (_, high) in zip(middle, spans, strict=True)]
        others = {n: "0.55" if n == bench_results.LIMIT else "#D55E00" for n in names}
        colours = ["#0072B2" if n.startswith("lapo_") else others[n] for n in names]
        axis.barh(names, middle, xerr=[below, above], color=colours, ecolor="0.2", capsize=2)
        axis.bar_label(axis.containers[-1], labels=[f" {m:.3g}" for m in middle], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.18)
        title = f"{name}, batch {setting['batch_size']}"
        axis.set(title=title, xlabel="gradient steps per second")
    figure.suptitle(results["machine"]["device_name"])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    """Write the tables and charts; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-charts", action="store_true", help="write the tables only")
    args = parser.parse_args()
    for document in (DOCS / "performance.md",):
        files.write_text(document, fill(document.read_text(encoding="utf-8"), DOCS))
    for path in () if args.no_charts else sorted(DOCS.glob("bench_*.json")):
        chart(json.loads(path.read_text()), path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("make_performance.py", main))
