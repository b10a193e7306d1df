"""Act with a policy that `lapo export --format torchscript` has written: needs torch and numpy.

python act_from_export.py policy.pt
"""

import json
import sys

import numpy as np
import torch


class Policy:
    """Observations of one step, as numpy arrays, to an action (A,)."""

    def __init__(self, path: str) -> None:
        note = {"lapo.json": ""}
        self.network = torch.jit.load(path, map_location="cpu", _extra_files=note).eval()
        self.shapes = json.loads(note["lapo.json"])["observations"]

    def __call__(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """Act; keys that the policy does not read are left out."""
        batch = {key: torch.from_numpy(np.ascontiguousarray(obs[key]))[None] for key in self.shapes}
        with torch.no_grad():
            return self.network(batch)[0].numpy()


if __name__ == "__main__":
    policy = Policy(sys.argv[1])
    # In place of a camera and a robot: pictures (H, W, 3) uint8, other observations float32.
    obs = {
        key: np.zeros(shape, np.uint8 if len(shape) == 3 else np.float32)
        for key, shape in policy.shapes.items()
    }
    print("action:", policy(obs).round(3).tolist())
