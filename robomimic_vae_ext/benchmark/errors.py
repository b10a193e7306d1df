"""What can go wrong in a benchmark."""

from __future__ import annotations

from robomimic_vae_ext.errors import VaeExtError


class BenchmarkError(VaeExtError):
    """A benchmark that cannot be run, or results that cannot be put together."""
