"""Probes of the bases: the embedded one, what the Hub's cache holds, licences, login, offline.

Licences in few words are a help for reading, no advice: the text that counts is on the page of each
base.

Does not: connect, vet a folder of the cache, or show a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from creatok_cli import registry
from creatok_cli._probes.finding import GIB, Finding, brief, fault, homely, size
from creatok_cli.backbones._hub_cache import TRUE, cache_folder, hub_login
from creatok_cli.backbones._weights import CachedBase, cached_bases, resolve
from creatok_cli.errors import ArtefactError, CreatokError

HUB = "https://huggingface.co/"
ROOMY = 40 * GIB
"""Free disk that holds any base of creatok's families: FLUX.1 takes 34 GB."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
LICENCES = {
    "apache-2.0": "commercial use allowed",
    "mit": "commercial use allowed",
    "creativeml-openrail-m": "commercial use allowed, with a list of forbidden uses",
    "openrail++": "commercial use allowed, with a list of forbidden uses",
    "stabilityai-ai-community": "free below USD 1M yearly revenue, then a paid licence",
    "flux-1-dev-non-commercial-license": "non-commercial",
    "sai-nc-community": "non-commercial",
}
"""Licence -> what it means for a studio; by the beginning of its name."""
GATED = ("stabilityai-ai-community", "flux-1-dev")
"""Licences that are accepted on the base's page before the Hub hands anything out."""


def probe_bestiary() -> Finding:
    """Whether the embedded base is whole."""
    try:
        facts = resolve("bestiary")
    except CreatokError as error:
        return fault("bestiary", error, todo="install creatok again")
    except OSError as error:
        reason = ArtefactError(f"its weights cannot be read: {brief(error)}")
        return fault("bestiary", reason, todo="install creatok again")
    told = f"built in, {facts.size_px[0]} x {facts.size_px[1]} px, licence {facts.licence}"
    return Finding(
        name="bestiary",
        status="ok",
        found=f"{told}: {meaning(facts.licence)}",
        facts={"digest": facts.digest, "licence": facts.licence},
    )


def probe_bases() -> list[Finding]:
    """The bases of the cache, and the families that ask for a licence first."""
    cached = cached_bases()
    families = {
        name: registry.describe("backbones", name).spec for name in registry.names("backbones")
    }
    gate = judge_gates(families, cached, hub_login())
    return [*judge_cached(cached), *([gate] if gate else [])]


def judge_cached(cached: Sequence[CachedBase]) -> list[Finding]:
    """One finding per base of the cache, with its licence."""
    return [
        Finding(
            name=each.backbone,
            status="ok",
            found=f"{each.name} at {each.revision[:12]}, {size(each.size_bytes)}, "
            f"licence {each.licence}: {meaning(each.licence)}",
            facts={
                "base": each.name,
                "revision": each.revision,
                "size_bytes": each.size_bytes,
                "licence": each.licence,
                "note": meaning(each.licence),
                "folder": homely(each.folder),
            },
        )
        for each in cached
    ]


def judge_gates(
    families: Mapping[str, Mapping[str, object]], cached: Iterable[CachedBase], login: str
) -> Finding | None:
    """A note where a family's repository asks for its licence to be accepted, and is not here."""
    here = {each.name for each in cached}
    gated = {
        name: str(spec["repo"])
        for name, spec in families.items()
        if spec.get("repo") and str(spec.get("licence", "")).startswith(GATED)
    }
    wanted = {name: repo for name, repo in gated.items() if repo not in here}
    if not wanted:
        return None
    is_known = login.startswith("logged in")
    pages = " and ".join(f"{HUB}{repo}" for repo in wanted.values())
    login_too = "" if is_known else "; then: hf auth login"
    return Finding(
        name="licences",
        status="note",
        found=f"{', '.join(wanted)}: to be accepted before the first download"
        + ("" if is_known else "; this machine has no login"),
        todo=f"to draw with one, accept its licence in a browser: {pages}{login_too}",
        facts={"gated": gated, "login": login},
    )


def meaning(licence: str) -> str:
    """What a licence means for a studio, in few words."""
    told = [note for name, note in LICENCES.items() if licence.startswith(name)]
    return told[0] if told else "read it before you publish"


def judge_hub(free_bytes: int | None, environment: Mapping[str, str]) -> Finding:
    """Where bases are kept, the room there, and whether they can be fetched."""
    folder, login = cache_folder(), hub_login()
    offline = [name for name in OFFLINE if environment.get(name, "").lower() in TRUE]
    parts = [homely(str(folder))]
    parts += [f"{size(free_bytes)} free"] if free_bytes is not None else []
    parts += [f"offline ({', '.join(offline)})" if offline else "online", login]
    is_tight = free_bytes is not None and free_bytes < ROOMY
    return Finding(
        name="hub",
        status="note" if is_tight else "ok",
        found=", ".join(parts),
        todo="point HF_HOME to a larger disk for FLUX.1, which takes 34 GB" if is_tight else "",
        facts={
            "cache": homely(str(folder)),
            "free_bytes": free_bytes,
            "offline": offline,
            "login": login,
        },
    )
