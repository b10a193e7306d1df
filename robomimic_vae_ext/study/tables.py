"""The tables of a study's page, each from the summary of its finished jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from robomimic_vae_ext import markdown
from robomimic_vae_ext.study import claims, formatting, statistics
from robomimic_vae_ext.study.records import LAST, Record, Rollout
from robomimic_vae_ext.study.summary import Summary

#: Measure and head of its column.
VALUES: Final = (
    ("critic_error_final", "held-out Q error, final"),
    ("critic_error_best", "best"),
    ("steps_to_reference", "steps to the reference's best"),
    ("auc_final", "AUC"),
    ("value_error", "Q error in rollouts"),
    ("q_start", "Q at the start"),
    ("return_start", "return from the start"),
)
POLICY: Final = (
    ("success_final", "success, final"),
    ("success_last3", "last three"),
    ("success_max", "max"),
    ("length_final", "length of an episode"),
    ("action_error", "held-out action error of the CVAE"),
    ("seconds_train", "seconds of training"),
)
#: What z = 0 gains, and what LAPO's actor does with z on held-out states.
LATENT: Final = (
    ("gained_by_zero_latent", "gained by z = 0"),
    ("latent_size", "mean size of z, 1 = bound"),
    ("latent_shift", "the actor moves actions by"),
    ("latent_spread", "z ~ N(0, 1) would by"),
    ("latent_gain", "for more Q"),
    ("latent_error", "action error at z = 0"),
)


def overview(summary: Summary, task: str, arms: Sequence[str]) -> str:
    """What matters most of every arm, with its success beside its reference's."""
    reference = summary.reference
    rows = []
    for arm in arms:
        against = summary.reference_of(arm)
        better = summary.difference(task, arm, against, "success_final")
        text = formatting.with_interval(better, 2)
        text += f", of `{against}`" if against != reference else ""
        rows.append((
            f"`{arm}`",
            str(len(summary.of(task, arm))),
            successes(summary, task, arm),
            formatting.NOTHING if arm == reference else text,
            *(_cell(summary, task, arm, measure, 2)
              for measure in ("critic_error_final", "value_error")),
            _cell(summary, task, arm, "auc_final"),  # near 1, two digits would all be the same
        ))  # fmt: skip
    head = ("arm", "seeds", "success", f"minus `{reference}`", "held-out Q error",
            "Q error in rollouts", "AUC")  # fmt: skip
    return markdown.table(head, rows)


def _last_rollouts(summary: Summary, task: str, arm: str) -> list[Rollout]:
    """Episodes of the final policies, one entry a seed."""
    return [record.rollouts[-1] for record in summary.of(task, arm) if record.rollouts]


def successes(summary: Summary, task: str, arm: str) -> str:
    """How many episodes of the final policies succeed, of all seeds together."""
    found = _last_rollouts(summary, task, arm)
    if not found:
        return formatting.NOTHING
    won = sum(rollout.success.count("1") for rollout in found)
    return f"{won} of {sum(len(rollout.success) for rollout in found)}"


def by_seed(summary: Summary, task: str, arms: Sequence[str]) -> str:
    """Final success of every seed, and in how many of them an arm is above the reference."""
    rows = []
    rates = {arm: summary.values(task, arm, "success_final") for arm in arms}
    for arm in arms:
        pairs = [
            (rate, rates[summary.reference][seed])
            for seed, rate in rates[arm].items()
            if seed in rates.get(summary.reference, {})
        ]
        counts = (sum(a > b for a, b in pairs), sum(a == b for a, b in pairs))
        same = arm == summary.reference or not pairs
        rows.append((
            f"`{arm}`",
            *(formatting.number(rates[arm].get(seed)) for seed in summary.seeds),
            formatting.NOTHING if same else f"{counts[0]} of {len(pairs)}, {counts[1]} equal",
        ))  # fmt: skip
    head = ("arm", *(f"seed {seed}" for seed in summary.seeds), f"above `{summary.reference}`")
    return markdown.table(head, rows)


def measures(
    summary: Summary, task: str, arms: Sequence[str], columns: Sequence[tuple[str, str]]
) -> str:
    """Some measures of every arm: mean or median over its seeds, with intervals."""
    rows = []
    for arm in arms:
        cells = [_cell(summary, task, arm, measure) for measure, _ in columns]
        rows.append((f"`{arm}`", str(len(summary.of(task, arm))), *cells))
    return markdown.table(("arm", "seeds", *(head for _, head in columns)), rows)


def _cell(summary: Summary, task: str, arm: str, measure: str, digits: int = 3) -> str:
    text = formatting.with_interval(summary.estimate(task, arm, measure), digits)
    if measure != "steps_to_reference" or text == formatting.NOTHING:
        return text
    if arm in summary.references:
        text += f" (of `{summary.references[arm]}`)"
    values = summary.values(task, arm, measure).values()
    never = sum(math.isinf(value) for value in values)
    return f"{text}, {never} of {len(values)} never" if never else text


def policy(summary: Summary, task: str, arms: Sequence[str]) -> str:
    """What the final policies of every arm do, and what their training took."""
    rows = []
    for arm in arms:
        found = summary.of(task, arm)
        last = _last_rollouts(summary, task, arm)
        known = [rollout for rollout in last if rollout.failures is not None]
        episodes = sum(len(rollout.success) for rollout in known)
        failed = sum(rollout.failures or 0 for rollout in known)
        steps = sorted({record.steps for record in found})
        rows.append((
            f"`{arm}`",
            ", ".join(f"{count:,}" for count in steps),
            successes(summary, task, arm),
            *(_cell(summary, task, arm, measure) for measure, _ in POLICY),
            f"{failed} of {episodes}" if known else formatting.NOTHING,
        ))  # fmt: skip
    heads = [head for _, head in POLICY]
    return markdown.table(
        ("arm", "gradient steps", "final episodes that succeed", *heads, "final failures"), rows
    )


def comparisons(summary: Summary, task: str, arms: Sequence[str]) -> str:
    """Every arm against its reference, the arms of the claims, and the other algorithms."""
    reference = summary.reference
    fixes = [arm for arm in summary.fixes if arm not in summary.references]
    rivals = [arm for arm in (*fixes, *summary.baselines) if arm in arms]
    rows = []
    for arm in arms:
        if arm == reference:
            continue
        against = summary.reference_of(arm)
        rows.append((
            f"`{arm}`",
            f"`{against}`{_other_precision(summary, task, arm, against)}",
            *(
                claims.speed(summary.estimate(task, arm, measure))
                for measure in ("speed_up", "speed_up_settled")
            ),
            *(
                formatting.with_interval(summary.ratio(task, arm, against, measure))
                for measure in ("critic_error_final", "value_error", "success_final")
            ),
            formatting.with_interval(summary.difference(task, arm, against, "success_final")),
            *(
                formatting.NOTHING
                if arm == rival
                else formatting.with_interval(summary.difference(task, arm, rival, "success_final"))
                for rival in rivals
            ),
        ))  # fmt: skip
    head = (
        "arm", "against", "times fewer steps", "both settled", "held-out Q error / its",
        "Q error in rollouts / its", "success / its", "success - its",
        *(f"success - `{rival}`" for rival in rivals),
    )  # fmt: skip
    return markdown.table(head, rows)


def over_steps(summary: Summary, task: str, arms: Sequence[str]) -> str | None:
    """Success of every arm minus its reference's, of each checkpoint that has episodes.

    None where only the last checkpoints have any: the figure of the final policies shows those.
    """
    every = [record for arm in arms for record in summary.of(task, arm)]
    steps = sorted({rollout.step for record in every for rollout in record.rollouts})
    if len(steps) <= LAST:
        return None
    rows = []
    for arm in arms:
        against = summary.reference_of(arm)
        if arm != against:
            found = [summary.success_difference(task, arm, against, step) for step in steps]
            rows.append((f"`{arm}`", f"`{against}`", *map(formatting.with_interval, found)))
    return markdown.table(("arm", "against", *(f"{step:,} steps" for step in steps)), rows, words=2)


def zero_latent(summary: Summary, task: str, arms: Sequence[str]) -> str | None:
    """What the latent actor does to the success and the actions; None where nobody looked."""
    rows = []
    for arm in arms:
        looked = [r for r in summary.of(task, arm) if r.zero_latent is not None]
        if looked:
            cells = [_cell(summary, task, arm, measure) for measure, _ in LATENT]
            rows.append((f"`{arm}`", str(len(looked)), *_same_episodes(looked), *cells))
    head = ("arm", "seeds", "successes, the actor's z", "z = 0", *(name for _, name in LATENT))
    return markdown.table(head, rows) if rows else None


def _same_episodes(found: Sequence[Record]) -> tuple[str, str]:
    """Successes with the actor's z and with z = 0, of the episodes that both have played."""
    pairs = [
        (record.rollouts[-1].outcomes[: zero.episodes].sum(), zero.success * zero.episodes,
         zero.episodes)
        for record in found
        if (zero := record.zero_latent) is not None and zero.success is not None
    ]  # fmt: skip
    if not pairs:
        return formatting.NOTHING, formatting.NOTHING
    actor, zero_z, episodes = (round(sum(column)) for column in zip(*pairs, strict=True))
    return f"{actor} of {episodes}", f"{zero_z} of {episodes}"


def _other_precision(summary: Summary, task: str, arm: str, against: str) -> str:
    """A mark where two arms of one algorithm were trained in different precision."""
    ours, theirs = (summary.precision(task, name) for name in (arm, against))
    if ours == theirs or not theirs or summary.algos_of(arm) != summary.algos_of(against):
        return ""
    return f" ({theirs}; this arm: {ours})"


def saliency(summary: Summary, found: Mapping[str, Any]) -> str:
    """Shares of the gradient, what swapping the colours does to Q, and what is dead."""
    rows = [("all pixels alike", "", *(formatting.number(x) for x in found["pixels"]), "", "", "")]
    for arm in summary.arms:
        models = [model for model in found["models"] if model["arm"] == arm]
        if not models:
            continue
        shares = [model["shares"] for model in models if model["shares"] is not None]
        columns = [*zip(*shares, strict=True)] if shares else [()] * len(found["pixels"])
        columns += [tuple(model["swap"] for model in models)]
        columns += [tuple(m["dead"] for m in models if "dead" in m)]  # of later results only
        cells = [
            formatting.with_interval(statistics.mean(column)) if column else formatting.NOTHING
            for column in columns
        ]
        flat = sum(model.get("flat", 0) for model in models)
        rows.append((
            f"`{arm}`", str(len(models)), *cells, f"{flat} of {found['views'] * len(models)}"
        ))  # fmt: skip
    head = ("arm", "seeds", "around the red cube", "around the green cube", "elsewhere",
            "change of Q when the colours are swapped", "dead features",
            "pictures that do not move Q")  # fmt: skip
    table = markdown.table(head, rows)
    return f"{table}\n\nHeld-out pictures: {found['views']}; means over them and the seeds."
