"""The journal of a run: what is on the disk for certain, so that a run after a kill goes on from there.

    .OUTPUT.partial   the output so far        .OUTPUT.journal   this file
    .OUTPUT.scores    the log of the cache     .OUTPUT.lock      held by the one writer

The journal is lines of ``CRC32 JSON``: a header that identifies the job, then a ``Mark`` for each chunk, written only
after everything that the mark speaks of is on the disk. A line that a kill cut short does not count.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .appendfile import AppendFile
from .bundle import Bundle
from .errors import InputError

VERSION = 1


@dataclass(frozen=True)
class Mark:
    """The state after a chunk. ``file``: index of the input; ``line``, ``offset``: of the last record taken from it, or
    ``offset`` -1 if nothing of it is taken. ``output``, ``rejects``, ``scores``: lengths of the unfinished files.
    ``columns``: of a table, ``prefix``: of the added columns, both None before the first row.
    """

    file: int
    line: int
    offset: int
    output: int
    rejects: int
    scores: int
    columns: list[str] | None
    prefix: str | None
    counts: dict[str, Any]


@dataclass(frozen=True)
class State:
    """A journal as it was found. ``size``: its bytes that count. ``done``: the finished files, (now, final name)."""

    job: dict[str, Any]
    mark: Mark | None
    done: list[tuple[Path, Path]] | None
    size: int


class Journal:
    """Appends to the journal at ``path``, new or (``state``) found. Errors of the disk come as OSError."""

    def __init__(self, path: Path, job: dict[str, Any], state: State | None = None):
        self.path = path
        self.mark = state.mark if state else None
        self._file = AppendFile(path, state.size if state else None)
        if state is None:
            self._append({"journal": VERSION, "job": job})

    def _append(self, value: dict[str, Any]) -> None:
        self._file.write(_line(value))
        self._file.sync()

    def save(self, mark: Mark) -> None:
        self._append({"mark": asdict(mark)})
        self.mark = mark

    def done(self, files: Sequence[tuple[Path, Path]]) -> None:
        """Every row is on the disk; only names are missing."""
        self._append({"done": [[staged.name, str(final)] for staged, final in files]})

    def close(self) -> None:
        self._file.close()


def _line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def load(path: Path) -> State | None:
    """The journal at ``path``; None if there is none, or none with a whole header."""
    job, mark, done, size = None, None, None, 0
    try:
        content = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(error.strerror or str(error), path) from None
    with content:
        for line in content:
            crc, _, text = line.partition(b" ")
            if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text[:-1]):
                break
            value = json.loads(text)
            if job is None:
                if value.get("journal") != VERSION:
                    raise InputError("the journal is of another version of jirgee; start over with --overwrite", path)
                job = value["job"]
            elif "mark" in value:
                mark = Mark(**value["mark"])
            elif "done" in value:
                done = [(Path(final).with_name(staged), Path(final)) for staged, final in value["done"]]
            size += len(line)
    return None if job is None else State(job, mark, done, size)


# --- what identifies a job ---------------------------------------------------------------------------------------


def describe_inputs(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Name, size and content hash of each input. Raises InputError for one that cannot be read."""
    described = []
    for path in paths:
        digest, size = blake2b(digest_size=16), 0
        try:
            with path.open("rb", buffering=0) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    size += len(block)
        except OSError as error:
            raise InputError(error.strerror or str(error), path) from None
        described.append({"name": str(path), "size": size, "hash": digest.hexdigest()})
    return described


def describe_bundle(bundle: Bundle) -> str:
    """A hash of everything that the bundle computes with."""
    facts = [sorted(bundle.files.items()), bundle.labels, bundle.inputs, bundle.max_tokens, bundle.tokenizer.to_json()]
    facts += [bundle.temperature, bundle.ngram_weight]
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_same(output: Path, found: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InputError, naming what has changed, unless the two jobs give the same bytes."""

    def refuse(what: str) -> InputError:
        return InputError(
            f"cannot go on: {what} since the run began; put it back, or start over with --overwrite", output
        )

    before, after = found["inputs"], now["inputs"]
    for old, new in zip(before, after, strict=False):
        if old["name"] != new["name"]:
            raise refuse(f"the inputs have changed ({new['name']} where {old['name']} was)")
        if old != new:
            raise refuse(f"the input {old['name']} has changed")
    if len(before) != len(after):
        raise refuse(f"the inputs have changed ({len(after)} files where there were {len(before)})")
    if found["bundle"] != now["bundle"]:
        raise refuse("the bundle has changed")
    for name in sorted(found["options"].keys() | now["options"].keys()):
        old, new = found["options"].get(name), now["options"].get(name)
        if old != new and not (name == "--rejects" and old is None):
            raise refuse(f"the option {name} has changed ({_shown(old)} to {_shown(new)})")
    if found["jirgee"] != now["jirgee"]:
        raise refuse("jirgee itself has changed")


def _shown(value: Any) -> str:
    return "unset" if value is None or value is False else "set" if value is True else str(value)
