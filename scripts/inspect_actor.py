"""`lapo inspect actor` as a single file."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["inspect", "actor", *sys.argv[1:]]))
