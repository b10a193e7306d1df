"""Training under the tape leaves every bit where training without it leaves it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_

from robomimic_vae_ext.gradient_flow import PeriodicAudit, record


class Agent:
    """Convolution, BatchNorm, dropout, GRU, attention, Polyak, three optimizers, clips."""

    def __init__(self, set_to_none: bool) -> None:
        self.set_to_none = set_to_none
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.encoder.append(nn.Linear(4 * 7 * 7, 8))
        self.critic = nn.GRU(8, 8, batch_first=True)
        self.actor = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.critic_target = nn.GRU(8, 8, batch_first=True)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.modules = nn.ModuleDict(
            {
                "encoder": self.encoder,
                "critic": self.critic,
                "actor": self.actor,
                "critic_target": self.critic_target,
            }
        )
        critic_parameters = [*self.critic.parameters(), *self.encoder.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "critic": torch.optim.Adam(critic_parameters, lr=1e-2),
            "actor": torch.optim.SGD(self.actor.parameters(), lr=1e-2, momentum=0.9),
        }

    def step(self) -> None:
        images = torch.rand(5, 3, 16, 16)
        features = self.encoder(images)
        with torch.no_grad():
            goal = self.critic_target(features[None])[0] * 0.9 + random.random()
        critic_opt, actor_opt = self.optimizers["critic"], self.optimizers["actor"]
        critic_opt.zero_grad(set_to_none=self.set_to_none)
        mse_loss(self.critic(features[None])[0], goal).backward()
        clip_grad_norm_(self.critic.parameters(), 0.1)
        critic_opt.step()
        actor_opt.zero_grad(set_to_none=self.set_to_none)
        acted = self.actor(features.detach()[None])
        (-self.critic(acted)[0].mean()).backward()
        actor_opt.step()
        with torch.no_grad():
            for slow, fast in zip(
                self.critic_target.parameters(), self.critic.parameters(), strict=True
            ):
                slow.copy_(0.95 * slow + 0.05 * fast)

    def everything(self) -> list[torch.Tensor]:
        """Weights, buffers, gradients, optimizer state and random state."""
        found = [*self.modules.state_dict().values()]
        for parameter in self.modules.parameters():
            missing = torch.full((1,), float("-inf"))  # None and zeros must not be confused
            found.append(missing if parameter.grad is None else parameter.grad)
        for optimizer in self.optimizers.values():
            for state in optimizer.state.values():
                found.extend(v for v in state.values() if isinstance(v, torch.Tensor))
        return [t.detach().clone() for t in found] + [torch.get_rng_state()]


def run(set_to_none: bool, steps: int, **settings: Any) -> list[torch.Tensor]:
    torch.manual_seed(3)
    random.seed(3)
    agent = Agent(set_to_none)
    if settings:
        with record(agent.modules, agent.optimizers, **settings) as tape:
            for _ in range(steps):
                agent.step()
        assert len(tape.recording.events) > 8 * steps  # the tape was indeed listening
    else:
        for _ in range(steps):
            agent.step()
    return agent.everything()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"trace_writes": True},
        {"trace_writes": False},
        {"trace_writes": True, "keep_vectors": True},
    ],
    ids=lambda s: "+".join(f"{k}={v}" for k, v in s.items()),
)
def test_bit_identical(set_to_none: bool, settings: dict[str, bool]) -> None:
    plain, taped = run(set_to_none, 4), run(set_to_none, 4, **settings)
    assert len(plain) == len(taped) > 40
    for before, after in zip(plain, taped, strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_periodic_audit_is_bit_identical() -> None:
    torch.manual_seed(3)
    random.seed(3)
    agent = Agent(set_to_none=True)
    audit = PeriodicAudit(agent.modules, agent.optimizers, every_n_steps=2)
    seen = 0
    for step in range(4):
        with audit.step(step):
            agent.step()
        seen += bool(audit.metrics())
    assert seen == 2
    audited = agent.everything()  # before `run`, which seeds anew
    for before, after in zip(run(True, 4), audited, strict=True):
        assert torch.equal(before, after)


def test_the_comparison_can_fail() -> None:
    # One more step, or another mode of zero_grad, must show, or the test above proves nothing.
    def differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
        return any(x.shape != y.shape or not torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert differ(run(True, 4), run(True, 5))


def test_gradients_keep_their_identity() -> None:
    policy = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    policy(torch.ones(1, 3)).sum().backward()
    held: Callable[[], torch.Tensor | None] = lambda: policy.weight.grad  # noqa: E731
    before = held()
    with record({"policy": policy}, {"policy": optimizer}):
        policy(torch.ones(1, 3)).sum().backward()
        assert held() is before  # accumulated in place, as without the tape
        optimizer.step()


def backward_of_a_generator(policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def losses() -> Iterator[torch.Tensor]:
        for _ in range(2):
            yield policy(torch.randn(4, 3)).square().mean()

    torch.autograd.backward(losses())  # type: ignore[arg-type]
    optimizer.step()


def backward_of_a_graph_edge(policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss = policy(torch.randn(4, 3)).square().mean()
    torch.autograd.backward(torch.autograd.graph.get_gradient_edge(loss))
    optimizer.step()


def compiled_optimizer_step(policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    policy(torch.randn(4, 3)).square().mean().backward()
    torch.compile(lambda: optimizer.step(), backend="eager")()


def compiled_training_step(policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def step() -> None:
        policy(torch.ones(4, 3)).square().mean().backward()
        clip_grad_norm_(policy.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()

    torch.compile(step, backend="eager")()


@pytest.mark.parametrize(
    "step",
    [
        backward_of_a_generator,
        backward_of_a_graph_edge,
        compiled_optimizer_step,
        compiled_training_step,
    ],
)
def test_rare_ways_to_call_torch_are_bit_identical(
    step: Callable[[nn.Module, torch.optim.Optimizer], None],
) -> None:
    def trained(recorded: bool) -> list[torch.Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(3)
        policy = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        optimizer = torch.optim.Adam(policy.parameters())
        audit = PeriodicAudit({"policy": policy}, {"policy": optimizer}, int(recorded))
        for number in range(3):
            with audit.step(number):
                step(policy, optimizer)
            assert bool(audit.metrics()) == recorded
            assert not recorded or audit.metrics()["update_ratio/policy"] > 0
        return [tensor.detach().clone() for tensor in policy.state_dict().values()]

    for before, after in zip(trained(False), trained(True), strict=True):
        assert torch.equal(before, after)
