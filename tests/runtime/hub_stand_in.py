"""A stand-in of the Hugging Face hub's HTTP API: as much as pushing and pulling a model repository asks for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_good"
LARGE = (".onnx", ".model", ".npz", ".jirgee")  # what goes through LFS


class Hub:
    """``repos``: id -> commit -> file name -> bytes; ``heads``: id -> newest commit. ``asked``: every request."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, str] = {}
        self.private: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fail_with = 0

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        head = hashlib.sha1(repr(sorted((n, hashlib.sha1(d).digest()) for n, d in files.items())).encode()).hexdigest()
        self.repos.setdefault(repo, {})[head] = files
        self.heads[repo] = head
        return head


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_request(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        hub.asked.append(f"{self.command} {path}")
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if hub.fail_with:
            return self.answer(hub.fail_with, {"error": "out of order"})
        if self.command in ("POST", "PUT"):
            if not allowed and not path.startswith("/lfs/"):
                return self.answer(401, {"error": "Invalid username or password."})
            return self.write(path, body)
        return self.read(path, allowed)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def write(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/repos/create":
            data = json.loads(body)
            repo = f"{data['organization']}/{data['name']}"
            if repo in hub.repos:
                return self.answer(409, {"error": "You already created it", "url": f"{hub.url}/{repo}"})
            hub.commit(repo, {})
            if data.get("private"):
                hub.private.add(repo)
            return self.answer(200, {"url": f"{hub.url}/{repo}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {})
        if path.endswith("/preupload/main"):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": modes})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = []
            for wanted in json.loads(body)["objects"]:
                upload = {"upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"}}
                objects.append(wanted | ({} if wanted["oid"] in hub.blobs else {"actions": upload}))
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            hub.blobs[path.rpartition("/")[2]] = body
            return self.answer(200)
        if path.endswith("/commit/main"):
            repo = "/".join(path.split("/")[3:5])
            files = dict(hub.repos[repo][hub.heads[repo]])
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            head = hub.commit(repo, files)
            return self.answer(
                200, {"success": True, "commitOid": head, "commitUrl": f"{hub.url}/{repo}/commit/{head}"}
            )
        return self.answer(404, {"error": f"the stand-in does not know {path}"})

    def read(self, path: str, allowed: bool) -> None:
        hub, parts = self.hub, path.strip("/").split("/")
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        commits = hub.repos.get(repo)
        if commits is None or (repo in hub.private and not allowed):
            return self.answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if parts[:2] == ["api", "models"]:
            revision = parts[5] if len(parts) > 5 else "main"
            head = hub.heads[repo] if revision == "main" else revision
            if head not in commits:
                return self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": name, "size": len(data)} for name, data in commits[head].items()]
            return self.answer(200, {"id": repo, "modelId": repo, "sha": head, "siblings": siblings})
        if len(parts) == 5 and parts[2] == "resolve":
            data = commits[parts[3]].get(parts[4])
            if data is None:
                return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            etag = hashlib.sha256(data).hexdigest()
            return self.answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=parts[3])
        return self.answer(404, {"error": f"the stand-in does not know {path}"})


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of this machine, for as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
