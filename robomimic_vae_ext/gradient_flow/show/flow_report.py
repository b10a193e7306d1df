"""The report: a judgement that can be printed, saved as JSON and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robomimic_vae_ext.gradient_flow.judge.judgement import Judgement
from robomimic_vae_ext.gradient_flow.show.event_trace import event_trace
from robomimic_vae_ext.gradient_flow.show.flow_figure import draw
from robomimic_vae_ext.gradient_flow.show.report_json import report_data
from robomimic_vae_ext.gradient_flow.show.report_text import report_text


class Report(Judgement):
    """What was recorded and what it means. `str(report)` is the text."""

    def __str__(self) -> str:
        return report_text(self)

    def trace(self) -> str:
        """The recording step by step, one line per event."""
        return event_trace(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        return report_data(self)

    def save_figure(self, path: str | Path, title: str = "") -> None:
        """Draw the flow; needs matplotlib, which nothing else here does.

        Args:
            path: file to write; the suffix chooses the format.
            title: heading of the figure.
        """
        draw(self, path, title)
