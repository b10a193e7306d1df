"""The audit works where nothing but torch is installed."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY

PROGRAM = """
import sys

TORCH_NEEDS = set(
    "torch torchgen functorch typing_extensions sympy mpmath networkx jinja2 markupsafe filelock "
    "fsspec setuptools pkg_resources _distutils_hack optree triton nvidia cuda".split()
)
KNOWN = sys.stdlib_module_names | TORCH_NEEDS | {{"robomimic_vae_ext"}}


class NothingElse:
    \"\"\"Finds what the other finders find, as if only these packages were installed.\"\"\"

    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in KNOWN and not top.startswith("_sysconfigdata"):
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)


for name in list(sys.modules):  # what a start-up file has brought in
    if name.partition(".")[0] not in sys.stdlib_module_names:
        del sys.modules[name]
sys.meta_path[:] = [NothingElse([f for f in sys.meta_path if hasattr(f, "find_spec")])]
sys.path.insert(0, {root!r})

import torch
from torch import nn

from robomimic_vae_ext.gradient_flow import Contract, Loss, PeriodicAudit, record
from robomimic_vae_ext.gradient_flow.testing import assert_gradient_flow

policy, target = nn.Linear(3, 2), nn.Linear(3, 2)
optimizer = torch.optim.Adam(policy.parameters())


def step():
    optimizer.zero_grad()
    policy_loss = (policy(torch.ones(4, 3)) - target(torch.ones(4, 3)).detach()).square().mean()
    policy_loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), policy.parameters()):
            slow.lerp_(fast, 0.1)


modules = {{"policy": policy, "policy_target": target}}
contract = Contract(losses={{"policy_loss": Loss(("policy",))}})
with record(modules, optimizer) as tape:
    for _ in range(3):
        with tape.step():
            step()
report = tape.report(contract)
print(report)
print(report.trace())
assert report.ok and report.to_dict()["modules"]["policy_target"] == "target"
audit = PeriodicAudit(modules, optimizer, 1, contract)
with audit.step(0):
    step()
assert audit.metrics()["broken"] == 0
assert_gradient_flow(step, modules, optimizer, contract)
try:
    report.save_figure("flow.png")
except ModuleNotFoundError as error:
    assert error.name.partition(".")[0] in ("matplotlib", "numpy")
else:
    raise AssertionError("a figure without matplotlib")
hidden = {{"numpy", "packaging", "h5py", "matplotlib", "robomimic", "robosuite", "mujoco"}}
assert not hidden & sys.modules.keys(), hidden & sys.modules.keys()
"""


def test_with_nothing_but_torch() -> None:
    program = PROGRAM.format(root=str(REPOSITORY))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "policy_loss" in result.stdout
