"""``python -m jirgee_train COMMAND ...`` is ``jirgee COMMAND ...``, for launchers of several processes:

    torchrun --nproc-per-node 2 -m jirgee_train train DATA -o CHECKPOINT

Only process 0 prints. Another one tells of its failure only if process 0, which fails of most things too, has not ended
the run a moment later.
"""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

from jirgee.cli import main

from .processes import rank

PATIENCE = 5.0  # seconds


def run() -> int:
    if rank() == 0:
        return main()
    said = io.StringIO()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(said):
        code = main()
    if code:
        time.sleep(PATIENCE)  # the launcher ends this process if process 0 has failed
        print(f"[process {rank()}] {said.getvalue().strip().rpartition(chr(10))[2]}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(run())
