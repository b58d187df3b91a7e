"""The contract between export and runtime: a directory, or the same files in one ``NAME.jirgee`` (a stored zip).

    manifest.json     what the model is and the size and SHA-256 of every other file
    manifest.sha256   the manifest's own hash, as ``sha256sum -c`` reads it
    model.onnx        token ids -> logits
    ngrams.npz        in a hybrid: hashed character n-grams -> logits that are added
    attention.onnx    on request: token ids -> attention of every head; its weights are those of model.onnx
    tokenizer file    as the manifest names it
    golden.json       texts and the scores they had at export: what ``jirgee check`` scores again
    report.json       how it compares with the checkpoint it came from
    README.md         model card

Only data, never code: nothing here is unpickled or executed, and every byte is verified before onnxruntime sees it.
The format is written down in docs/bundle-format.md; ``container.py`` reads the files, ``manifest.py`` the manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from .container import Container, pack
from .errors import BundleError, InputError
from .guard import check_graph
from .manifest import (
    ATTENTION,
    CARD,
    FORMAT_VERSION,
    GOLDEN,
    LARGE,
    MANIFEST,
    MANIFEST_HASH,
    MAX_MANIFEST_BYTES,
    MODEL,
    NGRAMS,
    REPORT,
    check_file_names,
    parse,
    to_bytes,
)
from .tokens import TokenizerSpec

PACKED_SUFFIX = ".jirgee"

__all__ = [
    "ATTENTION",
    "CARD",
    "FORMAT_VERSION",
    "GOLDEN",
    "LARGE",
    "MODEL",
    "NGRAMS",
    "REPORT",
    "Bundle",
    "check_free",
    "copy",
    "replace",
    "staged",
    "write",
]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. ``Bundle.load`` is the way to get one; holding one means that every hash matched.

    ``labels``: class names in logit order. ``inputs``: the graph's input names. ``max_tokens``: longest encoding.
    ``temperature``: logits are divided by it before softmax. ``ngram_weight``: of the logits of ``ngrams.npz`` that are
    then added, 0 if there is none. ``recipe``: how the weights are stored.
    ``safe_on``: kinds of CPU on which the recipe keeps its accuracy (``any`` or ``int8_dot``).
    ``tolerance``: largest change of a probability that other texts in the same batch may cause.
    ``files``: name -> (size in bytes, SHA-256). ``provenance``: where the model came from, for people.
    ``verified_on``: the machine on which export compared it with its checkpoint and scored the golden texts.
    ``cascade``: None, or the facts of the large model that answers where this one is less sure than ``threshold``.
    ``part``: how the names of this model's files begin; only a cascade's large model has any.
    """

    path: Path
    version: int
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    max_tokens: int
    tokenizer: TokenizerSpec
    recipe: str
    safe_on: str
    temperature: float
    ngram_weight: float
    tolerance: float
    files: Mapping[str, tuple[int, str]]
    provenance: Mapping[str, Any]
    verified_on: Mapping[str, Any]
    cascade: Mapping[str, Any] | None = None
    part: str = ""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and verify. Raises BundleError naming the file that is missing, damaged or not understood."""
        path = Path(path)
        with Container.open(path) as container:
            raw = container.read(MANIFEST, MAX_MANIFEST_BYTES)
            if container.read(MANIFEST_HASH, 1024) != hash_line(raw):
                raise BundleError(
                    f"{path}: {MANIFEST} does not match {MANIFEST_HASH}: the bundle is damaged; export it again"
                )
            bundle = cls(path=path, **parse(path, raw))
            container.check_names({MANIFEST, MANIFEST_HASH, *bundle.files})
            for name, (size, sha256) in bundle.files.items():
                if container.hash(name, size) != sha256:
                    raise BundleError(
                        f"{path}: {name} is damaged (its SHA-256 differs from the manifest's); export it again"
                    )
            for name, beside in ((MODEL, None), (ATTENTION, MODEL), (LARGE + MODEL, None)):
                if name in bundle.files:
                    check_graph(container.mapped(name, bundle.files[name][0]), f"{path}: {name}", beside)
        return bundle

    def read(self, name: str) -> bytes:
        """The verified bytes of one file of the bundle."""
        size, sha256 = self.files[name]
        with Container.open(self.path) as container:
            data = container.read(name, size)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BundleError(f"{self.path}: {name} changed since the bundle was loaded")
        return data

    @property
    def ngrams_file(self) -> str:
        return self.part + NGRAMS

    @property
    def large(self) -> Bundle | None:
        """A cascade's large model as a bundle of its own, with the same path and files; None if this is no cascade."""
        if not self.cascade:
            return None
        facts = {name: value for name, value in self.cascade.items() if name != "threshold"}
        return with_fields(self, **facts, cascade=None, part=LARGE)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but path, version and files: what ``write`` takes to make this bundle once more."""
        return {name: value for name, value in vars(self).items() if name not in ("path", "version", "files", "part")}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def write(
    out: str | os.PathLike[str], files: Mapping[str, bytes | Path], *, overwrite: bool = False, **fields: Any
) -> Bundle:
    """Write a bundle to ``out`` (a directory, or one file if it ends in ``.jirgee``) and load it back.

    ``files``: name -> bytes, or a path to copy; must hold ``model.onnx`` and the tokenizer's file. ``fields``: those of
    ``Bundle`` other than path, version and files. ``out`` appears whole or not at all.
    """
    out = Path(out)
    check_file_names(out, files)
    with staged(out, overwrite) as staging:
        table = {}
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            (staging / name).write_bytes(data)
            table[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        raw = to_bytes({"verified_on": {}, **fields}, table)
        (staging / MANIFEST).write_bytes(raw)
        (staging / MANIFEST_HASH).write_bytes(hash_line(raw))
    return Bundle.load(out)


def copy(bundle: Bundle, out: str | os.PathLike[str], *, overwrite: bool = False) -> Bundle:
    """The same bundle, its manifest included, at ``out``, in the form that ``out`` asks for."""
    out = Path(out)
    with staged(out, overwrite) as staging, Container.open(bundle.path) as container:
        for name, limit in ((MANIFEST, MAX_MANIFEST_BYTES), (MANIFEST_HASH, 1024)):
            (staging / name).write_bytes(container.read(name, limit))
        for name in bundle.files:
            (staging / name).write_bytes(bundle.read(name))
    return Bundle.load(out)


@contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[Path]:
    """A new directory to put a bundle's files into. When the block ends, they are verified, packed if ``out`` ends in
    ``.jirgee``, and appear as ``out``, whole or not at all.
    """
    check_free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield staging
        staging.chmod(0o755)
        bundle = _verified(staging, out)
        if out.suffix == PACKED_SUFFIX:
            packed = staging / "packed"
            pack(staging, [MANIFEST, MANIFEST_HASH, *bundle.files], packed)
            _verified(packed, out)
            replace(packed, out)
        else:
            replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _verified(staging: Path, out: Path) -> Bundle:
    """Load from the staging place; what is wrong is told of ``out``, because that place is gone a moment later."""
    try:
        return Bundle.load(staging)
    except BundleError as error:
        raise BundleError(str(error).replace(str(staging), str(out))) from None


def check_free(out: Path, overwrite: bool) -> None:
    """Raise InputError if ``out`` exists and may not be replaced."""
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        raise InputError("exists already; pass --overwrite to replace it", out)


def replace(new: Path, out: Path) -> None:
    """Put ``new`` (a file or a directory on the same file system) in the place of ``out``, which a failure leaves."""
    if not os.path.lexists(out) or (new.is_file() and (out.is_symlink() or not out.is_dir())):
        os.replace(new, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    os.rename(out, aside / out.name)
    try:
        os.rename(new, out)
    except BaseException:
        os.rename(aside / out.name, out)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def hash_line(manifest: bytes) -> bytes:
    """The content of ``manifest.sha256``."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
