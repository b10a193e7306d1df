"""`lapo compare` as a single file, and with `--study FILE` `lapo study FILE`."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(
        main(["study" if any(word.startswith("--study") for word in words) else "compare", *words])
    )
