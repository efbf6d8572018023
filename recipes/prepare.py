"""Prepares data as section 4.1 of the paper has it: `flowkit prepare`, started from a checkout.

python recipes/prepare.py sub-images|celeba|lr … --help
"""

import sys

from flowkit_models.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
