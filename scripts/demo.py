"""The command `lapo demo` as a file."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
