"""Bundles to and from a Hugging Face repository, through ``huggingface_hub`` (extra ``[hub]``).

A repository holds a bundle in its directory form; its commit is what a pull names. Nothing is taken but the files that
the manifest lists, none larger than the manifest says, and the whole is verified before it appears.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from .bundle import Bundle, copy, staged
from .errors import BundleError, InputError, JirgeeError, MachineError, optional_import
from .manifest import MANIFEST, MANIFEST_HASH, MAX_MANIFEST_BYTES, parse

PREFIX = "hf:"
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
LOGIN = "set HF_TOKEN to a token that may do this, or run: hf auth login"


def repo_id(place: str) -> str | None:
    """``owner/name`` if ``place`` is a repository: ``hf:owner/name``, or ``owner/name`` where no such path is here.

    ``./owner/name`` and whatever ends in ``.jirgee`` are always paths. Raises InputError for ``hf:`` and no id.
    """
    if place.startswith(PREFIX):
        if not _REPO.fullmatch(place[len(PREFIX) :]):
            raise InputError("is not a repository; write hf:OWNER/NAME", place)
        return place[len(PREFIX) :]
    is_path = place.endswith(".jirgee") or os.path.lexists(place) or os.path.isdir(os.path.dirname(place))
    return place if _REPO.fullmatch(place) and not is_path else None


def push(bundle: Bundle, repo: str, *, private: bool = False) -> str:
    """Upload ``bundle`` as one commit to ``repo``, which is made if it is not there; return the commit's hash.

    Raises MachineError (no network, no token, no right) or MissingPackage.
    """
    hub = _hub("jirgee push")
    with _told(hub, repo, "pushed to"):
        if hub.get_token() is None:
            raise MachineError(f"{PREFIX}{repo}: no token; {LOGIN}")
        with tempfile.TemporaryDirectory(prefix="jirgee-push-") as work:
            folder = copy(bundle, Path(work) / "bundle").path
            hub.HfApi().create_repo(repo, private=private, exist_ok=True)
            names = [MANIFEST, MANIFEST_HASH, *bundle.files]
            done = hub.HfApi().upload_folder(
                repo_id=repo, folder_path=folder, allow_patterns=names, commit_message="A bundle by jirgee push"
            )
    return str(done.oid)


def pull(repo: str, out: Path, *, revision: str | None = None, overwrite: bool = False) -> tuple[Bundle, str]:
    """Download the bundle of ``repo`` to ``out``; return it and the hash of its commit.

    ``revision``: a branch, a tag or a commit. Raises BundleError for what is no bundle, MachineError, MissingPackage.
    """
    hub = _hub("jirgee pull")
    place = f"{PREFIX}{repo}"
    with staged(out, overwrite) as staging, _told(hub, repo, "pulled from"):
        info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        commit = str(info.sha)

        def fetch(name: str, limit: int, exact: bool) -> bytes:
            size = sizes.get(name)
            if size is None:
                raise BundleError(f"{place}: no {name}: it holds no bundle of jirgee's, or not all of it")
            if size > limit or (exact and size != limit):
                raise BundleError(
                    f"{place}: {name} has {size} bytes, which is not what the manifest says; push it again"
                )
            with tempfile.TemporaryDirectory(dir=staging) as work:
                found = Path(hub.hf_hub_download(repo, name, revision=commit, local_dir=work))
                os.replace(found, staging / name)
            return (staging / name).read_bytes() if not exact else b""

        raw = fetch(MANIFEST, MAX_MANIFEST_BYTES, exact=False)
        fetch(MANIFEST_HASH, 1024, exact=False)
        for name, (size, _) in parse(Path(place), raw)["files"].items():
            fetch(name, size, exact=True)
    return Bundle.load(out), commit


def _hub(purpose: str) -> ModuleType:
    hub = optional_import("huggingface_hub", "jirgee[hub]", f"{purpose} with a Hugging Face repository")
    for name in ("utils", "errors", "constants"):  # which it would import late, and not for all of its versions
        import_module(f"huggingface_hub.{name}")
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()
    return hub


@contextmanager
def _told(hub: ModuleType, repo: str, what: str) -> Iterator[None]:
    """Whatever huggingface_hub and its network libraries raise, as one line of ours."""
    errors: Any = hub.errors
    place = f"{PREFIX}{repo}: cannot be {what}"
    endpoint = hub.constants.ENDPOINT
    try:
        yield
    except JirgeeError:
        raise
    except errors.LocalTokenNotFoundError:
        raise MachineError(f"{place}: no token; {LOGIN}") from None
    except errors.GatedRepoError:
        raise MachineError(
            f"{place}: its owner must let you in first; ask on {endpoint}/{repo}, then {LOGIN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise MachineError(f"{place}: no such repository on {endpoint}, or a private one; {LOGIN}") from None
    except errors.RevisionNotFoundError:
        raise InputError(
            "no such revision; name a branch, a tag or a commit that is there", f"{PREFIX}{repo}"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise MachineError(f"{place}: HF_HUB_OFFLINE is set; unset it") from None
    except errors.HFValidationError as error:
        raise InputError(f"is not a repository id ({_line(error)})", f"{PREFIX}{repo}") from None
    except errors.LocalEntryNotFoundError:  # what a download makes of a lost connection
        raise MachineError(f"{place}: {endpoint} cannot be reached; check the network") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = LOGIN if status in (401, 403) else "try again later"
        raise MachineError(f"{place}: {endpoint} answered {status} ({_line(error)}); {remedy}") from None
    except OSError as error:  # of requests, too
        if error.filename is not None:
            raise
        raise MachineError(f"{place}: {endpoint} cannot be reached ({_line(error)}); check the network") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests", "urllib3", "hf_xet"):
            raise
        raise MachineError(f"{place}: {endpoint} cannot be reached ({_line(error)}); check the network") from None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
