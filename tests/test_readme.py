"""Every command and snippet of the README runs, in small, in the README's own order."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext.benchmark import timing
from robomimic_vae_ext.study import overview, tables
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)

# Run by .ci/run, which starts from nothing, or by test_packaging.py.
RUN_ELSEWHERE = ("make ", "pip install", "python scripts/compare.py --study")  # make study-smoke

# What makes a command small enough for a test; everything else stays as the README has it.
# Stock --debug writes to one folder for everybody, and asks if an experiment is there already.
NAME = f"readme_{os.getpid()}"
SMALLER = {
    "--n 200": "--n 10",
    "--n 50": "--n 1 --horizon 5",
    "robomimic.scripts.train": f"robomimic.scripts.train --debug --name {NAME}",
    "scripts/train.py": f"scripts/train.py --debug --name {NAME}",
}


def commands() -> list[str]:
    blocks = [text for language, text in BLOCK.findall(README) if language == "bash"]
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *RUN_ELSEWHERE))]


def newest_run() -> Path:
    found = Path("/tmp/tmp_trained_models").glob(f"{NAME}/*/logs/tb")
    return max(path.parent.parent for path in found)


def prepare(line: str) -> str:
    for text, smaller in SMALLER.items():
        line = line.replace(text, smaller)
    if "RUN" in line:
        line = re.sub(r"RUN/models/\S+", str(next(newest_run().glob("models/*.pth"), "")), line)
        line = re.sub(r"RUN\d?", str(newest_run()), line)
    return line


@pytest.mark.simulator
@pytest.mark.slow
def test_every_command_runs(tmp_path: Path) -> None:
    for name in ("scripts", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for path in REPOSITORY.glob("docs/**/results.json"):  # copies: a command might write there
        copy = tmp_path / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    # --debug trains for two epochs and saves only what the config says: after every epoch here.
    config = tmp_path / "every_epoch.json"
    text = (REPOSITORY / "configs" / "vae_joint.json").read_text()
    text = text.replace('"every_n_epochs": 10', '"every_n_epochs": 1')
    config.write_text(text.replace('"seed": 0', '"seed": 0, "batch_size": 16'))
    assert len(commands()) >= 8
    for line in commands():
        words = shlex.split(prepare(line).replace("configs/vae_joint.json", str(config)))
        assert words[0] == "python", line
        result = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True,
            timeout=300, stdin=subprocess.DEVNULL, env=dict(os.environ) | {"MUJOCO_GL": "egl"},
        )  # fmt: skip
        assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        if "robomimic.scripts.train" in line:
            assert "finished run successfully!" in result.stdout, result.stdout[-2000:]


def test_the_thirty_second_check_runs(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    snippets = [text for language, text in BLOCK.findall(README) if language == "python"]
    assert len(snippets) >= 1 and "critic_optimizer" in snippets[0]
    algo = make_model()
    exec(snippets[0], {"algo": algo, "batch": make_batch(algo)})
    broken = make_model(owner="vae")
    with pytest.raises(AssertionError):
        exec(snippets[0], {"algo": broken, "batch": make_batch(broken)})


TASKS, OWNERS = ("play_lift", "lift_mixed"), ("critic", "joint")
NUMBER = r"(-?[\d.]+(?:e-?\d+)?)"


def discussion(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    """A page of results in one line, and what the code in its discussion prints."""
    text = (REPOSITORY / page).read_text()
    (snippet,) = [code for language, code in BLOCK.findall(text) if language == "python"]
    monkeypatch.chdir(REPOSITORY)
    exec(snippet, {})
    return " ".join(text.split()), capsys.readouterr().out


def estimate(printed: str, beginning: str) -> list[str]:
    """Value and bounds of the estimate in the line that begins so, with two digits."""
    bounds = rf"Estimate\(value={NUMBER}, low={NUMBER}, high={NUMBER}"
    (found,) = re.findall(re.escape(beginning) + ".*?" + bounds, printed)
    return [f"{float(x):.2f}" for x in found]


def assert_in_tables(page: str, beginning: str, end: str) -> None:
    """Every figure with decimals in a part of a page's discussion stands outside of it, too."""
    before, rest = page.split("<!-- discussion -->")
    after = rest.split("<!-- end -->")[1]
    part = page.split(beginning)[1].split(end)[0]
    found, known = (re.findall(r"-?\d+\.\d+", text) for text in (part, before + after))
    assert len(found) > 15 and set(found) <= set(known), set(found) - set(known)


def test_figures_of_the_discussion_are_what_its_code_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, printed = discussion("docs/results.md", monkeypatch, capsys)
    found = re.findall(rf"critic vae success, paired t test: p = {NUMBER}", printed)
    p = [f"{float(x):.2f}" for x in found]
    assert f"(p = {p[0]} on `play_lift`, {p[1]} on `lift_mixed`)" in text
    assert f"paired t test on `play_lift` and `lift_mixed`: p = {p[0]} and {p[1]})" in " ".join(
        README.split()
    )

    def said(task: str, arms: str, what: str) -> list[str]:
        return estimate(printed, f"{task} {arms} {what}:")

    critic, joint = (said("play_lift", f"{a} vae", "root of the held-out error") for a in OWNERS)
    assert "it is {} times ({} to {}) for `critic`".format(*critic) in text
    assert "and {} ({} to {}) for `joint`".format(*joint) in text
    starts = [said("play_lift", f"{arm}_orth {arm}", "held-out error")[0] for arm in OWNERS]
    assert "({} and {} times; both intervals are above 1)".format(*starts) in text
    last = [said(task, "critic vae", "last three") for task in TASKS]
    assert "{} ({} to {}) and {} ({} to {}).".format(*last[0], *last[1]) in text
    last = [said(task, "joint vae", "last three") for task in TASKS]
    assert "({}, {} to {} and, on `lift_mixed`, {}, {} to {})".format(*last[0], *last[1]) in text
    last = said("play_lift", "critic_orth vae_orth", "last three")
    assert "the last three checkpoints is {} ({} to {})".format(*last) in text
    last = said("play_lift", "joint_orth joint", "last three")
    assert "over the last three checkpoints {}, {} to {};".format(*last) in text
    joint = said("play_lift", "joint vae", "success with z = 0")
    assert "with z = 0 in both ({}, {} to {} on `play_lift`)".format(*joint) in text
    behind = [float(said(t, "critic vae", "success with z = 0")[0]) for t in TASKS]
    assert f"stays behind `vae` by {-behind[0]} (" in text and f") and {-behind[1]} (" in text
    errors = [float(x) for x in re.findall(rf"is received: {NUMBER}", printed)]
    assert f"there it is {errors[2]:.2f}, with `vae` {errors[0]:.2f}" in text
    assert f"at the other steps it is {errors[3]:.3f} against {errors[1]:.3f}" in text


def test_figures_of_the_longer_study_are_what_its_code_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, printed = discussion("docs/longer/results.md", monkeypatch, capsys)
    first, second, third, last = (
        estimate(printed, f"{step} critic held-out error") for step in (1000, 2000, 3000, 6000)
    )
    errors = f"{first[0]} times `vae`'s after 1,000 steps, {second[0]} after 2,000, {third[0]}"
    assert errors + " after 3,000 and {} ({} to {}) after 6,000".format(*last) in text
    four = ", ".join([NUMBER] * 4)
    rates = re.findall(rf"vae, joint and joint_surgery: \[{four}\]", printed)
    assert f"`vae` was at its level after 3,000 steps ({rates[2][1]})" in text
    assert f"`critic` after 4,000 ({rates[3][0]}), with {rates[2][0]} at 3,000" in text
    shares = [float(x) for x in re.findall(rf"nothing is received: {NUMBER}", printed)]
    assert "({:.0%}, with `vae` {:.0%})".format(*shares).replace("%", " %") in text
    received = [float(x) for x in re.findall(rf"where Q > 0.9: {NUMBER}", printed)]
    assert "{:.2f} is received on average, with `vae` {:.2f}".format(*received) in text
    critic, vae, joint, _ = (round(100 * float(rate)) for rate in rates[0])
    early = f"{joint} of 100 episodes succeed, with `vae` {vae} and with `critic` {critic};"
    assert early in text and f"with {round(250 * float(rates[-1][2]))} of 250. Its held-out" in text
    mixed = overview.read([REPOSITORY / "docs/longer/results.json"])[-1]
    late, soon = (
        sum(record.rollouts[0].outcomes.sum() for record in mixed.summary.of("lift_mixed", arm))
        for arm in ("joint", "vae")
    )
    said = f"{joint} against {vae} of 100 episodes after 1,000 steps, {late:.0f} against "
    assert said + f"{soon:.0f} after 500." in " ".join(README.split())
    first, last = (estimate(printed, f"{step} joint held-out error") for step in (1000, 6000))
    errors = f"Its held-out error is {first[0]} times `vae`'s after 1,000 steps"
    assert errors + " and {} ({} to {}) at the end".format(*last) in text
    (behind,) = re.findall(rf"last three, critic - vae: Estimate\(value=-{NUMBER}", printed)
    assert f"over the last three it is {float(behind):.2f} behind" in text
    early = estimate(printed, "2000 joint_surgery held-out error")
    assert "after 2,000 steps it was {} times ({} to {}).".format(*early) in text
    page = (REPOSITORY / "docs/longer/results.md").read_text(encoding="utf-8")
    beginning, end = "**What is seen on `lift_mixed`:**", "**What is seen on `play_lift`:**"
    assert_in_tables(page, beginning, end)
    for arm, its in (("joint_surgery", "joint"), ("critic_hl", "critic")):
        compared, steps, *_ = re.findall(rf"\n\| `{arm}` \| `{its}` \|(.*)", page)  # play_lift
        values, success = compared.split(" | "), steps.split(" | ")
        for said in (values[2], values[3], success[1], success[-1].strip(" |")):
            value, interval = said.split(" ", 1)
            words = rf"(times )?(`{its}`'s )?(as wrong )?"
            assert re.search(rf"[^-\d.]{value} {words}{re.escape(interval[:-1])}", text), said


def test_figures_of_more_tasks_stand_in_its_tables_or_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs/more_tasks/results.md").read_text(encoding="utf-8")
    before, rest = page.split("<!-- discussion -->")
    text, after = rest.split("<!-- end -->")
    tables = " ".join((before + after).split())
    _, printed = discussion("docs/more_tasks/results.md", monkeypatch, capsys)
    text = " ".join(text.split("What the text says beyond")[0].split())
    vae, critic, joint, bc = re.findall(r"(\d+) of 250", tables)[:4]
    assert f"{critic} of 250 final episodes against {vae} (" in text and f"{joint} of 250 (" in text
    assert f"Its {bc} successes" in text
    first, second, third, last = (
        estimate(printed, f"can_paired {step} critic / vae's") for step in (1000, 2000, 3000, 4000)
    )
    times = "{} times ({} to {})"
    assert f"it is {times} after 1,000 steps and ".format(*first) in text
    assert f"steps and {times} after 2,000, where it".format(*second) in text
    assert f"): {times} after 3,000 and ".format(*third) in text
    assert f"3,000 and {times} at the end".format(*last) in text
    joint_last = estimate(printed, "can_paired 4000 joint / vae's")
    assert f"so: {times} at the end.".format(*joint_last) in text
    means = {
        int(step): [f"{float(x):.4f}" for x in values.split(", ")]
        for step, values in re.findall(r"can_paired (\d+) held-out error of .*: \[(.*)\]", printed)
    }
    smallest = [min(means, key=lambda step, arm=arm: float(means[step][arm])) for arm in (0, 1)]
    assert smallest == [3400, 2000]
    assert f"where it is smallest ({means[2000][1]})" in text
    assert f"falls until 3,400 steps ({means[3400][0]})" in text
    assert f"at the end ({means[4000][1]} against {means[4000][0]})" in text
    seen = estimate(printed, "can_paired trained on, critic / vae's")
    assert "{} times `vae`'s ({} to {}; [errors]".format(*seen) in text
    parts = {}
    for arm in ("critic", "vae"):
        for part in ("failures", "successes"):
            (value,) = re.findall(rf"can_paired valid {arm} error_of_{part} {NUMBER}", printed)
            parts[arm, part] = f"{float(value):.3f}"
    assert (
        "({} of those held out, against {} where they succeed; with `vae` {} and {})".format(
            *parts.values()
        )
        in text
    )
    stack = {
        int(step): [float(x) for x in values.split(", ")]
        for step, values in re.findall(r"stack_mixed (\d+) held-out error of .*: \[(.*)\]", printed)
    }
    least = [min(stack, key=lambda step, arm=arm: stack[step][arm]) for arm in range(3)]
    said = "with `vae` from {} to {}, with `critic` from {} to {}, more than that of a constant"
    ends = [[f"{stack[step][arm]:.3f}" for step in (least[arm], 4000)] for arm in range(3)]
    assert said.format(*ends[0], *ends[1]) in text
    assert "with `joint` from {} to {}.".format(*ends[2]) in text
    assert set(least) == {600} and "after about 600 steps" in text
    found = re.findall(rf"stack_mixed (train|valid) (vae|critic) (error\w*) {NUMBER}", printed)
    at_end = {(arm, part): f"{float(x):.3f}" for _, arm, part, x in found}
    assert (
        "({critic} on the demonstrations that `critic` was trained on, {vae} with `vae`)".format(
            **{arm: at_end[arm, "error"] for arm in ("critic", "vae")}
        )
    ) in text
    assert (
        "({} of those held out, against {} where they succeed; with `vae` {} and {})".format(
            *(
                at_end[a, f"error_of_{p}"]
                for a in ("critic", "vae")
                for p in ("failures", "successes")
            )
        )
        in text
    )
    known = {x for end in ends for x in end} | set(at_end.values())
    known |= {means[2000][1], means[3400][0], means[4000][1], means[4000][0]}
    known |= {*first, *second, *third, *last, *joint_last, *seen, *parts.values(), "0.3", "1.5"}
    decimals = [x for x in re.findall(r"-?\d\.\d+", text) if x not in known]
    # A loss is the negative of a gain in the table.
    forms = [(x, f"-{x}") for x in decimals]
    assert len(decimals) > 10
    for x, negative in forms:
        assert any(re.search(rf"(?<![\d.]){y}\b", tables) for y in (x, negative)), x


def test_the_overview_is_of_the_published_results() -> None:
    (command,) = [line for line in commands() if "scripts/overview.py" in line]
    paths = [REPOSITORY / word for word in command.split() if word.endswith(".json")]
    assert len(paths) == len(list(REPOSITORY.glob("docs/**/results.json"))) == 4
    parts = overview.read(paths)
    text = overview.tables_of(parts)
    assert f"<!-- overview -->\n\n{text}\n\n<!-- end -->" in README
    verdicts = [
        [claim.verdict(p.summary, p.task, arm).endswith("**yes**") for p in parts for arm in p.arms]
        for claim in overview.claims.CLAIMS[1:]
    ]
    assert [sum(column) for column in verdicts] == [4, 0, 1]
    assert "lie four of the held-out Q errors, all on play_lift, and one success" in README


FIRST = (
    "play_lift, 2,000 steps", "lift_mixed, 1,000 steps",
    "can_paired, 4,000 steps", "stack_mixed, 4,000 steps",
)  # fmt: skip
LONGER = ("play_lift, 6,000 steps", "lift_mixed, 3,000 steps")
RESNET18 = "play_lift, ResNet18, 2,000 steps"


@pytest.fixture(scope="module")
def parts() -> dict[str, overview.Part]:
    found = overview.read(sorted(REPOSITORY.glob("docs/**/results.json")))
    return {part.title: part for part in found}


def won(part: overview.Part, *arms: str) -> list[str]:
    """Final episodes of each arm that succeed."""
    return [tables.successes(part.summary, part.task, arm).split(" of ")[0] for arm in arms]


def judged(part: overview.Part, arm: str) -> list[tuple[float, str]]:
    """What was measured of each claim, and whether it holds."""
    found = []
    for claim in overview.claims.CLAIMS:
        estimate = claim.estimate(part.summary, part.task, arm)
        assert estimate is not None
        found.append((estimate.value, claim.holds(estimate)))
    return found


WORDS = {
    "critic": ("larger ", "**no**: larger on all", "**no**: less on all"),
    "joint": (
        "hardly any difference ",
        "**no** (**open** on `lift_mixed`); no difference seen on any",
        "**no**: as much",
    ),
}


def test_the_table_of_claims_says_what_was_measured(parts: dict[str, overview.Part]) -> None:
    block, no = " ".join(README.split()), ["no"] * 4
    for arm, rollouts in (("critic", no), ("joint", ["no", "open", "no", "no"])):
        of_tasks = zip(*(judged(parts[title], arm) for title in FIRST), strict=True)
        (steps, held_out, in_rollouts, success) = (list(zip(*x, strict=True)) for x in of_tasks)
        assert [list(x[1]) for x in (steps, held_out, in_rollouts, success)] == [
            ["open", *no[1:]], ["yes", *no[1:]], rollouts, no,
        ]  # fmt: skip
        said = f"**open** on `play_lift` ({steps[0][0]:.1f} times), **no** on the others"
        assert said in block
        said = f"**yes** on `play_lift` ({held_out[0][0]:.2f} times), **no** on the others: "
        others = f"({min(held_out[0][1:]):.2f} to {max(held_out[0][1:]):.2f})"
        assert said + WORDS[arm][0] + others in block
        digits = 1 if arm == "critic" else 2
        for values, places, words in zip(
            (in_rollouts[0], success[0]), (digits, 2), WORDS[arm][1:], strict=True
        ):
            assert f"{words} ({min(values):.{places}f} to {max(values):.{places}f} times)" in block
        for measure, direction in ((2, 1), (3, -1)) if arm == "critic" else ():
            claim = overview.claims.CLAIMS[measure]
            for title in FIRST:  # larger on all, less on all
                found = claim.estimate(parts[title].summary, parts[title].task, arm)
                assert found and found.low and found.high
                assert found.low > 1 if direction > 0 else found.high < 1
        with_resnet = judged(parts[RESNET18], arm)[1:]
        (q, held), (own, again), (_, more) = with_resnet
        its, vaes = won(parts[RESNET18], arm, "vae")
        last = rf"\({its} of 250( episodes)? against {vaes}\)"
        said = f"**{held}** ({q:.2f} times), **{again}** ({own:.{digits}f}), **{more}** "
        assert re.search(re.escape(said) + last, block), said
    for title in (*FIRST, *LONGER, RESNET18):  # nowhere seen to be worse
        part = parts[title]
        found = part.summary.difference(part.task, "joint", "vae", "success_final")
        assert found and found.high is not None and found.high >= 0


def test_figures_beside_the_table_of_claims_are_those_of_the_studies(
    parts: dict[str, overview.Part],
) -> None:
    block = " ".join(README.split())
    play, mixed, can, stack = (parts[title] for title in FIRST)
    start = play.summary.ratio("play_lift", "critic_orth", "vae_orth", "critic_error_final")
    helped = play.summary.ratio("play_lift", "vae_orth", "vae", "critic_error_final")
    assert start and helped
    assert f"cut `vae`'s error to {helped.value:.2f} times and" in block
    its = play.summary.ratio("play_lift", "joint_orth", "vae_orth", "critic_error_final")
    assert its
    said = f"`critic_orth` has {start.value:.2f} and `joint_orth` {its.value:.2f} times the error."
    assert said in block
    longer, mixed_longer = (parts[title] for title in LONGER)
    (critic, holds), (joint, too) = (judged(longer, arm)[1] for arm in OWNERS)
    assert holds == too == "open"
    said = f"the error is {critic:.2f} (`critic`) and {joint:.2f} times (`joint`) that of `vae`"
    assert f"{said}, both **open**" in block
    said = "success is equal: {} and {} against {} of 250."
    assert said.format(*won(longer, "critic", "joint", "vae")) in block
    pairs = [" against ".join(won(part, "critic", "vae")) for part in (longer, mixed_longer)]
    assert f"times the steps {pairs[0]} (`play_lift`) and {pairs[1]} (`lift_mixed`)." in block
    (of_mixed,), (of_play,), (of_can,), (of_stack,) = (
        won(part, "bc") for part in (mixed, play, can, stack)
    )
    assert f"does as well ({of_mixed} of 250 against {won(mixed, 'joint')[0]});" in block
    ours = sorted(int(won(part, "joint")[0]) for part in (play, can, stack))
    its = sorted(map(int, (of_play, of_can, of_stack)))
    assert f"({its[0]} to {its[-1]} of 250 against {ours[0]} to {ours[-1]})" in block
    below = [
        of_critic < of_vae
        for part in (play, mixed, can, stack, parts[RESNET18])
        for of_critic, of_vae in zip(
            *(
                part.summary.values(part.task, arm, "success_final").values()
                for arm in ("critic", "vae")
            ),
            strict=True,
        )
    ]
    assert f"(with {sum(below)} of {len(below)} seeds; paired" in block
    difference = stack.summary.difference("stack_mixed", "joint", "vae", "success_final")
    assert difference is not None and difference.low is not None
    assert f"up to {-100 * difference.low:.0f} percentage points less" in block


def test_ratios_of_speed_are_those_of_the_benchmarks() -> None:
    peers = ("bcq", "iql", "td3_bc", "bc")
    for device, batch in (("gpu", 256), ("cpu", 64)):
        results = json.loads((REPOSITORY / f"docs/bench_{device}.json").read_text())
        ratios = [f"{results['ratios'][f'steps_vs_{peer}']:.1f}" for peer in peers]
        assert f"ResNet18, batch {batch} | {' | '.join(ratios)} |" in README
        steps = results["parts"]["steps"]["settings"]["small"]["step"]
        assert results["parts"]["steps"]["settings"]["small"]["batch_size"] == 128
        times = [
            timing.ratio(steps[peer]["seconds"], steps["lapo_critic"]["seconds"]).value
            for peer in peers
        ]
        assert f"batch 128 | {' | '.join(f'{time:.1f}' for time in times)} |" in README


def test_figures_of_resnet18_are_those_of_its_page(parts: dict[str, overview.Part]) -> None:
    block = " ".join(README.split())
    small = "(`joint` {}, `vae` {}, `critic` {}; other seeds)"
    assert small.format(*won(parts[FIRST[0]], "joint", "vae", "critic")) in block
    summary = parts[RESNET18].summary
    auc = [summary.estimate("play_lift", arm, "auc_final") for arm in summary.arms]
    assert [f"{it.value:.2f}" for it in auc if it] == ["0.69", "1.00", "1.00"]
    assert "(AUC, of which 0.5 is chance: 0.69; both others: 1.00)" in block
    # Every figure with decimals of the page's discussion stands in its tables.
    page = (REPOSITORY / "docs/resnet18/results.md").read_text(encoding="utf-8")
    assert_in_tables(page, "<!-- discussion -->", "Trained and played on python")


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"\b[A-Z]+_[A-Z]+\b(?!=)", README.replace("ROBOMIMIC_VAE_EXT", ""))


def test_files_and_keys_that_the_readme_names_exist() -> None:
    for name in re.findall(r"`((?:baselines/)?[\w*]+\.json)`", README):
        if name not in ("bcq.json", "iql.json", "evaluation.json", "results.json"):
            assert list((REPOSITORY / "configs").glob(name)), name
    for name in re.findall(r"`(robomimic_vae_ext/[\w/]+\.py|scripts/\w+\.py|docs/\S+?)`", README):
        assert (REPOSITORY / name).exists(), name
    from robomimic.config import config_factory

    for key in re.findall(r"`(algo\.[\w.]+)", README):
        section: Any = config_factory("lapo")
        for part in key.split("."):
            assert part in section, key
            section = section[part]
