"""For tests of any project with several optimizers: one assertion, and a pytest fixture.

In a test module or conftest.py::

    from robomimic_vae_ext.gradient_flow import Contract, Loss
    from robomimic_vae_ext.gradient_flow.testing import assert_gradient_flow

    def test_the_critic_trains_the_encoder():
        agent = Agent()
        assert_gradient_flow(
            agent.update, {"encoder": agent.encoder, "critic": agent.critic}, agent.optimizers,
            Contract(losses={"critic_loss": Loss(drives=("critic", "encoder"))}),
        )

With `pytest_plugins = ["robomimic_vae_ext.gradient_flow.testing"]` the same function is the fixture
`gradient_flow`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.show.flow_report import Report
from robomimic_vae_ext.gradient_flow.tape import record

try:
    import pytest
except ImportError:  # the assertion serves without pytest
    pytest = None  # type: ignore[assignment]


def assert_gradient_flow(
    train_step: Callable[[], Any],
    modules: Any,
    optimizers: Any,
    contract: Contract | None = None,
    steps: int = 2,
) -> Report:
    """Run a few training steps and fail if the gradient flow is broken.

    Args:
        train_step: one training step, without arguments.
        modules: named modules, as for `record`.
        optimizers: named optimizers, as for `record`.
        contract: what should flow where; without it the general rules apply.
        steps: recorded steps; two show what one leaves behind for the next.

    Returns:
        The report, for further questions.

    Raises:
        AssertionError: something is broken; the message is the report.
        AuditError: there is nothing to judge.
    """
    __tracebackhide__ = True
    with record(modules, optimizers) as tape:
        for _ in range(steps):
            with tape.step():
                train_step()
    report = tape.report(contract)
    if not report.ok:
        raise AssertionError(str(report))
    return report


if pytest is not None:

    @pytest.fixture
    def gradient_flow() -> Callable[..., Report]:
        """`assert_gradient_flow`, for tests that prefer a fixture to an import."""
        return assert_gradient_flow
