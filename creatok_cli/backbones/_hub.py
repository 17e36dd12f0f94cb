"""The Hugging Face Hub: what a repository holds, and its files, one by one, into the Hub's cache.

The only place that connects. A file is streamed into `blobs/*.incomplete`, checked against the
digest that the Hub told beforehand, and only then gets its name; what is cut goes on where it
stopped, at the next attempt or the next run. Nothing wrong is ever left under a final name. The
waiting is bounded: it ends when nothing came for `idle_s`, or after three attempts in a row that
brought next to nothing.

huggingface_hub lends its HTTP client, which knows proxies and certificates, its login and its lock.
Its own download checks sizes but no digests, and waits longer than is promised here.

Does not: decide what to fetch, say anything to people, or run while something is drawn or learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from creatok_cli import __version__
from creatok_cli.backbones import _hub_cache
from creatok_cli.durable import FULL
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    DigestMismatch,
    ModelGated,
    ModelMissing,
    Offline,
    OutputFull,
    Refused,
)
from creatok_cli.tokens._layout import describe_content

HOME = "https://huggingface.co"
IDLE_S = 60.0
RETRIES = 3
LEAST_BYTES_S = 256.0
"""Less than this, on average over `idle_s`, counts as nothing."""
RENEWING_BYTES = 2**25
"""An attempt that brought so much gives all retries back."""
LISTING_BYTES = 2**25
CHUNK_BYTES = 2**20
TOLD_EVERY_S = 0.2
_NAME = re.compile(r"(?:[\w-][\w.+-]*/){0,3}[\w.-]*\w[\w.+-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository at a commit."""

    name: str
    """Relative, with `/`."""
    size: int
    digest: str
    """sha256 of a large file, else the git id of a small one; also its name in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a repository holds at one commit."""

    repo: str
    commit: str
    licence: str
    files: Mapping[str, RemoteFile]


class Transient(Exception):
    """An attempt failed in a way that the next one may not."""


@dataclass
class Patience:
    """How long to wait for one thing: time since anything came, and attempts in a row."""

    idle_s: float
    retries: int = RETRIES
    since_s: float = field(default_factory=time.monotonic)

    @property
    def attempt_s(self) -> float:
        """Longest silence of one attempt, so that all of them fit."""
        return self.idle_s / (RETRIES + 1)

    def came(self) -> None:
        """Something came."""
        self.since_s = time.monotonic()

    def may_retry(self, gained: int) -> bool:
        """Whether to try again, after a pause, when an attempt has brought `gained` bytes."""
        if gained >= RENEWING_BYTES:
            self.retries = RETRIES
        if self.retries <= 0 or time.monotonic() - self.since_s >= self.idle_s:
            return False
        pause_s = min(0.5, self.idle_s / 60) * 2 ** (RETRIES - self.retries)
        self.retries -= 1
        time.sleep(pause_s)
        return True


class Hub:
    """One visit to the Hub. Raises Offline when it cannot be reached; nothing of a message comes
    from a server or shows a token or an address with a password.
    """

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._endpoint = (_hub_cache.told("HF_ENDPOINT") or HOME).rstrip("/")
        parts = urlsplit(self._endpoint)
        self._host = parts.hostname or "the Hub"
        if parts.scheme not in ("http", "https"):
            raise Refused("HF_ENDPOINT: expected an address that begins with https://")

    def listing(self, repo: str, revision: str) -> Listing:
        """The files of a repository. Raises ModelMissing, ModelGated, Offline, DigestMismatch."""
        path = f"/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        data = self._read(path, repo, revision, LISTING_BYTES)
        try:
            content = json.loads(data)
            commit, files = str(content["sha"]), content["siblings"]
            found = [_remote_file(each) for each in files]
            licence = _licence(content.get("cardData") or {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            what = describe_content(data[:64]) or "something else"
            raise Offline(
                f"{self._host} gave no list of files of {repo}, but {what.partition(',')[0]}: a "
                "proxy or a sign-in page may stand between; look with a browser, then try again"
            ) from None
        if not _hub_cache.COMMIT.fullmatch(commit):
            raise Offline(f"{self._host} named no commit of {repo}@{revision}")
        if _hub_cache.COMMIT.fullmatch(revision) and commit != revision:
            raise DigestMismatch(
                f"{repo}: commit {revision[:12]} was asked for, {self._host} has {commit[:12]}"
            )
        return Listing(
            repo=repo,
            commit=commit,
            licence=licence,
            files={each.name: each for each in found if each is not None},
        )

    def page(self, repo: str) -> str:
        """Where people read about a repository."""
        return f"https://{self._host}/{repo}"

    def read(self, listing: Listing, file: RemoteFile) -> bytes:
        """A small file, checked and not kept. Raises DigestMismatch, Offline, ModelGated."""
        data = self._read(_path(listing, file), listing.repo, listing.commit, LISTING_BYTES)
        digest = _hasher(file)
        digest.update(data)
        if digest.hexdigest() != file.digest:
            raise DigestMismatch(f"{listing.repo}: {file.name}: {_other(data[:64])}")
        return data

    def fetch(self, listing: Listing, file: RemoteFile) -> Iterator[int]:
        """Bring one file into the cache and yield the bytes that are there, a few times a second.

        Raises DigestMismatch for other bytes than announced, Offline, ModelGated, OutputFull.
        """
        from huggingface_hub import utils

        hub_utils: Any = utils
        model = _hub_cache.repo_folder(listing.repo)
        blob = model / "blobs" / file.digest
        pointer = model / "snapshots" / listing.commit / file.name
        if pointer.exists() and pointer.stat().st_size == file.size:
            yield file.size
            return
        with _cache_errors(model):
            for folder in (blob.parent, pointer.parent):
                folder.mkdir(parents=True, exist_ok=True)
            lock = _hub_cache.cache_folder() / ".locks" / model.name / f"{file.digest}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            with hub_utils.WeakFileLock(lock):
                if not blob.exists() or blob.stat().st_size != file.size:
                    yield from self._download(listing, file, blob)
                _point(pointer, blob)
        yield file.size

    def _download(self, listing: Listing, file: RemoteFile, blob: Path) -> Iterator[int]:
        """Stream, check, name."""
        part = blob.with_name(f"{blob.name}.creatok.incomplete")
        patience = Patience(self._idle_s)
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                yield from self._stream(listing, file, part, patience)
                fault = _fault(part, file)
                if fault is None:
                    break
                part.unlink()
                raise Transient(fault)
            except Transient as error:
                after = part.stat().st_size if part.exists() else 0
                if not patience.may_retry(after - before):
                    raise self._given_up(listing, file, str(error)) from None
        os.replace(part, blob)

    def _given_up(self, listing: Listing, file: RemoteFile, why: str) -> CreatokError:
        where = f"{listing.repo}: {file.name}"
        if why.startswith("other bytes"):
            return DigestMismatch(f"{where}: {why}; nothing of it was kept; try again later")
        return Offline(
            f"{where}: {why}; what has come is kept: the same command goes on from there"
        )

    def _stream(
        self, listing: Listing, file: RemoteFile, part: Path, patience: Patience
    ) -> Iterator[int]:
        """Append what is missing to `part`."""
        path = _path(listing, file)
        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            have = 0
        if have == file.size and have:
            return
        with self._get(path, listing.repo, listing.commit, patience, start=have) as answer:
            with part.open("ab") as target:
                if have and answer.status_code != 206:
                    target.truncate(0)
                    have = 0
                told_s, is_first = 0.0, True
                for chunk in _steady(answer, patience):
                    fault = _foreign(answer, chunk, have, file) if is_first else None
                    have, is_first = have + len(chunk), False
                    if fault or have > file.size:
                        target.truncate(0)
                        raise Transient(fault or _other(b"", "too many"))
                    target.write(chunk)
                    if time.monotonic() - told_s >= TOLD_EVERY_S:
                        told_s = time.monotonic()
                        yield have
                target.flush()
                os.fsync(target.fileno())
        if have < file.size:
            raise Transient("the connection was cut")

    def _read(self, path: str, repo: str, revision: str, limit: int) -> bytes:
        """A small answer, whole."""
        patience = Patience(self._idle_s)
        while True:
            data = b""
            try:
                with self._get(path, repo, revision, patience) as answer:
                    for chunk in _steady(answer, patience):
                        data += chunk
                        if len(data) > limit:
                            raise Offline(f"{self._host}: the list of files of {repo} is too long")
                return data
            except Transient as error:
                if not patience.may_retry(len(data)):
                    raise Offline(
                        f"{self._host}: {error}; look at the network, or use a base that is on "
                        "this machine ('creatok doctor' lists them)"
                    ) from None

    @contextmanager
    def _get(
        self, path: str, repo: str, revision: str, patience: Patience, *, start: int = 0
    ) -> Iterator[Any]:
        """An open answer with a good status."""
        with _open_doors() as hub:
            token = _token(hub)
            headers = {"user-agent": f"creatok/{__version__}", "accept-encoding": "identity"}
            if token:
                headers["authorization"] = f"Bearer {token}"
            if start:
                headers["range"] = f"bytes={start}-"
            settings = {"headers": headers, "timeout": patience.attempt_s}
            try:
                with hub.get_session().stream(
                    "GET", self._endpoint + path, follow_redirects=True, **settings
                ) as answer:
                    self._check_status(answer, repo, revision, bool(token))
                    yield answer
            except (CreatokError, Transient, GeneratorExit):
                raise
            except Exception as error:  # the client's own tree, whose name depends on its version
                library = type(error).__module__.partition(".")[0]
                if not library.startswith("http") and not isinstance(error, ConnectionError):
                    raise
                raise Transient(_reason(error)) from None

    def _check_status(self, answer: Any, repo: str, revision: str, has_token: bool) -> None:
        """Raise for every status but a good one: gated first, for the Hub says 401 to much."""
        status, code = answer.status_code, answer.headers.get("x-error-code", "")
        if status in (200, 206):
            return
        if status in (408, 416, 429) or status >= 500:
            raise Transient(f"it answers with status {status}")
        page = self.page(repo)
        login = "'hf auth login'" if not has_token else "'hf auth login' with another token"
        if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
            raise ModelGated(
                f"{repo} asks for its licence to be accepted: do so in a browser at {page}, "
                f"then {'run the command again' if has_token else login}"
            )
        if code == "RevisionNotFound":
            raise ModelMissing(
                f"{repo} has no revision {revision[:60]!r}; if it is pinned, remove its line from "
                "the file of pins to take the newest commit"
            )
        if status == 401 and code != "RepoNotFound":
            raise ModelGated(
                f"{self._host} does not let this machine in ({_hub_cache.hub_login()}) to read "
                f"{repo}: {login}"
            )
        if status in (401, 404) and code != "EntryNotFound":
            raise ModelMissing(
                f"{repo} does not exist, or is private and this machine is not let in "
                f"({_hub_cache.hub_login()}): check the name at {page}, or {login}"
            )
        raise ModelMissing(f"{repo}: {self._host} answers with status {status} ({page})")


@contextmanager
def _open_doors() -> Iterator[Any]:
    """huggingface_hub, allowed to connect, until the end of the block."""
    import huggingface_hub
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    try:
        yield huggingface_hub
    finally:
        constants.HF_HUB_OFFLINE = before


def _token(hub: Any) -> str | None:
    """Of the user, unless they asked for it to be kept back."""
    if (_hub_cache.told("HF_HUB_DISABLE_IMPLICIT_TOKEN") or "").lower() in _hub_cache.TRUE:
        return None
    try:
        token = hub.get_token()
    except Exception:  # noqa: BLE001 - a login that cannot be refreshed must not show in a message
        return None
    return str(token) if token else None


def _steady(answer: Any, patience: Patience) -> Iterator[bytes]:
    """The pieces of an answer as they come. Raises Transient for a trickle."""
    window_s, window_bytes = time.monotonic(), 0
    for chunk in answer.iter_raw():
        now_s = time.monotonic()
        window_bytes += len(chunk)
        if window_bytes >= LEAST_BYTES_S * patience.idle_s:
            patience.came()
            window_s, window_bytes = now_s, 0
        elif now_s - window_s >= patience.idle_s:
            raise Transient(f"next to nothing came for {patience.idle_s:.0f} s")
        yield chunk
    patience.came()


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile | None:
    """A file with a plain name, size and digest; None for any other: it is not fetched."""
    lfs = entry.get("lfs") or {}
    name, size = entry["rfilename"], lfs.get("size", entry.get("size"))
    digest = lfs.get("sha256") or entry.get("blobId")
    kind = _SHA256 if lfs else _hub_cache.COMMIT
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        return None
    if not isinstance(size, int) or not 0 <= size < 2**45:
        return None
    is_known = isinstance(digest, str) and kind.fullmatch(digest)
    return RemoteFile(name=name, size=size, digest=str(digest)) if is_known else None


def _licence(card: Mapping[str, Any]) -> str:
    told = str(card.get("license") or "unknown")
    return str(card.get("license_name") or told)[:80] if told == "other" else told[:80]


def _path(listing: Listing, file: RemoteFile) -> str:
    return f"/{listing.repo}/resolve/{listing.commit}/{quote(file.name)}"


def _hasher(file: RemoteFile) -> Any:
    """What makes the digest of a file: sha256, or the id of a git blob."""
    if _SHA256.fullmatch(file.digest):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _fault(part: Path, file: RemoteFile) -> str | None:
    """Why a whole download is not the file that was announced."""
    digest = _hasher(file)
    with part.open("rb") as source:
        head = source.read(64)
        source.seek(0)
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return None if digest.hexdigest() == file.digest else _other(head)


def _foreign(answer: Any, head: bytes, start: int, file: RemoteFile) -> str | None:
    """Why an answer is not the rest of a file, as far as its beginning shows."""
    length = answer.headers.get("content-length", "")
    is_weight = file.name.endswith(".safetensors") and not start
    if length.isdecimal() and start + int(length) != file.size:
        return _other(head, f"{length} bytes in place of {file.size - start}")
    return _other(head) if is_weight and describe_content(head[:64]) else None


def _other(head: bytes, instead: str = "") -> str:
    """What came in place of a file."""
    what = (describe_content(head[:64]) if head else None) or instead
    return "other bytes came than the Hub had announced" + (f": {what}" if what else "")


def _point(pointer: Path, blob: Path) -> None:
    """Give a blob its name in the snapshot: by a link, else by the file itself."""
    with suppress(FileNotFoundError):
        pointer.unlink()
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        os.replace(blob, pointer)  # as huggingface_hub does where there are no links


def keep_branch(listing: Listing, revision: str) -> None:
    """Write down which commit a branch had, where other tools look for it."""
    if revision == listing.commit:
        return
    ref = _hub_cache.repo_folder(listing.repo) / "refs" / revision
    with suppress(OSError):
        ref.parent.mkdir(parents=True, exist_ok=True)
        temp = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        temp.write_text(listing.commit, encoding="ascii")
        os.replace(temp, ref)


@contextmanager
def _cache_errors(model: Path) -> Iterator[None]:
    """A cache that cannot be written, as an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutputFull(
                f"{model.parent}: {error.strerror}; free some space, then run the command again"
            ) from error
        raise ArtefactError(
            f"{model.parent}: the Hub's cache cannot be written ({error.strerror}); set "
            "HF_HUB_CACHE to a folder that can"
        ) from error


def _reason(error: BaseException) -> str:
    """A few words about a failed connection; never its address."""
    name = type(error).__name__.lower()
    if "timeout" in name:
        return "nothing came in time"
    if "connect" in name or isinstance(error, ConnectionError):
        return "it cannot be reached"
    return "the connection was cut"
