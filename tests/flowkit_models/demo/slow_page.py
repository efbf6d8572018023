"""A page with a checkpoint whose opening never ends: python slow_page.py CHECKPOINT FOLDER PORT (for test_server)."""

import sys
import time
from pathlib import Path

from flowkit_models.demo import server
from flowkit_models.demo.tasks import Tasks

LIMITS = server.Limits(names=("box.lan",), upload=1_000_000, seconds=20.0, memory=2e9)


class Slow(Tasks):
    """Tasks with checkpoints whose opening never ends."""

    def open(self, checkpoint):
        if checkpoint == "endless":
            time.sleep(600)
        return super().open(checkpoint)


if __name__ == "__main__":
    server.Tasks = Slow
    server.launch(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[3]), 96, "cpu", Path(sys.argv[2]), LIMITS)
