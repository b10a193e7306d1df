"""Markdown tables, and parts of a document that lie between markers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

END = "<!-- end -->"
NOTHING: Final = "–"  # a value that does not exist


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table; its first `words` columns are left-aligned, the others hold numbers."""
    rule = "| " + " | ".join(["---"] * words + ["---:"] * (len(head) - words)) + " |"
    lines = ["| " + " | ".join(head) + " |", rule]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None, digits: int = 3) -> str:
    """A number with some significant digits; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e-12:  # differences of equal numbers leave 1e-17
        return "0"
    text = f"{value:.{digits}g}"
    # Python writes 1200 with three digits as 1.2e+03.
    return f"{value:,.0f}" if "e+" in text else text


def frame(values: pd.DataFrame) -> str:
    """A table of a data frame: columns of text to the left, of numbers to the right."""
    texts = [name for name in values if values[name].dtype == object]
    ordered = values[texts + [name for name in values if name not in texts]]
    rows = (
        [cell if isinstance(cell, str) else number(cell, 4) for cell in row]
        for row in ordered.itertuples(index=False)
    )
    return table(list(ordered.columns), rows, words=len(texts))


def between(text: str, name: str) -> str | None:
    """What is between `<!-- name -->` and the next end marker; None without the first.

    Raises:
        ConfigError: there is no end marker, so that what is to be replaced or kept is not known.
    """
    begin = f"<!-- {name} -->"
    if begin not in text:
        return None
    if END not in text.split(begin, 1)[1]:
        raise ConfigError(
            f"a document has '{begin}' and no '{END}' after it",
            "both, around the text that is kept or filled in",
            f"Put '{END}' where that text ends.",
        )
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
    files.write_text(
        document, text.replace(begin + before + END, f"{begin}\n\n{content}\n\n{END}", 1)
    )
    return True
