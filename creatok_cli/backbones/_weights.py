"""Base name -> vetted local folder and what a plan must know of it.

`resolve` runs before anything is drawn and in every dry run: it imports no torch, and file digests
are cached. Only what passed `_vet.py` is ever handed to a library.

Does not: download, or open a weight.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from creatok_cli import registry
from creatok_cli.backbones import _hub_cache
from creatok_cli.backbones._base_name import MAIN, BaseName, parse
from creatok_cli.backbones._hub_cache import hub_login as hub_login
from creatok_cli.backbones._pins import Pins
from creatok_cli.backbones._schedulers import offered
from creatok_cli.backbones._single_file import (
    Checkpoint,
    converted_folder,
    name_of,
    read_checkpoint,
)
from creatok_cli.backbones._vet import WEIGHTS, Vetted, read_index
from creatok_cli.domain import BaseFacts
from creatok_cli.errors import ArtefactError, DigestMismatch, ModelMissing, Refused
from creatok_cli.hashing import canonical_json, sha256_hex

ENCODERS = (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2"))
"""Names of the text encoders and their folders; a family with others says so in its own ENCODERS.
"""
LIGHT_BYTES = 2**28
"""Denoisers with smaller weight files draw a batch with one CPU thread: beside each other, two such
batches take 0.5 to 0.7 of the time that they take one after the other with two threads (measured).
"""
CARD_NUMBERS = {"creatok_steps": int, "creatok_guidance": float, "creatok_t5_zero_rows": int}


def bases() -> tuple[str, ...]:
    """Names that `resolve` knows without a path."""
    return registry.names("backbones")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedBase:
    """A base in the Hub's cache of a family that creatok opens."""

    name: str
    """`owner/repo`."""
    backbone: str
    """The plug-in that opens it."""
    revision: str
    """Its commit: 40 hex digits."""
    size_bytes: int
    licence: str
    folder: str


def cached_bases() -> tuple[CachedBase, ...]:
    """The bases that other tools or creatok have fetched, by name; nothing is vetted yet, and no
    torch is imported. A prior that lies in a repository of its own is no base.
    """
    served = pipelines()
    found = []
    for each in _hub_cache.iter_snapshots():
        index: Any = None
        with suppress(OSError, ValueError, RecursionError):
            index = json.loads((each.folder / "model_index.json").read_text(encoding="utf-8"))
        kind = index.get("_class_name") if isinstance(index, dict) else None
        if isinstance(kind, str) and kind in served:
            base = CachedBase(
                name=each.repo,
                backbone=served[kind],
                revision=each.commit,
                size_bytes=_hub_cache.size_of(each.folder),
                licence=licence_of(each.folder),
                folder=str(each.folder),
            )
            found.append(base)
    return tuple(found)


def licence_of(folder: Path, usual: str = "unknown") -> str:
    """What the model card says, else `usual`. A licence that is none of the Hub's list has a name
    of its own.
    """
    try:
        note = card(folder)
    except ArtefactError:
        return usual
    told = str(note.get("license") or usual)
    return str(note.get("license_name") or told) if told == "other" else told


def pipelines() -> dict[str, str]:
    """Pipeline class -> the plug-in that opens it."""
    known: dict[str, str] = {}
    for name in bases():
        served = registry.describe("backbones", name).facts.get("PIPELINE")
        if served:
            known[str(served)] = name
    return known


def resolve(name: str, pins: Pins | None = None) -> BaseFacts:
    """The facts of a base, by a name as in `_base_name.py`; of a repository, the commit that `pins`
    (else those of this machine) say, else the one that was fetched last.

    Raises UnknownName, ModelMissing, Refused or DigestMismatch, each with what to do.
    """
    asked = parse(name)
    if asked.kind == "plug-in":
        return _plugin(name)
    if asked.kind == "pictures":
        return _pictures(name, asked.backbone, asked.path)
    if asked.kind == "repo":
        return _repository(asked, pins or Pins())
    if asked.kind == "file":
        return _checkpoint(asked, pins or Pins())
    if not os.path.isdir(asked.path):
        raise ModelMissing(f"base {name[:200]!r}: no such folder")
    return _folder(name, Path(asked.path).resolve(), asked=asked.backbone)


def check_unchanged(facts: BaseFacts) -> None:
    """Vet the folder again before it is opened: what is read must be what was planned.

    Raises DigestMismatch.
    """
    folder = Path(facts.folder)
    family = _family(facts.backbone)
    prior = _prior(Path(facts.prior_folder), family) if facts.prior_folder else None
    vetted = Vetted(folder, family.facts["PARTS"])
    if facts.checkpoint:
        found = _checkpoint_digest(read_checkpoint(Path(facts.checkpoint)), Path(facts.configs))
    else:
        found = _digest(vetted, card(folder), prior)
    if found != facts.digest:
        raise DigestMismatch(
            f"{facts.folder}: the base has changed since the plan was made; run the command again"
        )


def _plugin(name: str) -> BaseFacts:
    """The facts of a base that is known by name."""
    described = registry.describe("backbones", name)
    spec = described.spec
    if described.broken:
        raise ArtefactError(f"base {name}: the plug-in cannot be read: {described.broken}")
    if spec.get("folder"):
        found = find_spec(described.module)
        folder = Path(str(found.origin if found else "")).parent / str(spec["folder"])
        if not (folder / "model_index.json").is_file():
            raise ModelMissing(f"base {name}: its weights are not installed; install creatok again")
        return _folder(name, folder, plugin=name)
    if "PICTURES" in described.facts:
        raise ModelMissing(f"base {name}: name its folder of pictures: --base {name}:DIR")
    width, height = spec.get("size_px", (64, 64))
    return BaseFacts(
        name=name,
        backbone=name,
        folder="",
        digest="sha256:" + sha256_hex(canonical_json([name, described.line, dict(spec)])),
        licence=str(spec.get("licence", "none")),
        steps=int(spec.get("steps", 1)),
        guidance=float(spec.get("guidance", 1.0)),
        size_px=(int(width), int(height)),
        size_multiple=int(spec.get("size_multiple", 1)),
        schedulers=tuple(described.facts.get("SCHEDULERS", ("none",))),
        dtype=str(spec.get("dtype", "fp32")),
        threads=int(spec.get("threads", 0)),
    )


def _pictures(name: str, backbone: str, path: str) -> BaseFacts:
    """The facts of a base that is a folder of pictures, or one file that holds them."""
    from creatok_cli.backbones._els_sprites import load_sprites

    place = registry.preset_path(os.path.expanduser(path))
    if not path or "\0" in path or not place.exists():
        raise ModelMissing(f"base {name[:200]!r}: no such folder of pictures")
    sprites = load_sprites(place)
    described = registry.describe("backbones", backbone)
    spec = described.spec
    return BaseFacts(
        name=name,
        backbone=backbone,
        folder=str(place.resolve()),
        digest=sprites.digest,
        licence=str(spec["licence"]),
        steps=int(spec["steps"]),
        guidance=float(spec["guidance"]),
        size_px=sprites.size_px,
        size_multiple=1,
        schedulers=tuple(described.facts["SCHEDULERS"]),
        dtype=str(spec["dtype"]),
        max_side_px=max(sprites.size_px),
        batch_rows=tuple((int(side), int(rows)) for side, rows in spec["batch_rows"]),
        threads=int(spec["threads"]),
    )


def _repository(asked: BaseName, pins: Pins) -> BaseFacts:
    """The facts of a repository that is in the Hub's cache. Raises ModelMissing where it is not."""
    folder = cached(asked.repo, asked.revision, pins)
    served = pipelines().get(str(read_index(folder).get("_class_name")), "")
    facts = registry.describe("backbones", served).facts if served else {}
    prior = None
    if "PRIOR_NAMES" in facts:
        prior = cached(prior_repo(asked.repo, *facts["PRIOR_NAMES"]), MAIN, pins)
    return _folder(asked.text, folder, asked=asked.backbone, prior=prior)


def cached(repo: str, revision: str, pins: Pins) -> Path:
    """The snapshot of a repository at its pin, else at the commit that was fetched last.

    Raises ModelMissing.
    """
    name = f"{repo}@{revision}"
    commit = pins.commit(name) or _hub_cache.cached_commit(repo, revision)
    folder = _hub_cache.snapshot_folder(repo, commit)
    if folder is not None:
        return folder
    where = pins.where(name)
    pinned = f" at commit {commit[:12]}" + (f", which {where} says" if where else "")
    raise ModelMissing(
        f"{name}{pinned if commit else ''} is not on this machine (licence {usual_licence(repo)}): "
        f"without --dry-run and --offline creatok fetches it; so does: hf download {repo}"
        + (f" --revision {commit or revision}" if commit or revision != MAIN else "")
    )


def _checkpoint(asked: BaseName, pins: Pins) -> BaseFacts:
    """The facts of one checkpoint; its folder may not be there before `_fetch.obtain` made it."""
    checkpoint = read_checkpoint(Path(asked.path).resolve())
    if asked.backbone not in ("", checkpoint.family):
        raise Refused(
            f"{asked.path}: this is a model for {checkpoint.family}, not for {asked.backbone}"
        )
    if asked.configs:
        configs = Path(asked.configs).resolve()
    else:
        configs = cached(usual_repo(checkpoint.family), MAIN, pins)
    digest = _checkpoint_digest(checkpoint, configs)
    facts = _folder(asked.text, configs, asked=checkpoint.family, has_weights=False)
    return replace(
        facts,
        folder=str(converted_folder(digest)),
        checkpoint=str(checkpoint.path),
        configs=str(configs),
        digest=digest,
        source="",
        licence=checkpoint.layout.metadata.get("modelspec.license", "unknown")[:80],
        threads=1 if checkpoint.denoiser_bytes < LIGHT_BYTES else 0,
    )


def _checkpoint_digest(checkpoint: Checkpoint, configs: Path) -> str:
    vetted = Vetted(configs, _family(checkpoint.family).facts["PARTS"])
    rows = card(configs).get("creatok_t5_zero_rows")
    return name_of(checkpoint, vetted, [] if rows is None else [rows])


def usual_repo(name: str) -> str:
    """The repository that a family's name stands for."""
    return str(registry.describe("backbones", name).spec.get("repo", ""))


def usual_licence(repo: str) -> str:
    """What the family that knows a repository says of its licence."""
    for name in bases():
        spec = registry.describe("backbones", name).spec
        if repo in (spec.get("repo"), spec.get("prior_repo")):
            return str(spec.get("licence", "unknown"))
    return "unknown"


def prior_repo(repo: str, decoder: str, prior: str) -> str:
    """The repository of the prior that belongs to a decoder's."""
    return repo.removesuffix(decoder) + prior


def _folder(
    name: str,
    folder: Path,
    *,
    plugin: str = "",
    asked: str = "",
    prior: Path | None = None,
    has_weights: bool = True,
) -> BaseFacts:
    """Vet a diffusers folder and read what a plan must know from its configs and model card.

    `asked`: the family that it must be of. `prior`: where its prior lies, unless beside it.
    `has_weights`: off where the configs belong to a checkpoint elsewhere.
    """
    index = read_index(folder)
    adapter = plugin or _adapter(str(index.get("_class_name")), folder)
    if asked not in ("", adapter):
        raise Refused(f"{folder}: this is a model for {adapter}, not for {asked}")
    own, family = registry.describe("backbones", adapter), _family(adapter)
    vetted = Vetted(folder, family.facts["PARTS"])
    vetted.check_classes(index, family.facts["PARTS"])
    vetted.check_whole(index, family.facts.get("NEEDED_PARTS", ()))
    vetted.check_weights(index, family.facts["PARTS"], are_needed=has_weights)
    if prior is None and "PRIOR_NAMES" in family.facts:
        prior = prior_folder(folder, *family.facts["PRIOR_NAMES"])
    of_prior = _prior(prior, family) if prior else None
    words = of_prior or vetted
    spec: dict[str, Any] = dict(family.spec) | dict(own.spec) | _told(vetted, family)
    note = card(folder)
    side, multiple, largest = _geometry(vetted, int(spec["size_px"][0]))
    steps = vetted.config("scheduler/scheduler_config.json")
    return BaseFacts(
        name=name,
        backbone=adapter,
        folder=str(folder),
        prior_folder=str(prior or ""),
        source=_source(folder),
        digest=_digest(vetted, note, of_prior) if has_weights else "",
        licence=licence_of(folder, str(spec["licence"]) if plugin else _usual(folder)),
        steps=int(note.get("creatok_steps", spec["steps"])),
        guidance=float(note.get("creatok_guidance", spec["guidance"])),
        size_px=_card_size(note, folder) or (side, side),
        size_multiple=multiple,
        schedulers=offered(family.facts["SCHEDULERS"], steps),
        dtype=str(spec.get("dtype", "fp32")),
        max_prompt_tokens=_prompt_length(words) - 2,
        encoders=tuple(
            (encoder, words.number(f"{part}/config.json", "hidden_size"))
            for encoder, part in family.facts.get("ENCODERS", ENCODERS)
            if part in words.config("model_index.json")
        ),
        max_side_px=largest,
        batch_rows=tuple((int(side), int(rows)) for side, rows in spec["batch_rows"]),
        can_start=bool(family.facts.get("CAN_START", False)),
        threads=1 if _denoiser_bytes(vetted) < LIGHT_BYTES else 0,
    )


def _told(vetted: Vetted, family: registry.PluginFacts) -> dict[str, Any]:
    """Defaults of a kind of model within the family that a config gives away; a key that is not
    there counts as false.
    """
    told: dict[str, Any] = {}
    for config, key, value, defaults in family.facts.get("DEFAULTS_WHERE", ()):
        if vetted.config(config).get(key, False) == value:
            told |= dict(defaults)
    return told


def _source(folder: Path) -> str:
    """`owner/repo@commit` of a snapshot in the Hub's cache, empty for any other folder."""
    repo = _hub_cache.repo_of(folder)
    return f"{repo}@{folder.name}" if repo else ""


def _usual(folder: Path) -> str:
    return usual_licence(_hub_cache.repo_of(folder))


def _denoiser_bytes(vetted: Vetted) -> int:
    """Size of the weight files that run at every step."""
    return sum(
        path.stat().st_size
        for name, path in vetted.files.items()
        if name.startswith(("transformer/", "unet/")) and name.endswith(WEIGHTS)
    )


def _family(adapter: str) -> registry.PluginFacts:
    """Of the plug-in whose classes an adapter opens."""
    own = registry.describe("backbones", adapter)
    return registry.describe("backbones", str(own.facts.get("ADAPTER", adapter)))


def prior_folder(folder: Path, decoder: str, prior: str) -> Path:
    """Where the prior of a decoder's folder lies: beside it, under the name of its repository.

    `decoder` and `prior` are the ends of both names: `kandinsky-2-2-decoder` and
    `kandinsky-2-2-prior`. Raises ModelMissing.
    """
    beside = folder.with_name(folder.name.removesuffix(decoder) + prior)
    if not (beside / "model_index.json").is_file():
        raise ModelMissing(
            f"{folder}: the repository of its prior is missing: it belongs beside it, as {beside}"
        )
    return beside


def _prior(folder: Path, family: registry.PluginFacts) -> Vetted:
    """The vetted folder of a prior."""
    facts = family.facts
    vetted = Vetted(folder, facts["PRIOR_PARTS"])
    index = vetted.config("model_index.json")
    if index.get("_class_name") != facts["PRIOR_PIPELINE"]:
        raise Refused(
            f"{vetted.folder}: model_index.json says {str(index.get('_class_name'))[:60]!r}; "
            f"here belongs {facts['PRIOR_PIPELINE']}"
        )
    vetted.check_classes(index, facts["PRIOR_PARTS"])
    vetted.check_weights(index, facts["PRIOR_PARTS"])
    return vetted


def _digest(vetted: Vetted, note: Mapping[str, Any], prior: Vetted | None = None) -> str:
    """The digest of what draws, with the one number of the model card that changes pixels."""
    more = [note.get("creatok_t5_zero_rows"), prior.digest if prior else None]
    told = " ".join([vetted.digest, *(str(each) for each in more if each is not None)])
    return vetted.digest if told == vetted.digest else f"sha256:{sha256_hex(told)}"


def _adapter(pipeline: str, folder: Path) -> str:
    """The plug-in that opens a pipeline class."""
    known = pipelines()
    if pipeline not in known:
        raise Refused(
            f"{folder}: model_index.json says {pipeline[:60]!r}; creatok opens {', '.join(known)}"
        )
    return known[pipeline]


def _prompt_length(vetted: Vetted) -> int:
    """Positions of a prompt: the first tokenizer's limit, as in diffusers, within the encoder's."""
    positions = vetted.number("text_encoder/config.json", "max_position_embeddings")
    limit: Any = vetted.config("tokenizer/tokenizer_config.json").get("model_max_length")
    fits = isinstance(limit, int | float) and limit >= 3
    return min(positions, int(limit)) if fits else positions


def _geometry(vetted: Vetted, usual: int) -> tuple[int, int, int | None]:
    """(default side, multiple of a side, largest side or None), in pixels; `usual` where the
    configs name no side.
    """
    if vetted.config("movq/config.json"):
        scale = _scale(vetted, "movq")
        # The pipelines round latents up to multiples of this factor: Kandinsky's convolutions.
        return vetted.number("unet/config.json", "sample_size") * scale, scale * scale, None
    scale = _scale(vetted, "vae")
    if vetted.config("unet/config.json"):
        return vetted.number("unet/config.json", "sample_size") * scale, scale, None
    config = vetted.config("transformer/config.json")
    if "sample_size" not in config:  # FLUX packs 2 x 2 latents and turns positions, of any number
        return usual, 2 * scale, None
    patch = vetted.number("transformer/config.json", "patch_size")
    side = vetted.number("transformer/config.json", "sample_size")
    places = vetted.number("transformer/config.json", "pos_embed_max_size", side // patch)
    return side * scale, patch * scale, places * patch * scale


def _scale(vetted: Vetted, part: str) -> int:
    """Pixels per latent, along each side."""
    blocks = vetted.config(f"{part}/config.json").get("block_out_channels") or [0]
    return int(2 ** (len(blocks) - 1))


def card(folder: Path) -> dict[str, Any]:
    """The plain `key: value` lines of the model card's front matter; our numbers are checked.

    Known keys: license, creatok_steps, creatok_guidance, creatok_size (64x64) and
    creatok_t5_zero_rows, which is the `max_sequence_length` for plain diffusers.
    """
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            head = file.read(65536)
    except OSError:
        return {}
    match = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*\n", head, re.DOTALL)
    front = match.group(1) if match else ""
    lines = re.findall(r"^([A-Za-z_0-9]+):[ \t]+(\S.*?)[ \t]*$", front, re.MULTILINE)
    note: dict[str, Any] = {key: value.strip("\"'") for key, value in lines}
    for key, kind in CARD_NUMBERS.items():
        if key in note:
            try:
                note[key] = kind(note[key])
            except ValueError:
                found = note[key][:40]
                raise ArtefactError(
                    f"{folder}/README.md: {key} must be a number, found {found!r}"
                ) from None
    return note


def _card_size(note: Mapping[str, Any], folder: Path) -> tuple[int, int] | None:
    text = note.get("creatok_size")
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match:
        raise ArtefactError(f"{folder}/README.md: creatok_size must look like 64x64")
    return int(match.group(1)), int(match.group(2))
