"""Opens a page to play with an image flow: `flowkit demo`, started from a checkout.

python recipes/demo.py --help
"""

import sys

from flowkit_models.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
