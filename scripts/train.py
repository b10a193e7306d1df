"""robomimic's train.py with checks before and a non-zero exit after a failure; same flags."""

import runpy
import sys

import robomimic_vae_ext.errors as errors


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        runpy.run_module("robomimic.scripts.train", run_name="__main__")
    from robomimic_vae_ext.training import train

    run_folder = train(sys.argv[1:])
    saved = len(list(run_folder.glob("models/*.pth")))
    print(f"{saved} checkpoints, logs and videos: {run_folder}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.exit_code("train.py", main))
