"""``python -m jirgee_train COMMAND ...`` is ``jirgee COMMAND ...``, for launchers of several processes:

    torchrun --nproc-per-node 2 -m jirgee_train train DATA -o CHECKPOINT

Only process 0 prints. A failure that the others may not share (memory, once they train together) is told by each.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

from jirgee.cli import main

from .processes import rank


def run() -> int:
    if rank() == 0:
        return main()
    said = io.StringIO()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(said):
        code = main()
    torch = sys.modules.get("torch")
    if code == 1 and torch is not None and torch.distributed.is_initialized():
        print(f"[process {rank()}] {said.getvalue().splitlines()[-1]}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(run())
