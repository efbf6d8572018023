"""Scores systems on paired sets as the paper's Tables 2, 3 and 4 do: `flowkit evaluate`, started from a checkout.

python recipes/evaluate.py --help
"""

import sys

from flowkit_models.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
