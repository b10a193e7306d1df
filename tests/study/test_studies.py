"""The table of the published studies in studies/README.md."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from robomimic_vae_ext import markdown
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def overview() -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "studies" / "overview.py"), run_name="overview")


def test_the_tables_are_what_their_script_writes(overview: dict[str, Any]) -> None:
    found = overview["estimates"](overview["read_episodes"]())
    for path, table in (("studies/README.md", "table"), ("README.md", "main_table")):
        readme = (REPOSITORY / path).read_text(encoding="utf-8")
        between = markdown.between(readme, overview["MARKER"])
        assert between is not None and between.strip() == overview[table](found), path


def test_the_table_holds_every_published_job(overview: dict[str, Any]) -> None:
    episodes = overview["read_episodes"]()
    jobs = episodes.drop_duplicates(["column", "method", "seed"])
    assert len(jobs) == 140 + 50 + 40 + 15
    assert set(episodes.method) == set(overview["ORDER"])
    reduced = episodes[(episodes.column == "play_lift, 2,000 steps") & (episodes.method == "joint")]
    assert (reduced.success.sum(), len(reduced)) == (219, 250)
