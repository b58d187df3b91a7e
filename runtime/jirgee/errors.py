"""Everything that is the user's or the machine's fault, as one tree.

    JirgeeError              catch this one
    ├── InputError           a file, a row or an option: says file:line where there is one
    ├── BundleError          a bundle that is damaged, unknown or unfit for this runtime
    ├── MachineError         a device, a driver or memory that is not there
    │   └── MissingPackage   an optional package that is not installed: names the command that mends it
    └── GateError            an export that was refused because the bundle is worse than the checkpoint

Each message is one line: the thing, the place, the remedy. Programming errors stay ordinary Python exceptions.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class JirgeeError(Exception):
    """Root of all errors that jirgee raises on purpose."""


class InputError(JirgeeError):
    """Bad input. ``path`` and ``line`` (1-based), where known, open the message as ``path:line: ``."""

    def __init__(self, message: str, path: object = None, line: int | None = None):
        self.reason, self.path, self.line = message, path, line
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(place + message)


class BundleError(JirgeeError):
    """A bundle cannot be trusted or read."""


class MachineError(JirgeeError):
    """The machine cannot do what was asked."""


class MissingPackage(MachineError):
    """An optional package is absent."""


class GateError(JirgeeError):
    """An exported model failed its comparison with the checkpoint; nothing was written."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run that can go on from what is in ``kept`` when it is typed again with ``flag``."""

    def __init__(self, flag: str, kept: object):
        self.flag, self.kept = flag, kept
        super().__init__(flag, kept)


def optional_import(module: str, install: str, purpose: str) -> ModuleType:
    """Import ``module`` late; if (only) that module is absent, raise ``MissingPackage`` naming ``install``."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise MissingPackage(f"{purpose} needs {root}, which is not installed; run: pip install '{install}'") from None
