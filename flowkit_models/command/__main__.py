"""`python -m flowkit_models.command`."""

import sys

from . import main

sys.exit(main())
