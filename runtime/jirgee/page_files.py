"""The page's files, read once, with the headers that keep it to this server: nothing of another host runs or loads."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "web"
_INLINE = {
    "script-src": re.compile(r"<script>(.*?)</script>", re.S),
    "style-src": re.compile(r"<style>(.*?)</style>", re.S),
}


@dataclass(frozen=True)
class PageFile:
    body: bytes
    headers: dict[str, str]


def policy(html: str = "") -> str:
    """A Content-Security-Policy: only this host, and of inline scripts and styles just those of ``html``, by hash."""
    rules = ["default-src 'none'", "connect-src 'self'", "img-src 'self' data: blob:", "font-src 'self'"]
    for name, pattern in _INLINE.items():
        digests = [hashlib.sha256(block.encode()).digest() for block in pattern.findall(html)]
        sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        rules.append(f"{name} 'self' {sources}".strip())
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])


def file_headers(body: bytes, content_type: str, security_policy: str) -> dict[str, str]:
    return {
        "content-type": content_type,
        "cache-control": "no-cache",  # ask again; the ETag then spares the bytes
        "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "content-security-policy": security_policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }


def load(folder: Path = FOLDER) -> dict[str, PageFile]:
    """URL path -> file; ``/`` is ``index.html``. Empty if there is no page."""
    if not (folder / "index.html").is_file():
        return {}
    rules = policy((folder / "index.html").read_text(encoding="utf-8"))
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(".") and path.suffix != ".py":
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            if kind.startswith("text/") or kind == "application/javascript":
                kind += "; charset=utf-8"
            body = path.read_bytes()
            files["/" if name == "index.html" else f"/{name}"] = PageFile(body, file_headers(body, kind, rules))
    return files
