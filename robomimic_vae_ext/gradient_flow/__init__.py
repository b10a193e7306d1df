"""Which loss trains which module, who owns it, and did it move: knows torch only."""

from .contract import Contract, Finding, Loss, Severity, Target, Verdict
from .report import Report
from .tape import Tape, record

__all__ = [
    "Contract",
    "Finding",
    "Loss",
    "Report",
    "Severity",
    "Tape",
    "Target",
    "Verdict",
    "record",
]
