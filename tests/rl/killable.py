"""A run that kills itself: python -m tests.rl.killable FOLDER FUNCTION CALL dies in the CALL-th os.FUNCTION."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.rl.test_trainer import trainer
from tests.small_runs import die_in

if __name__ == "__main__":
    die_in(sys.argv[2], int(sys.argv[3]))
    trainer(Path(sys.argv[1])).run()
