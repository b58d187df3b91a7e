"""The contract between export and runtime: a directory, or the same files in one ``NAME.jirgee`` (a stored zip).

    manifest.json     what the model is and the size and SHA-256 of every other file
    manifest.sha256   the manifest's own hash, as ``sha256sum -c`` reads it
    model.onnx        token ids -> logits
    ngrams.npz        in a hybrid: hashed character n-grams -> logits that are added
    tokenizer file    as the manifest names it
    report.json       how it compares with the checkpoint it came from
    README.md         model card

Only data, never code: nothing here is unpickled or executed, and every byte is verified before onnxruntime sees it.
The format is written down in docs/bundle-format.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BundleError, InputError
from .tokens import TokenizerSpec

FORMAT_VERSION = 1
MANIFEST, MANIFEST_HASH = "manifest.json", "manifest.sha256"
MODEL, REPORT, CARD = "model.onnx", "report.json", "README.md"
NGRAMS = "ngrams.npz"
PACKED_SUFFIX = ".jirgee"
MAX_MANIFEST_BYTES = 1 << 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SAFE_ON = ("any", "int8_dot")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile)
_PACKED_SEAL = re.compile(rb"sha256:[0-9a-f]{64}")  # the archive comment: hash of every byte before it


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. ``Bundle.load`` is the way to get one; holding one means that every hash matched.

    ``labels``: class names in logit order. ``inputs``: the graph's input names. ``max_tokens``: longest encoding.
    ``temperature``: logits are divided by it before softmax. ``ngram_weight``: of the logits of ``ngrams.npz`` that are
    then added, 0 if there is none. ``recipe``: how the weights are stored.
    ``safe_on``: kinds of CPU on which the recipe keeps its accuracy (``any`` or ``int8_dot``).
    ``tolerance``: largest change of a probability that other texts in the same batch may cause.
    ``files``: name -> (size in bytes, SHA-256). ``provenance``: where the model came from, for people.
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

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and verify. Raises BundleError naming the file that is missing, damaged or not understood."""
        path = Path(path)
        with _Container.open(path) as container:
            raw = container.read(MANIFEST, MAX_MANIFEST_BYTES)
            if container.read(MANIFEST_HASH, 1024) != _hash_line(raw):
                raise BundleError(
                    f"{path}: {MANIFEST} does not match {MANIFEST_HASH}: the bundle is damaged; export it again"
                )
            bundle = _parse(path, raw)
            container.check_names({MANIFEST, MANIFEST_HASH, *bundle.files})
            for name, (size, sha256) in bundle.files.items():
                if container.hash(name, size) != sha256:
                    raise BundleError(
                        f"{path}: {name} is damaged (its SHA-256 differs from the manifest's); export it again"
                    )
        return bundle

    def read(self, name: str) -> bytes:
        """The verified bytes of one file of the bundle."""
        size, sha256 = self.files[name]
        with _Container.open(self.path) as container:
            data = container.read(name, size)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BundleError(f"{self.path}: {name} changed since the bundle was loaded")
        return data

    def model(self) -> Path | bytes:
        """What an onnxruntime session opens: the model's path, or its bytes where the bundle is one packed file."""
        return self.read(MODEL) if self.path.is_file() else self.path / MODEL

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but path, version and files: what ``write`` takes to make this bundle once more."""
        return {name: value for name, value in vars(self).items() if name not in ("path", "version", "files")}

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
    check_free(out, overwrite)
    _check_file_names(out, files)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        table = {}
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            (staging / name).write_bytes(data)
            table[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        fields["tokenizer"] = fields["tokenizer"].to_json()
        manifest = {"format": "jirgee-bundle", "version": FORMAT_VERSION, **fields, "files": table}
        raw = (json.dumps(manifest, ensure_ascii=False, indent=1) + "\n").encode()
        (staging / MANIFEST).write_bytes(raw)
        (staging / MANIFEST_HASH).write_bytes(_hash_line(raw))
        staging.chmod(0o755)
        if out.suffix == PACKED_SUFFIX:
            packed = staging / "packed"
            _pack(staging, [MANIFEST, MANIFEST_HASH, *table], packed)
            Bundle.load(packed)
            replace(packed, out)
        else:
            Bundle.load(staging)
            replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle.load(out)


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


def _parse(path: Path, raw: bytes) -> Bundle:
    """The manifest's bytes -> a Bundle whose files are not verified yet."""
    try:
        data = json.loads(raw)
        if data["format"] != "jirgee-bundle":
            raise BundleError(f"{path}: {MANIFEST} is not a jirgee bundle's")
        if data["version"] != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format version {data['version']!r}; this jirgee reads version {FORMAT_VERSION}: "
                "upgrade jirgee or export again"
            )
        files = {name: (entry["size"], entry["sha256"]) for name, entry in data["files"].items()}
        bundle = Bundle(
            path=path,
            version=data["version"],
            labels=tuple(data["labels"]),
            inputs=tuple(data["inputs"]),
            max_tokens=data["max_tokens"],
            tokenizer=_tokenizer(path, data["tokenizer"]),
            recipe=data["recipe"],
            safe_on=data["safe_on"],
            temperature=data["temperature"],
            ngram_weight=data["ngram_weight"],
            tolerance=data["tolerance"],
            files=files,
            provenance=data["provenance"],
        )
        sound = (
            all(isinstance(data[name], list) for name in ("labels", "inputs"))
            and len(bundle.labels) >= 2
            and len(set(bundle.labels)) == len(bundle.labels)
            and all(isinstance(label, str) and label for label in bundle.labels)
            and bundle.inputs[:1] == ("input_ids",)
            and len(set(bundle.inputs)) == len(bundle.inputs)
            and set(bundle.inputs) <= set(INPUTS)
            and type(bundle.max_tokens) is int
            and bundle.max_tokens > 0
            and isinstance(bundle.recipe, str)
            and bundle.safe_on in SAFE_ON
            and all(
                type(number) in (int, float) for number in (bundle.temperature, bundle.ngram_weight, bundle.tolerance)
            )
            and 0 < float(bundle.temperature) < float("inf")
            and 0 <= float(bundle.ngram_weight) < float("inf")
            and 0 <= bundle.tolerance <= 1
            and isinstance(bundle.provenance, dict)
            and all(type(size) is int and size >= 0 and isinstance(sha, str) for size, sha in files.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} is not understood: {type(error).__name__} {error}") from None
    if not sound:
        raise BundleError(f"{path}: {MANIFEST} holds a value out of its range")
    _check_file_names(path, files)
    for name in (MODEL, bundle.tokenizer.file, *([NGRAMS] if bundle.ngram_weight else [])):
        if name not in files:
            raise BundleError(f"{path}: {MANIFEST} lists no {name}")
    return bundle


def _tokenizer(path: Path, data: Any) -> TokenizerSpec:
    try:
        return TokenizerSpec.from_json(data)
    except BundleError as error:
        raise BundleError(f"{path}: {MANIFEST}: {error}") from None


def _check_file_names(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if not _SAFE_NAME.fullmatch(name) or name in (MANIFEST, MANIFEST_HASH):
            raise BundleError(f"{path}: {MANIFEST} names a file that a bundle may not hold: {name!r}")


class _Container:
    """The files of a bundle by name, in a directory or in one packed file; bounded reads, no links followed."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None):
        self._path, self._archive = path, archive

    @classmethod
    def open(cls, path: Path) -> _Container:
        try:
            if path.is_dir():
                return cls(path, None)
            if not os.path.lexists(path):
                raise BundleError(f"{path}: no such bundle; make one with: jirgee export CHECKPOINT -o {path}")
            _check_seal(path)
            return cls(path, zipfile.ZipFile(path))
        except _UNREADABLE as error:
            raise BundleError(f"{path}: not a bundle, or one that cannot be read ({error})") from None

    def __enter__(self) -> _Container:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._archive:
            self._archive.close()

    def check_names(self, wanted: set[str]) -> None:
        """Packed files hold exactly the wanted names; a directory may hold more, which is never read."""
        if self._archive and sorted(self._archive.namelist()) != sorted(wanted):
            raise BundleError(f"{self._path}: holds other files than its manifest lists")

    def _open(self, name: str, size: int | None, limit: int):
        """A binary stream of ``name``, whose size is exactly ``size`` (where given) and at most ``limit``."""
        try:
            if self._archive:
                info = self._archive.getinfo(name)
                if info.compress_type != zipfile.ZIP_STORED:
                    raise BundleError(f"{self._path}: {name} is compressed; a bundle stores its files")
                found, stream = info.file_size, self._archive.open(info)
            else:
                file = self._path / name
                if file.is_symlink():
                    raise BundleError(f"{file}: is a link; a bundle holds only plain files")
                found, stream = file.stat().st_size, file.open("rb")
        except _UNREADABLE as error:
            raise BundleError(f"{self._path}: no readable {name}: not a bundle, or a damaged one ({error})") from None
        if found > limit or (size is not None and found != size):
            stream.close()
            raise BundleError(
                f"{self._path}: {name} has {found} bytes, which is not what the manifest says; export it again"
            )
        return stream

    def _blocks(self, name: str, size: int | None, limit: int) -> Iterator[bytes]:
        with self._open(name, size, limit) as stream:
            try:
                while block := stream.read(1 << 20):
                    yield block
            except _UNREADABLE as error:
                raise BundleError(f"{self._path}: {name} cannot be read to its end ({error})") from None

    def read(self, name: str, limit: int) -> bytes:
        return b"".join(self._blocks(name, None, limit))

    def hash(self, name: str, size: int) -> str:
        digest = hashlib.sha256()
        for block in self._blocks(name, size, size):
            digest.update(block)
        return digest.hexdigest()


def _hash_line(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _pack(directory: Path, names: list[str], out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in names:  # a fixed date: the same bundle packs to the same bytes
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), (directory / name).read_bytes())
        archive.comment = b"sha256:" + b"0" * 64
    length = len(b"sha256:") + 64
    body = out.read_bytes()[:-length]
    out.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())


def _check_seal(path: Path) -> None:
    """The archive comment seals the whole file, its zip headers included."""
    length = len(b"sha256:") + 64
    digest, remaining = hashlib.sha256(), path.stat().st_size - length
    with path.open("rb") as stream:
        while remaining > 0:
            block = stream.read(min(1 << 20, remaining))
            if not block:
                break
            digest.update(block)
            remaining -= len(block)
        seal = stream.read()
    if not _PACKED_SEAL.fullmatch(seal) or seal[7:].decode() != digest.hexdigest():
        raise BundleError(
            f"{path}: not a bundle, or a damaged one (its seal does not match its bytes); export or copy it again"
        )
