"""docs/results.md: generated whole, for any outcome and any part of a study that is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from robomimic_vae_ext import markdown
from robomimic_vae_ext.study import claims, statistics, tables
from robomimic_vae_ext.study.study_plots import Figure
from robomimic_vae_ext.study.summary import Summary

DISCUSSION: Final = "discussion"

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
    "demonstrations (their return) or in rollouts of the final policy (what it then received; a "
    "policy that fails where its Q hopes has a large one). The announcement does not say what "
    "its Q error is: here it is squared, and a quarter of it is half of its root. AUC: of Q(s, "
    "a) on held-out states for whether that demonstration succeeds. Steps: the first checkpoint "
    f"from which on {statistics.STAY} checkpoints in a row are at or below the smallest held-out "
    "Q error that its reference (the arm that it is compared with) ever has with that seed; for "
    "the study's reference itself, the checkpoint that has it; ∞: never. Times fewer steps: "
    "than that one checkpoint of the reference, which itself need not stay there: where errors "
    "no longer fall, an arm like its reference mostly comes out as not reached. Both settled: "
    "the same with one rule for both, the level being the smallest at which the reference stays "
    f"for {statistics.STAY} checkpoints. Failures: final episodes in which the task could no "
    "longer succeed at some time, as with the wrong cube lifted. Steps and times fewer steps "
    "are medians, all other columns means over seeds."
)
LATENT_ACTOR: Final = (
    "The latent actor. The same episodes with z = 0, the advantage-weighted clone that the decoder "
    "is, in place of the actor's z; and on held-out states, how far the actor moves z and with it "
    "the actions (in [-1, 1], by their mean absolute difference from those of z = 0), for how "
    "much more Q, and how far the actions of z = 0 are from the demonstration's. All intervals of "
    "this table are over seeds only:"
)

LOOK: Final = (
    "An illustration, not one of the measures that were decided beforehand. "
    "Final checkpoints, held-out pictures of the middle of a demonstration in which both cubes can "
    "be seen apart. Shares are of the absolute gradient of Q(s, a) by the picture of the agent's "
    "camera (smoothed over noisy copies): where Q is sensitive, which is not yet what it has "
    "understood. The swap asks that directly: both cubes swap their colours in the pictures of all "
    "cameras, so that a step towards the rewarded cube becomes one towards the other; mean "
    "absolute change of Q(s, a). Dead features: share of those made of that camera which are the "
    "same in all these pictures, as of a ReLU that nothing reaches any more (other pictures might "
    "still reach it). Where all are dead, the picture does not move Q and has no shares."
)


def document(
    summary: Summary,
    data: Mapping[str, Any],
    figures: Sequence[Figure],
    kept: str | None,
    protocol: str | None = None,
) -> str:
    """The whole page.

    Args:
        summary: of the finished jobs.
        data: from `results.gather`.
        figures: that lie beside the page.
        kept: what stands between the discussion markers of the page as it is, or None.
        protocol: where the study's protocol lies, seen from the page; None: it has none.
    """
    manifest = data["manifest"]
    name = manifest["study"]["name"]
    arms = f"in the [protocol]({protocol}#arms)" if protocol else "[at the end](#how-it-was-made)"
    parts = [
        "# Results",
        f"Study `{name}`, written from [results.json](results.json) by the command at the end; "
        "only the discussion is written by hand. "
        "Every job's figures are in [results.csv](results.csv). "
        f"What the arms are stands {arms}, what the columns are [below](#what-the-columns-mean).",
        status(summary),
        "## Do the announced gains hold?",
        *_claims(summary),
        INTERVALS,
        "## Discussion",
        f"<!-- {DISCUSSION} -->{kept if kept is not None else chr(10)}{markdown.END}",
        "## What the columns mean",
        MEANING,
    ]
    for task in summary.tasks:
        parts += _task(summary, manifest, task)
    for task, found in data["saliency"].items():
        parts += [f"## What moves Q in `{task}`", LOOK, tables.saliency(summary, found)]
    parts += ["## Figures", *(f"![{figure.text}]({figure.name})" for figure in figures)]
    parts += ["## What is missing", _missing(summary, manifest)]
    parts += ["## How it was made", _made(summary, manifest, protocol)]
    return "\n\n".join(parts) + "\n"


def _claims(summary: Summary) -> list[str]:
    """The claims, and the arms of every task in one line each."""
    parts = [claims.table(summary), claims.RULE] if summary.fixes else ["No arm to compare."]
    for task in summary.tasks:
        arms = _arms(summary, task, summary.arms)
        if arms:
            table = tables.overview(summary, task, arms)
            parts += [f"`{task}`, final policies and critics:", table]
    return parts


def _arms(summary: Summary, task: str, arms: Sequence[str]) -> list[str]:
    """Those of which at least one job is done."""
    return [arm for arm in arms if summary.of(task, arm)]


def status(summary: Summary) -> str:
    """How much of the study is done, in one sentence."""
    planned, missing = len(summary.planned), len(summary.missing)
    text = f"{planned - missing} of {planned} jobs are done"
    return f"{text}; all figures below are of these alone." if missing else f"{text}."


def _task(summary: Summary, manifest: Mapping[str, Any], task: str) -> list[str]:
    """Heading and tables of one task."""
    arms = _arms(summary, task, summary.arms)
    heading = f"## `{task}`"
    if not arms:
        return [heading, "No job of this task is done."]
    demos = manifest["demonstrations"].get(task)
    text = (
        f"{demos['successes']} of {demos['episodes']} demonstrations succeed."
        if demos
        else "How many demonstrations succeed is not known: their file is not there."
    )
    constant = (demos or {}).get("constant_error")
    if constant is not None:
        text += f" A Q that is the same everywhere would have a held-out error of {constant:.3g}."
    table = tables.over_steps(summary, task, arms)
    over_steps = ["Success minus its reference's over gradient steps:", table] if table else []
    table = tables.zero_latent(summary, task, arms)
    latent = [LATENT_ACTOR, table] if table else []
    return [
        heading,
        text,
        "Value:",
        tables.measures(summary, task, arms, tables.VALUES),
        "Policy:",
        tables.policy(summary, task, arms),
        "Final success by training seed:",
        tables.by_seed(summary, task, arms),
        "Compared by seed. Ratios are of means over seeds, times fewer steps a median; success is "
        "the final one, as a difference of rates:",
        tables.comparisons(summary, task, arms),
        *over_steps,
        *latent,
    ]


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
    unplanned = manifest["jobs"]["not_of_this_study"]
    if unplanned:
        texts.append(f"- {unplanned} results in the same folder are not of this study: left out")
    return "\n".join(texts) or "Nothing: every planned job is done."


def _precisions(summary: Summary) -> str:
    """`Summary.precision` of every task and arm."""
    parts = []
    for task in summary.tasks:
        arms: dict[str, list[str]] = {}
        for arm in _arms(summary, task, summary.arms):
            arms.setdefault(summary.precision(task, arm), []).append(f"`{arm}`")
        if arms:
            texts = [f"{precision} ({', '.join(names)})" for precision, names in arms.items()]
            parts.append(f"on `{task}` in {', '.join(texts)}")
    return f"Convolutions were trained {'; '.join(parts)}."


def _zero_latent(evaluation: Mapping[str, Any]) -> str:
    count = evaluation.get("zero_latent_episodes", 0)
    return f", {count} of the final policy with z = 0" if count else ""


def _made(summary: Summary, manifest: Mapping[str, Any], protocol: str | None) -> str:
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
        "Without the folder of these jobs it counts them as done if `--merge` names the "
        "results.json beside this page."
        + (f" The [protocol]({protocol}) says what was decided before the runs, and what later."
           if protocol else ""),
        f"Seeds {', '.join(map(str, summary.seeds))}; {training['steps']:,} gradient steps of "
        f"batch {training['batch_size']} and a checkpoint every "
        f"{training['steps_per_checkpoint']}, unless a table says otherwise; "
        f"{evaluation['final_episodes']} episodes of the final policy and "
        f"{evaluation['earlier_episodes']} of each of the {evaluation['earlier_checkpoints']} "
        f"checkpoints before it{_zero_latent(evaluation)}, the same initial states for all arms "
        f"and seeds. {versions}. "
        f"Commits of the runs: {commits}. {_precisions(summary)}",
        markdown.table(("arm", "config, seen from the study's file", "changed in it"), rows, 3),
    ])  # fmt: skip
