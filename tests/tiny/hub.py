"""A model hub on this machine, which speaks the few endpoints that uploads and downloads need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"  # noqa: S105 - of no hub


@dataclass
class Hub:
    """What the hub holds, and how it answers."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    private: set[str] = field(default_factory=set[str])
    refusals: dict[str, int] = field(default_factory=dict[str, int])
    """Part of a path to the status that it is answered with; 0 breaks the connection."""
    asked: list[str] = field(default_factory=list[str])


class Answers(BaseHTTPRequestHandler):
    """The endpoints."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's own name
        del format, args

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.refused():
            return
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            if name not in self.hub.repositories:
                self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            names = sorted(self.hub.repositories[name])
            facts = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in names], "tags": []}
            tree = [{"type": "file", "path": file, "size": 1, "oid": "0"} for file in names]
            self.answer(200, tree if "/tree/" in path else facts)
        elif "/resolve/" in path:
            name, _, rest = path.strip("/").partition("/resolve/")
            content = self.hub.repositories.get(name, {}).get(rest.partition("/")[2])
            if content is None:
                self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            self.send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refused():
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            exists = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {})
            if given.get("private") or given.get("visibility") == "private":
                self.hub.private.add(name)
            self.answer(409 if exists else 200, {"url": f"{self.hub.url}/{name}", "error": "exists"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer(200, {"files": modes})
        elif "/commit/" not in self.path:  # such as the check of a card's YAML
            self.answer(200, {"errors": [], "warnings": []})
        else:
            name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.hub.url}/{name}/commit/{COMMIT}"
            self.answer(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})

    def refused(self) -> bool:
        """Answer as the test wants."""
        self.hub.asked.append(f"{self.command} {self.path}")
        status = next((status for part, status in self.hub.refusals.items() if part in self.path), None)
        if status == 0:
            self.close_connection = True
            self.connection.close()
        elif status is not None:
            self.answer(status, {"error": "no"})
        return status is not None

    def answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def local_hub() -> Generator[Hub]:
    """Serve a hub while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Answers,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
