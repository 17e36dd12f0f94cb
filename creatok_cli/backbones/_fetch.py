"""Bases are on this machine before anything is drawn: fetched once, at a commit that stays.

What is in the Hub's cache is used as it is, without a connection. Else the files that the family
opens, and no others, are fetched: configs, word lists, safetensors in one variant, the model card.
Pickles, pictures, checkpoints and the other variant stay where they are. Licence, size and room on
the disk are told before the first large byte; the commit is pinned beside the sheet.

Does not: connect by itself (`_hub.py` does). It imports torch only to take a checkpoint apart.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creatok_cli import registry
from creatok_cli.backbones import _hub_cache, _weights
from creatok_cli.backbones._base_name import MAIN, BaseName, parse
from creatok_cli.backbones._hub import IDLE_S, Hub, Listing, RemoteFile, keep_branch
from creatok_cli.backbones._lora_file import HubFile, cached_file, parse_reference
from creatok_cli.backbones._pins import Pins
from creatok_cli.backbones._single_file import convert, read_checkpoint
from creatok_cli.backbones._vet import (
    MODEL_INDEX,
    WEIGHTS,
    WEIGHTY,
    DigestCache,
    Parts,
    is_text,
    wanted,
)
from creatok_cli.domain import Event, Fetching, Notice, Stage
from creatok_cli.errors import ModelMissing, Offline, OutputFull, Refused, UnknownName

ROOM = 1.1
"""Free disk per byte to fetch (reliability notes, F34)."""
_PAPERS = re.compile(r"README\.md|LICEN[CS]E(\.\w+)?|NOTICE(\.\w+)?", re.IGNORECASE)
MAX_PAPER_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Files of one repository that are to be fetched."""

    name: str
    """`owner/repo@revision`."""
    listing: Listing
    files: tuple[RemoteFile, ...]
    """In the order in which they are fetched: whatever makes the folder a base comes last."""

    @property
    def size(self) -> int:
        """Bytes that are not here yet; what two names share counts once."""
        missing = {file.digest: file.size for file in self.files if not self.is_here(file)}
        return sum(missing.values())

    def is_here(self, file: RemoteFile) -> bool:
        model = _hub_cache.repo_folder(self.listing.repo)
        return (model / "blobs" / file.digest).exists() or (
            model / "snapshots" / self.listing.commit / file.name
        ).exists()


def obtain(
    names: Iterable[str],
    *,
    files: Iterable[str] = (),
    folder: Path | None = None,
    pins: Pins | None = None,
    is_offline: bool = False,
    idle_s: float = IDLE_S,
) -> Iterator[Event]:
    """Fetch the bases that are not here, and pin all that come from the Hub. `files` are LoRAs as
    the sheet in `folder` names them: those of a repository are fetched, too.

    Raises ModelMissing, ModelGated, Offline, Refused, DigestMismatch or OutputFull. Names that mean
    nothing are passed over: whoever asked for them knows the line.
    """
    for name in dict.fromkeys(names):
        try:
            asked = parse(name)
        except UnknownName:
            continue
        if asked.kind == "repo":
            yield from _repository(asked, pins or Pins(), is_offline=is_offline, idle_s=idle_s)
        if asked.kind == "file":
            yield from _checkpoint(asked, pins or Pins(), is_offline=is_offline, idle_s=idle_s)
    for text in files:
        named = parse_reference(text)
        if named is not None and not ((folder or Path()) / Path(text).expanduser()).exists():
            yield from _single(named, pins or Pins(), is_offline=is_offline, idle_s=idle_s)


def _repository(asked: BaseName, pins: Pins, *, is_offline: bool, idle_s: float) -> Iterator[Event]:
    """One base that is a repository, or two."""
    try:
        facts = _weights.resolve(asked.text, pins)
    except ModelMissing as missing:
        if is_offline or _hub_cache.is_told_offline():
            raise Offline(f"base {asked.text} (offline): {missing}") from None
        yield Stage(name="looking up", detail=asked.pinned_as)
        yield from _fetch(_wishes(Hub(idle_s=idle_s), asked, pins), pins, idle_s)
        facts = _weights.resolve(asked.text, pins)
    pins.keep(asked.pinned_as, Path(facts.folder).name)
    if facts.prior_folder:
        prior = Path(facts.prior_folder)
        pins.keep(f"{_hub_cache.repo_of(prior)}@{MAIN}", prior.name)


def _checkpoint(asked: BaseName, pins: Pins, *, is_offline: bool, idle_s: float) -> Iterator[Event]:
    """Configs for one checkpoint, then its parts."""
    checkpoint = read_checkpoint(Path(asked.path).resolve())
    repo = _weights.usual_repo(checkpoint.family)
    if not asked.configs:
        try:
            _weights.resolve(asked.text, pins)
        except ModelMissing as missing:
            if is_offline or _hub_cache.is_told_offline():
                raise Offline(
                    f"{asked.text} needs configs and word lists (offline): {missing}; or name a "
                    f"folder that has them: --base {asked.text}+FOLDER"
                ) from None
            yield Stage(name="looking up", detail=repo)
            hub = Hub(idle_s=idle_s)
            listing = _listing(hub, repo, MAIN, pins)
            parts = registry.describe("backbones", checkpoint.family).facts["PARTS"]
            names = filter(is_text, wanted(listing.files, parts))
            files = [listing.files[name] for name in names if name in listing.files]
            yield from _fetch([_bundle(f"{repo}@{MAIN}", listing, files)], pins, idle_s)
    facts = _weights.resolve(asked.text, pins)
    if not asked.configs:
        pins.keep(f"{repo}@{MAIN}", Path(facts.configs).name)
    if not (Path(facts.folder) / MODEL_INDEX).is_file():
        from creatok_cli.backbones._diffusers import prepare_libraries

        yield Stage(name="taking apart", detail=checkpoint.path.name)
        prepare_libraries()
        convert(checkpoint, Path(facts.configs), Path(facts.folder))


def _single(asked: HubFile, pins: Pins, *, is_offline: bool, idle_s: float) -> Iterator[Event]:
    """One file of a repository."""
    found = cached_file(asked, pins)
    if found is not None:
        snapshot = found.parents[asked.file.count("/")]
        pins.keep(asked.pinned_as, snapshot.name)
        return
    text = f"{asked.pinned_as}: {asked.file}"
    if is_offline or _hub_cache.is_told_offline():
        raise Offline(f"{text} is not on this machine, and --offline forbids to fetch it")
    yield Stage(name="looking up", detail=asked.pinned_as)
    listing = _listing(Hub(idle_s=idle_s), asked.repo, asked.revision, pins)
    file = listing.files.get(asked.file)
    if file is None:
        raise ModelMissing(f"{text}: there is no such file at commit {listing.commit[:12]}")
    yield from _fetch([_bundle(asked.pinned_as, listing, [file])], pins, idle_s)


def _wishes(hub: Hub, asked: BaseName, pins: Pins) -> list[Wish]:
    """What a base needs, from one repository or two."""
    listing = _listing(hub, asked.repo, asked.revision, pins)
    index = _index(hub, listing)
    served = _weights.pipelines()
    kind = str(index.get("_class_name"))
    if kind not in served:
        raise Refused(f"{asked.repo}: this is a {kind[:60]!r}; creatok opens {', '.join(served)}")
    if asked.backbone not in ("", served[kind]):
        raise Refused(f"{asked.repo}: this is a model for {served[kind]}, not for {asked.backbone}")
    facts = registry.describe("backbones", served[kind]).facts
    found = [_wish(asked.pinned_as, listing, index, facts["PARTS"])]
    if "PRIOR_NAMES" in facts:
        repo = _weights.prior_repo(asked.repo, *facts["PRIOR_NAMES"])
        listing = _listing(hub, repo, MAIN, pins)
        index = _index(hub, listing)
        found.append(_wish(f"{repo}@{MAIN}", listing, index, facts["PRIOR_PARTS"]))
    return found


def _listing(hub: Hub, repo: str, revision: str, pins: Pins) -> Listing:
    """At the pinned commit, where there is one."""
    return hub.listing(repo, pins.commit(f"{repo}@{revision}") or revision)


def _index(hub: Hub, listing: Listing) -> Mapping[str, Any]:
    """The repository's model_index.json."""
    file = listing.files.get(MODEL_INDEX)
    if file is None:
        singles = [name for name in listing.files if name.endswith(WEIGHTS) and "/" not in name]
        hint = f"; fetch {singles[0]} and use --base FILE.safetensors" if singles else ""
        raise ModelMissing(f"{listing.repo}: no {MODEL_INDEX}: not in diffusers' layout{hint}")
    try:
        content = json.loads(hub.read(listing, file))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Refused(f"{listing.repo}: {MODEL_INDEX} is no JSON object")
    return content


def _wish(name: str, listing: Listing, index: Mapping[str, Any], parts: Parts) -> Wish:
    """The files that are opened, and the papers. Raises ModelMissing for a part without any."""
    entries = {part: index[part] for part in parts if isinstance(index.get(part), list)}
    named = {part: str(entry[-1]) for part, entry in entries.items() if entry and any(entry)}
    names = wanted(listing.files, named)
    for part, kind in named.items():
        inside = [each for each in names if each.startswith(f"{part}/")]
        is_weighty = kind.endswith(WEIGHTY)
        if not inside or (is_weighty and not any(each.endswith(WEIGHTS) for each in inside)):
            raise ModelMissing(
                f"{name}: {part} has no safetensors weights at this commit, and creatok opens no "
                "pickles: look on its page for another revision, and name it with @REVISION"
            )
    return _bundle(name, listing, [listing.files[each] for each in names])


def _bundle(name: str, listing: Listing, files: list[RemoteFile]) -> Wish:
    """Files with the model card and licence of their repository."""
    papers = [
        file
        for each, file in listing.files.items()
        if _PAPERS.fullmatch(each) and file.size <= MAX_PAPER_BYTES
    ]
    order = sorted(
        [*files, *papers], key=lambda file: (file.name == MODEL_INDEX, file.size, file.name)
    )
    return Wish(name=name, listing=listing, files=tuple(order))


def _fetch(wishes: list[Wish], pins: Pins, idle_s: float) -> Iterator[Event]:
    """All files, told beforehand."""
    hub, total = Hub(idle_s=idle_s), sum(wish.size for wish in wishes)
    free = _check_room(total)
    for wish in wishes:
        listing = wish.listing
        yield Notice(
            level="info",
            message=f"fetching {listing.repo} at commit {listing.commit[:12]}, licence "
            f"{listing.licence}: {gib(wish.size)} GiB into {_hub_cache.cache_folder()} "
            f"({gib(free)} GiB free); terms: {hub.page(listing.repo)}",
        )
    done, known = 0, DigestCache()
    for wish in wishes:
        yield Stage(name="fetching", detail=wish.listing.repo)
        for file in wish.files:
            size = 0 if wish.is_here(file) else file.size
            for have in hub.fetch(wish.listing, file):
                come = done + min(have, size)
                yield Fetching(name=wish.listing.repo, done_bytes=come, total_bytes=total)
            done += size
            if len(file.digest) == 64:  # read whole a moment ago
                snapshot = _hub_cache.repo_folder(wish.listing.repo) / "snapshots"
                known.remember(snapshot / wish.listing.commit / file.name, file.digest)
        keep_branch(wish.listing, wish.name.rpartition("@")[2])
        pins.keep(wish.name, wish.listing.commit)
    known.save()


def _check_room(total: int) -> int:
    """Free bytes where the cache is. Raises OutputFull where they are too few."""
    place = _hub_cache.cache_folder()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < ROOM * total:
        raise OutputFull(
            f"{_hub_cache.cache_folder()}: {gib(ROOM * total)} GiB are needed for {gib(total)} GiB "
            f"of weights, {gib(free)} GiB are free; free some, or set HF_HUB_CACHE to another disk"
        )
    return free


def gib(size: float) -> str:
    """`5.1`, `0.004`."""
    value = size / 2**30
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"
