"""Which loss trains which module, who owns it, and did it move: needs torch only.

Read it in this order: `recording` (what happened), `judge` (what it means), `show` (how it is
printed); `tape`, `periodic` and `testing` are the ways in.
"""

from robomimic_vae_ext.gradient_flow.judge.contract import Contract, Loss, Target
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Severity, Verdict
from robomimic_vae_ext.gradient_flow.periodic import PeriodicAudit
from robomimic_vae_ext.gradient_flow.show.flow_report import Report
from robomimic_vae_ext.gradient_flow.tape import Tape, record

__all__ = [
    "Contract",
    "Finding",
    "Loss",
    "PeriodicAudit",
    "Report",
    "Severity",
    "Tape",
    "Target",
    "Verdict",
    "record",
]
