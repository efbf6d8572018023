"""The command `flowkit`, started as `python -m flowkit_models.cli`."""

import sys

from flowkit_models.cli import main

sys.exit(main())
