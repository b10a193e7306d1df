"""Markdown tables, numbers with intervals, and parts of a document that lie between markers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from robomimic_vae_ext.study.statistics import Estimate

END = "<!-- end -->"
NOTHING = "–"  # what cannot be known, or not yet


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table; its first `words` columns are left-aligned, the others hold numbers."""
    rule = "| " + " | ".join(["---"] * words + ["---:"] * (len(head) - words)) + " |"
    lines = ["| " + " | ".join(head) + " |", rule]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None, digits: int = 3) -> str:
    """A number with some significant digits; a dash if there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}g}"
    # Python writes 1200 with three digits as 1.2e+03.
    return f"{value:,.0f}" if "e+" in text else text


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """Bounds of an estimate; a dash if there are too few seeds for any."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return NOTHING
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def with_interval(estimate: Estimate | None, digits: int = 3) -> str:
    """Value and, in brackets, its interval."""
    if estimate is None:
        return NOTHING
    bounds = interval(estimate, digits)
    text = number(estimate.value, digits)
    return text if bounds == NOTHING else f"{text} ({bounds})"


def between(text: str, name: str) -> str | None:
    """What stands between `<!-- name -->` and the next end marker; None without both."""
    begin = f"<!-- {name} -->"
    if begin not in text or END not in text.split(begin, 1)[1]:
        return None
    return text.split(begin, 1)[1].split(END, 1)[0]


def fill(document: Path, name: str, content: str) -> bool:
    """Put content between the markers of a document, if it is there and has them.

    Returns:
        Whether it has.
    """
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    before = between(text, name)
    if before is None:
        return False
    begin = f"<!-- {name} -->"
    write(document, text.replace(begin + before + END, f"{begin}\n\n{content}\n\n{END}", 1))
    return True


def write(path: Path, text: str) -> None:
    """Write a text file, which appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
