"""A model hub on this machine that serves `huggingface_hub` from folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """Answers of one hub; `server` has `repos` and `sent`."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        parts = path.split("/")
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        folder = self.server.repos.get(repo)
        revision = parts[5 if is_api else 3] if len(parts) > (5 if is_api else 3) else "main"
        if folder == "gated" and not is_api:
            return self._error(403, "GatedRepo", with_body)
        if folder is None:
            return self._error(401, "RepoNotFound", with_body)
        if revision not in ("main", "v1.0", COMMIT):
            return self._error(404, "RevisionNotFound", with_body)
        if folder == "gated":
            names = ["config.json"]
        else:
            names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
            names = [name for name in names if (folder / name).is_file()]
        if is_api and len(parts) > 4 and parts[4] == "tree":
            entries = [{"type": "file", "path": n, "size": 2, "oid": "0" * 40} for n in names]
            return self._send(json.dumps(entries).encode(), with_body)
        if is_api:
            values = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": []}
            values |= {"siblings": [{"rfilename": name} for name in names], "downloads": 0}
            return self._send(json.dumps(values).encode(), with_body)
        name = "/".join(parts[4:])
        if name not in names:
            return self._error(404, "EntryNotFound", with_body)
        if with_body:
            self.server.sent.append(name)
        return self._send((folder / name).read_bytes(), with_body)

    def _send(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _error(self, status: int, code: str, with_body: bool) -> None:
        content = json.dumps({"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def hub(repos: Mapping[str, Path | str]) -> Iterator[ThreadingHTTPServer]:
    """Serve folders by their repositories' names; "gated" is one that asks for terms."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.repos, server.sent = dict(repos), []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
