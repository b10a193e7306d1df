"""`lapo inspect critic` as a single file."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["inspect", "critic", *sys.argv[1:]]))
