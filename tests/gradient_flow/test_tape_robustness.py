"""Bad input gets one clear message; exceptions pass through; nothing stays behind in torch."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad, clip_grad_norm_
from torch.optim import optimizer as optimizer_module
from torch.utils._python_dispatch import _get_current_dispatch_mode

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow import Contract, Loss, Verdict, record


def torch_state() -> dict[str, Any]:
    """Everything in torch that a recording touches."""
    return {
        "backward": torch.autograd.backward,
        "grad": torch.autograd.grad,
        "optimizer.zero_grad": torch.optim.Optimizer.__dict__["zero_grad"],
        "module.zero_grad": nn.Module.__dict__["zero_grad"],
        "clip norm": [c.cell_contents for c in clip_grad.clip_grad_norm_.__closure__],
        "clip value": [c.cell_contents for c in clip_grad.clip_grad_value_.__closure__],
        "pre hooks": dict(optimizer_module._global_optimizer_pre_hooks),
        "post hooks": dict(optimizer_module._global_optimizer_post_hooks),
        "dispatch mode": _get_current_dispatch_mode(),
    }


def tiny() -> tuple[nn.Module, torch.optim.Optimizer]:
    policy = nn.Linear(3, 2)
    return policy, torch.optim.SGD(policy.parameters(), lr=0.1)


def train(policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    policy(torch.ones(4, 3)).square().mean().backward()
    clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()


def test_torch_is_put_back() -> None:
    before = torch_state()
    policy, optimizer = tiny()
    with record({"policy": policy}, {"policy": optimizer}):
        during = torch_state()
        train(policy, optimizer)
    assert all(during[key] != before[key] for key in before)
    assert torch_state() == before
    assert not policy.weight._backward_hooks


class TrainingFailedError(Exception):
    pass


@pytest.mark.parametrize("where", ["in the loop", "in backward", "in step", "in a closure"])
def test_the_codes_own_exception_is_not_swallowed(where: str) -> None:
    before = torch_state()
    policy, optimizer = tiny()

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            raise TrainingFailedError(where)

    class FailingSGD(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if closure is not None:
                return closure()
            raise TrainingFailedError(where)

    def closure() -> float:
        raise TrainingFailedError(where)

    failing = FailingSGD(policy.parameters(), lr=0.1)
    with pytest.raises(TrainingFailedError), record(policy, {"policy": optimizer}) as tape:
        train(policy, optimizer)
        if where == "in backward":
            Fails.apply(policy(torch.ones(1, 3))).sum().backward()
        elif where == "in step":
            failing.step()
        elif where == "in a closure":
            failing.step(closure)
        raise TrainingFailedError(where)
    assert torch_state() == before
    assert not policy.weight._backward_hooks
    # What was recorded until then can still be read.
    assert tape.report().cell("train", "Linear") is not None


def test_a_failed_step_does_not_deafen_the_tape() -> None:
    policy, _ = tiny()

    class FailsOnce(torch.optim.SGD):
        failed = False

        def step(self, closure: Any = None) -> Any:
            if not self.failed:
                self.failed = True
                raise TrainingFailedError
            return super().step(closure)

    flaky = FailsOnce(policy.parameters(), lr=0.1)
    with record({"policy": policy}, {"policy": flaky}) as tape:
        with pytest.raises(TrainingFailedError):
            train(policy, flaky)
        train(policy, flaky)
    assert tape.report().movement["policy", "policy"].times == 1


@pytest.mark.parametrize(
    ("modules", "optimizers", "said"),
    [
        ({"policy": "a string"}, {}, "policy is a str"),
        ({"policy": lambda x: x}, {}, "policy is a function"),
        ({}, {}, "no module"),
        ({"relu": nn.ReLU()}, {}, "relu hold no parameters"),
        ({"policy": nn.Linear(2, 2)}, {"policy": "adam"}, "policy is a str"),
        ({"policy": nn.Linear(2, 2)}, {"policy": [3]}, "policy[0] is a int"),
        ({"policy": nn.Linear(2, 2, device="meta")}, {}, "on the meta device"),
        ({"policy": nn.LazyLinear(2)}, {}, "is lazy"),
    ],
)
def test_bad_input_is_refused(modules: Any, optimizers: Any, said: str) -> None:
    before = torch_state()
    with pytest.raises(AuditError) as caught, record(modules, optimizers):
        pytest.fail("the block must not run")
    assert said in str(caught.value)
    assert caught.value.expected
    assert caught.value.action
    assert torch_state() == before


def test_parameters_on_several_devices_are_judged_where_they_hold_values() -> None:
    # The meta device stands for a second device on machines that have only one.
    policy = nn.ModuleDict({"here": nn.Linear(2, 2), "there": nn.Linear(2, 2, device="meta")})
    said = "parameter weight of there is on the meta device"
    with pytest.raises(AuditError, match=said), record(policy, {}):
        pytest.fail("the block must not run")


def test_no_backward_at_all() -> None:
    policy, optimizer = tiny()
    with record({"policy": policy}, {"policy": optimizer}) as tape:
        policy(torch.ones(1, 3))
    with pytest.raises(AuditError):
        tape.report()


def test_report_before_the_end() -> None:
    policy, optimizer = tiny()
    with record({"policy": policy}, {"policy": optimizer}) as tape:
        train(policy, optimizer)
        with pytest.raises(AuditError):
            tape.report()
    assert tape.report().ok


def test_contract_about_something_else() -> None:
    policy, optimizer = tiny()
    with record({"policy": policy}, {"policy": optimizer}) as tape:
        train(policy, optimizer)
    with pytest.raises(AuditError, match="names the module critic"):
        tape.report(Contract(losses={"train": Loss(drives=("critic",))}))
    with pytest.raises(AuditError, match="names the optimizer adam"):
        tape.report(Contract(owners={"policy": "adam"}))
    with pytest.raises(AuditError, match="the contract has loses"):
        Contract.from_dict({"loses": {}})
    with pytest.raises(AuditError, match="'drive'"):
        Contract.from_dict({"losses": {"train": {"drive": ["policy"]}}})


def test_a_declared_loss_that_never_runs_breaks_the_contract() -> None:
    policy, optimizer = tiny()
    contract = Contract.from_dict(
        {"losses": {"train": {"drives": ["policy"]}, "other": {"drives": ["policy"]}}}
    )
    with record({"policy": policy}, {"policy": optimizer}) as tape:
        train(policy, optimizer)
    report = tape.report(contract)
    assert [f.loss for f in report.broken] == ["other"]
    assert report.broken[0].verdict is Verdict.STARVED


def test_labels_name_losses_that_share_a_line() -> None:
    policy, optimizer = tiny()
    with record({"policy": policy}, {"policy": optimizer}) as tape:
        for name in ("first", "second"):
            with tape.label(name):
                train(policy, optimizer)
    assert tape.report().losses == ("first", "second")


def test_the_tape_keeps_nothing_of_the_caller_alive() -> None:
    class Big:
        pass

    def inner() -> tuple[weakref.ref[Big], Any]:
        big = Big()
        policy, optimizer = tiny()
        with record({"policy": policy}, {"policy": optimizer}) as tape:
            train(policy, optimizer)
        return weakref.ref(big), tape

    reference, tape = inner()
    gc.collect()
    assert reference() is None
    assert tape.report().ok


def test_sparse_gradients_and_half_precision() -> None:
    table = nn.Embedding(10, 4, sparse=True)
    policy = nn.Linear(4, 2).to(torch.bfloat16)
    first = torch.optim.SparseAdam(table.parameters())
    second = torch.optim.SGD(policy.parameters(), lr=0.5)
    with record({"table": table, "policy": policy}, [first, second]) as tape:
        features = table(torch.tensor([1, 2]))
        policy(features.to(torch.bfloat16)).sum().backward()
        first.step()
        second.step()
    report = tape.report()
    assert report.ok
    assert {m: v.value for m, v in report.states.items()} == {"table": "driven", "policy": "driven"}
