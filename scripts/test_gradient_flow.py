"""`lapo audit` as a single file."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
