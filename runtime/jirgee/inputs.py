"""What was named on the command line -> the files to read: files, directories and globs, each sorted by name."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .compression import COMPRESSIONS
from .errors import InputError
from .formats import EXTENSIONS, format_of

_ARCHIVE = re.compile(r"tweets?(-part\d+)?\.js")  # of a Twitter archive, whose other .js files hold no tweets


def expand(names: Sequence[str], format: str | None = None, without: Iterable[Path] = ()) -> list[Path]:
    """The files, in the order named; a directory or a glob stands for its files, sorted, hidden ones and those
    ``without`` left out. A directory gives the files whose names tell a format (all files with ``format``).

    Raises InputError for what is not there or has no format.
    """
    skipped = {path.resolve() for path in without}
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
            found = [file for file in inside if (format or _has_format(file)) and file.resolve() not in skipped]
            if not found:
                raise InputError("a directory without a file of a known format; pass --format", path)
        elif not path.exists() and glob.has_magic(name):
            found = [Path(file) for file in sorted(glob.glob(name, recursive=True))]
            found = [file for file in found if file.is_file() and file.resolve() not in skipped]
            if not found:
                raise InputError("no such file", path)
        else:
            format_of(path, format)
            if not path.is_file():
                raise InputError("no such file", path)
            found = [path]
        for file in found:
            format_of(file, format)
        files += found
    return files


def _hidden(file: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(directory).parts)


def _has_format(file: Path) -> bool:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if suffixes and suffixes[-1] in (".js", ".json"):  # more often settings than texts
        return bool(_ARCHIVE.fullmatch(file.name))
    return bool(suffixes) and suffixes[-1] in EXTENSIONS
