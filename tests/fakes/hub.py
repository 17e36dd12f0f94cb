"""A Hub on the loopback interface: lists repositories, hands out files, and misbehaves on demand.

It speaks what creatok needs of the Hub's interface: the list of a repository with digests, and
`resolve`, which sends large files on to another address, as the Hub does with its CDN.

Does not: check tokens beyond being there, or keep more than bytes in memory.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".ckpt", ".model")
HTML = b"<!doctype html><title>Sign in</title>" + b" " * 4000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def commit_of(number: int) -> str:
    """A commit's id."""
    return f"{number:040x}"


@dataclass
class Repo:
    """Commits of one repository, the newest last."""

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    licence: Mapping[str, str] = field(default_factory=lambda: {"license": "mit"})
    status: int = 200
    code: str = ""
    """What the answers say in place of a list."""
    gated: bool = False
    """The list is public, the files are not."""

    @property
    def main(self) -> str:
        return list(self.commits)[-1]


@dataclass
class FakeHub:
    """The state of the server; change it while it runs."""

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    """File name -> what goes wrong, one word for each request, the last for all that follow:
    `ok`, `cut`, `hole`, `drip`, `wrong`, `html`, `pointer`, `long`, `503`.
    """
    list_fault: str = ""
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    """(path, headers) of every request."""
    address: str = ""
    cdn: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: Mapping[str, bytes], number: int = 1, **more: Any) -> str:
        """A new commit of a repository; says its id."""
        repo = self.repos.setdefault(name, Repo())
        for key, value in more.items():
            setattr(repo, key, value)
        repo.commits[commit_of(number)] = dict(files)
        return commit_of(number)

    def count(self, part: str) -> int:
        """Requests whose path has a text in it."""
        return sum(part in path for path, _ in self.asked)


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder as files of a repository."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """The server and its CDN, on two ports, until the end of the block."""
    servers = [_server(hub), _server(hub)]
    hub.address, hub.cdn = (f"http://127.0.0.1:{each.server_port}" for each in servers)
    threads = [threading.Thread(target=each.serve_forever, args=(0.02,)) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        for each in servers:
            each.shutdown()
            each.server_close()
        for thread in threads:
            thread.join()


def _server(hub: FakeHub) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((path, {k.lower(): v for k, v in self.headers.items()}))
            try:
                if path.startswith("/api/models/"):
                    self._list(path)
                else:
                    self._resolve(path)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _list(self, path: str) -> None:
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            repo = hub.repos.get(name)
            if hub.list_fault == "hole":
                hub.closing.wait(30)
            elif hub.list_fault == "html":
                self._send(200, HTML, kind="text/html")
            elif repo is None:
                self._send(401 if "authorization" not in self.headers else 404, b"", "RepoNotFound")
            elif repo.status != 200:
                self._send(repo.status, b"secret words of a server", repo.code)
            else:
                commit = repo.main if revision == "main" else revision
                if hub.list_fault == "other":
                    commit = commit_of(99)
                if commit not in repo.commits and hub.list_fault != "other":
                    self._send(404, b"", "RevisionNotFound")
                    return
                files = repo.commits.get(commit, {})
                siblings = [_entry(each, data) for each, data in files.items()]
                body = {"sha": commit, "siblings": siblings, "cardData": repo.licence}
                self._send(200, json.dumps(body).encode())

        def _resolve(self, path: str) -> None:
            name, _, rest = path.removeprefix("/cdn").lstrip("/").partition("/resolve/")
            commit, _, file = rest.partition("/")
            repo = hub.repos[name]
            if repo.gated and not path.startswith("/cdn"):
                self._send(403 if "authorization" in self.headers else 401, b"", "GatedRepo")
                return
            if file.endswith(LARGE) and not path.startswith("/cdn"):
                self.send_response(302)
                self.send_header("location", f"{hub.cdn}/cdn/{name}/resolve/{commit}/{file}")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            faults = hub.faults.get(file, ["ok"])
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
            self._file(repo.commits[commit][file], fault)

        def _file(self, data: bytes, fault: str) -> None:
            start = int(self.headers.get("range", "bytes=0-")[6:-1])
            status = 206 if start else 200
            rest = data[start:]
            if fault in ("html", "pointer"):
                self._send(200, HTML if fault == "html" else POINTER)
            elif fault == "503":
                self._send(503, b"")
            elif fault == "wrong":
                self._send(status, bytes(len(rest)))
            elif fault == "long":
                self._send(status, rest + b"x")
            elif fault == "whole":
                self._send(200, data)
            elif fault == "hole":
                hub.closing.wait(30)
                self.close_connection = True
            elif fault in ("cut", "drip"):
                self._head(status, len(rest))
                self.wfile.write(rest[: len(rest) // 2])
                while fault == "drip" and not hub.closing.is_set():
                    self.wfile.write(b"x")
                    time.sleep(0.02)
                self.close_connection = True
            else:
                self._send(status, rest)

        def _head(self, status: int, size: int, code: str = "", kind: str = "x/y") -> None:
            self.send_response(status)
            self.send_header("content-length", str(size))
            self.send_header("content-type", kind)
            if code:
                self.send_header("x-error-code", code)
            self.end_headers()

        def _send(self, status: int, data: bytes, code: str = "", kind: str = "x/y") -> None:
            self._head(status, len(data), code, kind)
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that went away."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def _entry(name: str, data: bytes) -> dict[str, Any]:
    """A file in the list of a repository."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return entry
