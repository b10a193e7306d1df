"""Every broken loop of the corpus is named by its verdict, its module and its line."""

from __future__ import annotations

import pytest

from robomimic_vae_ext.gradient_flow import Verdict
from tests.gradient_flow import corpus_gradients, corpus_ownership, corpus_parts
from tests.gradient_flow.corpus_base import Case, record_steps

CASES = (*corpus_gradients.CASES, *corpus_ownership.CASES, *corpus_parts.CASES)


def test_the_corpus_is_large_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 14


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_broken_loop_is_found(case: Case, marked: bool) -> None:
    report = record_steps(case.build(), case.steps, marked=marked).report(case.contract)
    found = {(f.verdict, f.module, f.site.line) for f in report.broken}
    assert (case.verdict, case.module, case.line) in found, str(report)
    assert not report.ok
    # Nothing else is accused: one bug gives findings about one module.
    assert {f.module for f in report.broken} <= {case.module}, str(report)


def test_one_step_suffices_to_find_a_second_owner() -> None:
    # Its second owner steps after the first, once, as an optimizer that replaces another would.
    tape = record_steps(corpus_ownership.two_critic_optimizers_own_one_encoder(), 1)
    assert {(f.verdict, f.module) for f in tape.report().broken} == {
        (Verdict.DOUBLE_OWNED, "encoder")
    }
