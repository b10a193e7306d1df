"""The report as text, as JSON and as a figure."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robomimic_vae_ext.gradient_flow import Report, Verdict, record
from robomimic_vae_ext.gradient_flow.show.flow_figure import STYLES
from tests.gradient_flow.corpus_gradients import (
    SHARED,
    amp_scaler_skips_every_step,
    encoder_in_the_vae_optimizer,
    target_decoder_collects_for_ever,
)
from tests.gradient_flow.test_correct_loops import shared_encoder_owned_by_the_critic


def report_of(loop: Any, steps: int = 2) -> Report:
    with record(loop.modules, loop.optimizers) as tape:
        for _ in range(steps):
            loop.step()
    return tape.report()


def test_norms_and_movement_are_the_true_ones() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with record({"w": weight}, {"sgd": optimizer}) as tape:
        ((weight * torch.tensor([6.0, 8.0])).sum()).backward()
        optimizer.step()
    report = tape.report()
    (cell,) = report.cells
    assert cell.norm == pytest.approx(10.0)  # |(6, 8)|
    movement = report.movement["sgd", "w"]
    assert movement.absolute == pytest.approx(5.0)  # 0.5 * 10
    assert movement.relative == pytest.approx(1.0)  # |(3, 4)| = 5
    assert movement.times == 1


def test_a_second_backward_is_told_from_what_was_there() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with record({"w": weight}, {"sgd": optimizer}) as tape:
        large_loss = 1e6 * weight[0]
        large_loss.backward()
        small_loss = 1e-6 * weight[0]  # lost in the sum by rounding, and seen all the same
        small_loss.backward()
        optimizer.step()
    norms = {cell.loss.name: cell.norm for cell in tape.report().cells}
    assert norms == {"large_loss": pytest.approx(1e6), "small_loss": pytest.approx(1e-6)}


def test_text_names_loss_module_owner_and_line() -> None:
    report = report_of(encoder_in_the_vae_optimizer())
    (finding,) = report.broken
    for name in ("critic_loss", "encoder", "vae.zero_grad()", finding.site.where):
        assert name in finding.message
    text = " ".join(str(report).split())
    assert finding.message in text
    assert "DISCARDED" in text
    assert "DISCARDED" not in str(report_of(shared_encoder_owned_by_the_critic()))


def test_tables_line_up() -> None:
    tables = str(report_of(shared_encoder_owned_by_the_critic())).split("\n\n")[1:4]
    for table in tables:
        _, head, *rows = table.splitlines()
        begins = [match.start() for match in re.finditer(r"(?<=  )\S", head)]
        assert len(rows) == 5
        for row in rows:
            assert all(row[i - 1] == " " and row[i] != " " for i in begins)


def test_trace_keeps_the_order() -> None:
    lines = report_of(encoder_in_the_vae_optimizer(), steps=1).trace().splitlines()
    events = [line.split(maxsplit=4)[1:3] for line in lines]
    effects = [line.split(maxsplit=4)[4] for line in lines]
    assert events == [
        ["zero_grad", "critic"],
        ["backward", "critic_loss"],
        ["step", "critic"],
        ["zero_grad", "vae"],
        ["backward", "vae_loss"],
        ["step", "vae"],
    ]
    modules = [{name for name in ("encoder", "critic", "vae") if name in line} for line in effects]
    assert modules == [
        set(),
        {"encoder", "critic"},
        {"critic"},
        {"encoder", "critic"},  # whose gradient was cleared, and of which loss it was
        {"encoder", "vae"},
        {"encoder", "vae"},
    ]


def test_json_is_strict_even_with_nan() -> None:
    report = report_of(amp_scaler_skips_every_step())
    text = json.dumps(report.to_dict(), allow_nan=False)
    data = json.loads(text)
    assert data["ok"] is False
    assert data["flow"][0]["norm"] is None
    finding = next(f for f in data["findings"] if f["severity"] == "broken")
    assert finding["verdict"] == "discarded"
    assert any("corpus_gradients.py:" in frame for frame in finding["trail"])


def test_wrong_flows_are_marked_without_colour() -> None:
    broken = {v for v, s in STYLES.items() if s.mark}
    fine = {v for v, s in STYLES.items() if not s.mark}
    assert {v.value for v in broken} == {"discarded", "orphan", "stale"}
    assert {STYLES[v].dashes for v in broken}.isdisjoint({STYLES[v].dashes for v in fine})

    def lightness(colour: str) -> float:
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    driven, discarded = (lightness(STYLES[v].colour) for v in (Verdict.DRIVEN, Verdict.DISCARDED))
    assert not math.isclose(driven, discarded, abs_tol=0.05)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figure_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"flow.{suffix}"
    report_of(encoder_in_the_vae_optimizer()).save_figure(path, "before the fix")
    content = path.read_bytes()
    assert len(content) > 5_000
    if suffix == "svg":
        assert content.lstrip().startswith(b"<?xml")


def test_figures_of_different_flows_differ(tmp_path: Path) -> None:
    from matplotlib.image import imread

    pictures = []
    for loop in (encoder_in_the_vae_optimizer(), target_decoder_collects_for_ever()):
        path = tmp_path / f"{len(pictures)}.png"
        report_of(loop).save_figure(path)
        pictures.append(imread(path)[..., :3])
    for picture in pictures:
        red, green, blue = (picture[..., i] for i in range(3))
        vermilion = (red > 0.7) & (green > 0.25) & (green < 0.5) & (blue < 0.2)
        assert vermilion.sum() > 200  # the broken arrow is there
    path = tmp_path / "kept.png"
    report_of(shared_encoder_owned_by_the_critic()).save_figure(path)
    picture = imread(path)[..., :3]
    red, green, blue = (picture[..., i] for i in range(3))
    assert not ((red > 0.7) & (green > 0.25) & (green < 0.5) & (blue < 0.2)).any()


def test_a_contract_asks_for_what_no_loss_reaches() -> None:
    loop = encoder_in_the_vae_optimizer()
    modules = loop.modules | {"actor": nn.Linear(2, 2)}
    with record(modules, loop.optimizers) as tape:
        loop.step()
    found = {(f.verdict.value, f.module) for f in tape.report(SHARED).broken}
    assert ("discarded", "encoder") in found
    assert ("starved", "actor") in found
