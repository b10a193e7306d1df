"""The assertion and the fixture that other projects' tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from robomimic_vae_ext.gradient_flow.testing import assert_gradient_flow
from tests.gradient_flow.corpus_gradients import encoder_in_the_vae_optimizer
from tests.gradient_flow.test_correct_loops import shared_encoder_owned_by_the_critic

pytest_plugins = ["pytester"]


def test_passes_on_a_correct_loop_and_returns_the_report() -> None:
    loop = shared_encoder_owned_by_the_critic()
    assert assert_gradient_flow(loop.step, loop.modules, loop.optimizers).ok


def test_fails_with_the_report_on_a_broken_one() -> None:
    loop = encoder_in_the_vae_optimizer()
    with pytest.raises(AssertionError) as caught:
        assert_gradient_flow(loop.step, loop.modules, loop.optimizers)
    assert "critic_loss" in str(caught.value)
    assert "encoder" in str(caught.value)


@pytest.mark.slow
def test_the_fixture_serves_a_project_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["robomimic_vae_ext.gradient_flow.testing"]')
    pytester.makepyfile(
        """
        import torch

        def make(learning_rate_owner):
            policy, value = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
            optimizer = torch.optim.SGD(learning_rate_owner(policy, value), lr=0.1)
            def step():
                optimizer.zero_grad()
                (policy(torch.ones(1, 2)).sum() + value(torch.ones(1, 2)).sum()).backward()
                optimizer.step()
            return step, {"policy": policy, "value": value}, {"all": optimizer}

        def test_right(gradient_flow):
            gradient_flow(*make(lambda p, v: [*p.parameters(), *v.parameters()]))

        def test_wrong(gradient_flow):
            gradient_flow(*make(lambda p, v: p.parameters()))
        """
    )
    # The subprocess runs elsewhere and must find the package there too.
    root = str(Path(__file__).parents[2])
    pytester.syspathinsert(root)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*orphan:*value*"])
