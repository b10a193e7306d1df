"""What every broken loop of the corpus is made of."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from robomimic_vae_ext.gradient_flow import Contract, Tape, Verdict, record

OBS, FEATURES, ACTION, BATCH = 6, 8, 3, 16


class Loop(NamedTuple):
    """A training loop: what to watch, and one step of it."""

    modules: Any
    optimizers: Any
    step: Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A broken loop and what the audit has to say about it.

    Args:
        build: makes the loop; the guilty line in its source ends with `# BUG`.
        source: where such a bug was met.
    """

    build: Callable[[], Loop]
    verdict: Verdict
    module: str
    source: str
    contract: Contract | None = None
    steps: int = 3

    @property
    def name(self) -> str:
        return self.build.__name__

    @property
    def line(self) -> int:
        lines, first = inspect.getsourcelines(self.build)
        guilty = [first + i for i, text in enumerate(lines) if text.rstrip().endswith("# BUG")]
        assert len(guilty) == 1, f"{self.name} needs exactly one line marked # BUG"
        return guilty[0]


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(OBS, FEATURES), nn.Tanh())


class Critic(nn.Module):
    """Q(features, action)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES + ACTION, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, features: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([features, action], dim=-1))  # (B, 1)


def head() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, ACTION), nn.Tanh())


def adam(*modules: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([p for m in modules for p in m.parameters()], lr=1e-2)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observation (B, OBS), action (B, ACTION) in [-1, 1], return (B, 1)."""
    return torch.randn(BATCH, OBS), torch.rand(BATCH, ACTION) * 2 - 1, torch.randn(BATCH, 1)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, tau: float = 0.05) -> None:
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.data.mul_(1 - tau)
        slow.data.add_(tau * fast.data)


def record_steps(
    loop: Loop, steps: int = 3, trace_writes: bool = True, marked: bool = True
) -> Tape:
    """The tape of some steps of a loop; `marked`: with step marks."""
    with record(loop.modules, loop.optimizers, trace_writes=trace_writes) as tape:
        for _ in range(steps):
            with tape.step() if marked else contextlib.nullcontext():
                loop.step()
    return tape


def critic_and_vae(
    enc: nn.Module, critic: nn.Module, vae: nn.Module, critic_opt: Any, vae_opt: Any,
    step: Callable[[], None],
) -> Loop:  # fmt: skip
    """The loop of the quick card: an encoder, two heads, two optimizers."""
    modules = {"encoder": enc, "critic": critic, "vae": vae}
    return Loop(modules, {"critic": critic_opt, "vae": vae_opt}, step)
