"""``manifest.json``: what a bundle is, as one table of keys with what each may hold.

Strict, because whatever a reader overlooks may change scores: every key must be there, none may be unknown or twice,
and numbers are finite. What is for people only goes into ``provenance`` and ``verified_on``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import BundleError
from .tokens import TokenizerSpec

FORMAT, FORMAT_VERSION = "jirgee-bundle", 1
MANIFEST, MANIFEST_HASH = "manifest.json", "manifest.sha256"
MODEL, NGRAMS, ATTENTION, GOLDEN = "model.onnx", "ngrams.npz", "attention.onnx", "golden.json"
REPORT, CARD = "report.json", "README.md"
LARGE = "large-"  # how the names of a cascade's large model's files begin
MAX_MANIFEST_BYTES = 1 << 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SAFE_ON = ("any", "int8_dot")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _names(value: Any) -> bool:
    """A list of strings, none empty, none twice, each of them valid Unicode."""
    return (
        isinstance(value, list)
        and all(isinstance(name, str) and name and name.encode() for name in value)
        and len(set(value)) == len(value)
    )


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= float(value) <= high


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        entry.keys() == {"size", "sha256"}
        and type(entry["size"]) is int
        and entry["size"] >= 0
        and _SHA256.fullmatch(entry["sha256"])
        for entry in value.values()
    )


# key -> whether a value is one it may hold; an exception means no
KEYS: dict[str, Callable[[Any], object]] = {
    "labels": lambda value: _names(value) and len(value) >= 2,
    "inputs": lambda value: _names(value) and value[:1] == ["input_ids"] and set(value) <= set(INPUTS),
    "max_tokens": lambda value: type(value) is int and 0 < value < 1 << 31,
    "tokenizer": lambda value: isinstance(value, dict),
    "recipe": lambda value: isinstance(value, str),
    "safe_on": lambda value: value in SAFE_ON,
    "temperature": lambda value: _number(0, 1e9)(value) and value > 0,
    "ngram_weight": _number(0, 1e9),
    "tolerance": _number(0, 1),
    "files": _files,
    "provenance": lambda value: isinstance(value, dict),
    "verified_on": lambda value: isinstance(value, dict),
}

# Keys of the object "cascade", which only a cascade has: the same facts of its large model, and the threshold.
CASCADE_KEYS: dict[str, Callable[[Any], object]] = {
    **{
        key: KEYS[key]
        for key in (
            "inputs",
            "max_tokens",
            "tokenizer",
            "recipe",
            "safe_on",
            "temperature",
            "ngram_weight",
            "tolerance",
        )
    },
    "threshold": _number(0, 1),
}


def parse(path: Path, raw: bytes) -> dict[str, Any]:
    """The manifest's bytes -> the fields of ``Bundle`` but ``path``. Raises BundleError naming the key at fault."""
    try:
        data = json.loads(raw, object_pairs_hook=_object, parse_constant=_no_constant)
        kind, version = data["format"], data["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} is not understood: {type(error).__name__} {error!s:.200}") from None
    if kind != FORMAT:
        raise BundleError(f"{path}: {MANIFEST} is not a jirgee bundle's")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: bundle format version {version!r:.40}; this jirgee reads version {FORMAT_VERSION}: "
            "upgrade jirgee or export again"
        )
    if missing := [key for key in KEYS if key not in data]:
        raise BundleError(f"{path}: {MANIFEST} has no {missing[0]}; export it again")
    if unknown := sorted(data.keys() - KEYS.keys() - {"format", "version", "cascade"}):
        raise BundleError(f"{path}: {MANIFEST} has a key unknown to this jirgee, {unknown[0]!r:.60}; upgrade it")
    for key, sound in KEYS.items():
        if not _holds(sound, data[key]):
            raise BundleError(f"{path}: {MANIFEST} holds a value out of its range: {key} {data[key]!r:.60}")
    tokenizer = _tokenizer(path, data["tokenizer"])
    files = {name: (entry["size"], entry["sha256"]) for name, entry in data["files"].items()}
    check_file_names(path, files)
    for name in (MODEL, tokenizer.file, *([NGRAMS] if data["ngram_weight"] else [])):
        if name not in files:
            raise BundleError(f"{path}: {MANIFEST} lists no {name}")
    cascade = None
    if "cascade" in data:
        cascade = _cascade(path, data["cascade"], files)
    fields = {key: tuple(data[key]) if key in ("labels", "inputs") else data[key] for key in KEYS}
    return fields | {"version": version, "tokenizer": tokenizer, "files": files, "cascade": cascade}


def _cascade(path: Path, data: Any, files: Mapping[str, Any]) -> dict[str, Any]:
    """The checked object ``cascade``, its tokenizer read."""
    if not isinstance(data, dict) or data.keys() != CASCADE_KEYS.keys():
        raise BundleError(f"{path}: {MANIFEST}: cascade must be an object with the keys {', '.join(CASCADE_KEYS)}")
    for key, sound in CASCADE_KEYS.items():
        if not _holds(sound, data[key]):
            raise BundleError(f"{path}: {MANIFEST} holds a value out of its range: cascade {key} {data[key]!r:.60}")
    tokenizer = _tokenizer(path, data["tokenizer"])
    for name in (LARGE + MODEL, tokenizer.file, *([LARGE + NGRAMS] if data["ngram_weight"] else [])):
        if name not in files:
            raise BundleError(f"{path}: {MANIFEST} lists no {name}")
    return data | {"tokenizer": tokenizer, "inputs": tuple(data["inputs"])}


def to_bytes(fields: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The manifest of a bundle with these fields (those of ``Bundle``) and files; ``parse`` says if it is sound."""
    fields = {**fields, "tokenizer": fields["tokenizer"].to_json(), "files": files}
    if cascade := fields.pop("cascade", None):
        fields["cascade"] = {**cascade, "tokenizer": cascade["tokenizer"].to_json()}
    data = {"format": FORMAT, "version": FORMAT_VERSION, **fields}
    return (json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode()


def check_file_names(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if not _SAFE_NAME.fullmatch(name) or name in (MANIFEST, MANIFEST_HASH):
            raise BundleError(f"{path}: {MANIFEST} names a file that a bundle may not hold: {name!r:.140}")


def _holds(sound: Callable[[Any], object], value: Any) -> bool:
    try:
        return bool(sound(value))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return False


def _tokenizer(path: Path, data: Any) -> TokenizerSpec:
    try:
        return TokenizerSpec.from_json(data)
    except BundleError as error:
        raise BundleError(f"{path}: {MANIFEST}: {error!s:.200}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key is there twice")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
