"""docs/results.md: generated whole, for any outcome and any part of a study that is done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from robomimic_vae_ext import markdown
from robomimic_vae_ext.study import claims, formatting, statistics
from robomimic_vae_ext.study.study_plots import Figure
from robomimic_vae_ext.study.summary import Summary

DISCUSSION: Final = "discussion"

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
INTERVALS: Final = (
    f"Intervals are percentiles of a bootstrap over training seeds ({statistics.RESAMPLES:,} "
    "resamples, 95 %), for final success over seeds and episodes. Comparisons are paired: the same "
    "seed, and for success the same initial states, in both arms. Percentiles are too narrow when "
    "seeds are few: of normal values, intervals from 5 seeds cover the truth in about 84 of 100 "
    "cases, from 20 seeds in 93. Where all seeds and episodes agree, as with a success of 0 or 1, "
    "there is nothing to resample and the interval has no width. "
    f"With fewer than {statistics.MIN_SEEDS} seeds none is given."
)
MEANING: Final = (
    "Q error: mean squared difference between Q(s, a) and a discounted return, on held-out "
    "demonstrations (their return) or in rollouts of the final policy (what it then received). "
    "AUC: of Q(s, a) on held-out states for whether that demonstration succeeds. Steps: the first "
    f"checkpoint from which on {statistics.STAY} checkpoints in a row are at or below the smallest "
    "held-out Q error that the reference arm ever has with that seed; for the reference itself, "
    "the checkpoint that has it; ∞: never. Failures: final episodes in which the task could no "
    "longer succeed at some time, as with the wrong cube lifted. Steps are medians, all other "
    "columns means over seeds. The card does not say what its Q error is: here it is squared, and "
    "a quarter of it is half of its root."
)

LOOK: Final = (
    "An illustration, not one of the measures that were decided beforehand. "
    "Final checkpoints, held-out pictures of the middle of a demonstration in which both cubes can "
    "be seen apart. Shares are of the absolute gradient of Q(s, a) by the picture (smoothed over "
    "noisy copies): where Q is sensitive, which is not yet what it has understood. The last column "
    "asks that directly: both cubes swap their colours in the pictures of all cameras, so that a "
    "step towards the rewarded cube becomes one towards the other; mean absolute change of Q(s, a)."
)


def document(
    summary: Summary, data: Mapping[str, Any], figures: Sequence[Figure], kept: str | None
) -> str:
    """The whole page.

    Args:
        summary: of the finished jobs.
        data: from `results.gather`.
        figures: that lie beside the page.
        kept: what stands between the discussion markers of the page as it is, or None.
    """
    manifest = data["manifest"]
    name = manifest["study"]["name"]
    parts = [
        "# Results",
        f"Study `{name}`, written from [results.json](results.json) by the command at the end; "
        "only the discussion is written by hand. "
        "Every job's figures are in [results.csv](results.csv).",
        status(summary),
        "## Is the card right?",
        short(summary),
        INTERVALS,
        "## Discussion",
        f"<!-- {DISCUSSION} -->{kept if kept is not None else chr(10)}{markdown.END}",
        "## What the columns mean",
        MEANING,
    ]
    for task in summary.tasks:
        parts += _task(summary, manifest, task)
    for task, found in data["saliency"].items():
        parts += [f"## What moves Q in `{task}`", LOOK, _saliency(summary, found)]
    parts += ["## Figures", *(f"![{figure.text}]({figure.name})" for figure in figures)]
    parts += ["## What is missing", _missing(summary, manifest)]
    parts += ["## How it was made", _made(summary, manifest)]
    return "\n\n".join(parts) + "\n"


def short(summary: Summary) -> str:
    """Rule and table of the claims."""
    who = "no arm to compare"
    if summary.fixes:
        arms = " and ".join(f"`{arm}`" for arm in summary.fixes)
        who = f"{arms} against `{summary.reference}`"
    return f"{claims.RULE} Measured: {who}.\n\n{claims.table(summary)}"


def status(summary: Summary) -> str:
    """How much of the study is done, in one sentence."""
    planned, missing = len(summary.planned), len(summary.missing)
    text = f"{planned - missing} of {planned} jobs are done"
    return f"{text}; all figures below are of these alone." if missing else f"{text}."


def _task(summary: Summary, manifest: Mapping[str, Any], task: str) -> list[str]:
    """Heading and tables of one task."""
    arms = [arm for arm in summary.arms if summary.of(task, arm)]
    heading = f"## `{task}`"
    if not arms:
        return [heading, "No job of this task is done."]
    demos = manifest["demonstrations"].get(task)
    text = (
        f"{demos['successes']} of {demos['episodes']} demonstrations succeed."
        if demos
        else "How many demonstrations succeed is not known: their file is not there."
    )
    return [
        heading,
        text,
        "Value:",
        _measures(summary, task, arms, VALUES),
        "Policy:",
        _policy(summary, task, arms),
        "Compared by seed. Ratios are of means over seeds, times fewer steps a median; success is "
        "the final one, as a difference of rates:",
        _comparisons(summary, task, arms),
    ]


def _measures(
    summary: Summary, task: str, arms: Sequence[str], columns: Sequence[tuple[str, str]]
) -> str:
    rows = []
    for arm in arms:
        cells = [_cell(summary, task, arm, measure) for measure, _ in columns]
        rows.append((f"`{arm}`", str(len(summary.of(task, arm))), *cells))
    return markdown.table(("arm", "seeds", *(head for _, head in columns)), rows)


def _cell(summary: Summary, task: str, arm: str, measure: str) -> str:
    text = formatting.with_interval(summary.estimate(task, arm, measure))
    if measure != "steps_to_reference" or text == formatting.NOTHING:
        return text
    values = summary.values(task, arm, measure).values()
    never = sum(math.isinf(value) for value in values)
    return f"{text}, {never} of {len(values)} never" if never else text


def _policy(summary: Summary, task: str, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        found = summary.of(task, arm)
        last = [record.rollouts[-1] for record in found if record.rollouts]
        known = [rollout for rollout in last if rollout.failures is not None]
        episodes = sum(len(rollout.success) for rollout in known)
        failed = sum(rollout.failures or 0 for rollout in known)
        steps = sorted({record.steps for record in found})
        rows.append((
            f"`{arm}`",
            ", ".join(f"{count:,}" for count in steps),
            f"{sum(r.success.count('1') for r in last)} of {sum(len(r.success) for r in last)}",
            *(_cell(summary, task, arm, measure) for measure, _ in POLICY),
            f"{failed} of {episodes}" if known else formatting.NOTHING,
        ))  # fmt: skip
    heads = [head for _, head in POLICY]
    return markdown.table(
        ("arm", "gradient steps", "final episodes that succeed", *heads, "final failures"), rows
    )


def _comparisons(summary: Summary, task: str, arms: Sequence[str]) -> str:
    reference = summary.reference
    rivals = [reference, *(arm for arm in summary.baselines if arm in arms)]
    rows = []
    for arm in arms:
        if arm == reference:
            continue
        speed = summary.estimate(task, arm, "speed_up")
        text = claims.speed_text(speed)
        bounds = claims.speed_interval(speed)
        rows.append((
            f"`{arm}`",
            text if bounds == formatting.NOTHING else f"{text} ({bounds})",
            *(
                formatting.with_interval(summary.ratio(task, arm, reference, measure))
                for measure in ("critic_error_final", "value_error", "success_final")
            ),
            *(
                formatting.NOTHING
                if arm == rival
                else formatting.with_interval(summary.difference(task, arm, rival, "success_final"))
                for rival in rivals
            ),
        ))  # fmt: skip
    head = (
        "arm", f"times fewer steps than `{reference}`", "held-out Q error / its",
        "Q error in rollouts / its", "success / its", *(f"success - `{r}`" for r in rivals),
    )  # fmt: skip
    return markdown.table(head, rows)


def _saliency(summary: Summary, found: Mapping[str, Any]) -> str:
    """Shares of the gradient, and what swapping the colours does to Q."""
    rows = [("all pixels alike", "", *(formatting.number(x) for x in found["pixels"]), "")]
    for arm in summary.arms:
        models = [model for model in found["models"] if model["arm"] == arm]
        if not models:
            continue
        columns = [*zip(*(model["shares"] for model in models), strict=True)]
        columns.append(tuple(model["swap"] for model in models))
        cells = [formatting.with_interval(statistics.mean(column)) for column in columns]
        rows.append((f"`{arm}`", str(len(models)), *cells))
    head = ("arm", "seeds", "around the red cube", "around the green cube", "elsewhere",
            "change of Q when the colours are swapped")  # fmt: skip
    table = markdown.table(head, rows)
    return f"{table}\n\nHeld-out pictures: {found['views']}; means over them and the seeds."


def _missing(summary: Summary, manifest: Mapping[str, Any]) -> str:
    texts = []
    for task in summary.tasks:
        for arm in summary.arms:
            seeds = [seed for t, a, seed in summary.missing if (t, a) == (task, arm)]
            if seeds:
                which = ", ".join(map(str, seeds))
                texts.append(
                    f"- `{task}`, `{arm}`: {len(seeds)} of {len(summary.seeds)} seeds ({which})"
                )
    texts += [f"- Trained for another length than planned: {job}" for job in
              manifest["other_lengths"]]  # fmt: skip
    unplanned = manifest["jobs"]["not_of_this_study"]
    if unplanned:
        texts.append(f"- {unplanned} results in the same folder are not of this study: left out")
    return "\n".join(texts) or "Nothing: every planned job is done."


def _made(summary: Summary, manifest: Mapping[str, Any]) -> str:
    study = manifest["study"]
    versions = ", ".join(
        f"{name} {' and '.join(found)}" for name, found in sorted(manifest["versions"].items())
    )
    commits = ", ".join(f"`{commit}`" for commit in manifest["commits"]) or "not known"
    rows = [
        (f"`{name}`", f"`{arm['config']}`", f"`{json.dumps(arm['set'])}`" if arm.get("set") else "")
        for name, arm in study["arms"].items()
    ]
    training, evaluation = study["training"], study["evaluation"]
    return "\n\n".join([
        f"```bash\n{manifest['command']}\n```",
        "The same command goes on with what is missing, and writes this page anew at its end. "
        "docs/study_protocol.md says what was decided before the runs.",
        f"Seeds {', '.join(map(str, summary.seeds))}; {training['steps']:,} gradient steps of "
        f"batch {training['batch_size']} and a checkpoint every "
        f"{training['steps_per_checkpoint']}, unless a table says otherwise; "
        f"{evaluation['final_episodes']} episodes of the final policy and "
        f"{evaluation['earlier_episodes']} of each of the {evaluation['earlier_checkpoints']} "
        f"checkpoints before it, the same initial states for all arms and seeds. {versions}. "
        f"Commits of the runs: {commits}.",
        markdown.table(("arm", "config, seen from the study's file", "changed in it"), rows, 3),
    ])  # fmt: skip
