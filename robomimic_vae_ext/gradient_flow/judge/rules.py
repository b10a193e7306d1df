"""The table of rules: what turns a classified recording into findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from robomimic_vae_ext.gradient_flow.judge import (
    contract_rules,
    gradient_rules,
    note_rules,
    target_rules,
)
from robomimic_vae_ext.gradient_flow.judge.classified import Classified
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Verdict


def _always(mine: Finding, other: Finding) -> bool:
    return True


def _unless_explained(mine: Finding, other: Finding) -> bool:
    """A gradient that is stale or an orphan is no leak besides."""
    same = (mine.loss, mine.module) == (other.loss, other.module)
    return not (same and other.is_broken)


def _unless_leaked(mine: Finding, other: Finding) -> bool:
    """A gradient that should not be there at all is a leak first, whatever became of it."""
    same = (mine.loss, mine.module) == (other.loss, other.module)
    return not (same and other.verdict is Verdict.LEAK)


def _unless_broken(mine: Finding, other: Finding) -> bool:
    """Why a module is not driven is known already: by this loss, or whatever the loss."""
    return not (other.is_broken and other.module == mine.module and other.loss in (None, mine.loss))


class Rule(NamedTuple):
    """A function from a classified recording to findings.

    Args:
        find: makes the findings; depends on nothing else.
        beside: whether a finding of this rule is worth reporting beside one of an earlier rule.
    """

    find: Callable[[Classified], Iterable[Finding]]
    beside: Callable[[Finding, Finding], bool] = _always


RULES: tuple[Rule, ...] = (
    # what is wrong in any case; with a contract, leaks among them
    Rule(gradient_rules.orphans),
    Rule(gradient_rules.stale),
    Rule(contract_rules.leaks, _unless_explained),
    Rule(gradient_rules.discarded, _unless_leaked),
    Rule(gradient_rules.double_owned),
    Rule(gradient_rules.drift),
    Rule(target_rules.moved_by_optimizer),
    Rule(target_rules.moved_too_rarely),
    Rule(target_rules.moved_twice),
    Rule(target_rules.buffers_left_behind),
    # what else the contract asks
    Rule(contract_rules.not_driven, _unless_broken),
    Rule(contract_rules.partly_starved),
    Rule(contract_rules.misowned),
    Rule(contract_rules.not_frozen),
    # what is odd and harmless
    Rule(note_rules.transits, _unless_leaked),
    Rule(note_rules.pending, _unless_leaked),
    Rule(note_rules.starved),
    Rule(note_rules.not_moving),
    Rule(note_rules.moving_in_some_steps),
    Rule(note_rules.untested_losses),
    Rule(note_rules.empty_clips),
    Rule(note_rules.written_by_hand),
)


def apply_rules(flow: Classified) -> tuple[Finding, ...]:
    """Every finding, those that break something first; of equal ones the first, or the broken."""
    found: list[Finding] = []
    for rule in RULES:
        earlier = tuple(found)
        found.extend(
            finding
            for finding in rule.find(flow)
            if all(rule.beside(finding, other) for other in earlier)
        )
    kept: dict[tuple[str, str, str], Finding] = {}
    for finding in sorted(found, key=lambda finding: not finding.is_broken):
        kept.setdefault(finding.key, finding)
    return tuple(kept.values())
