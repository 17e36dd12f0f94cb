"""PNG bytes and what creatok writes into them: recipe, A1111 parameters, XMP mark.

The `creatok` chunk stands first, right after IHDR, so that the head of a file tells its key. It
holds the whole recipe (a job can be made from it), the hash of the pixels and the stack, and no
time, path, host, slot or worker: the same picture has the same bytes. Grammar of `parameters`:
AUTOMATIC1111/stable-diffusion-webui. Mark: IPTC Photo Metadata 2025.1, DigitalSourceType and
AISystemUsed, as iTXt because Pillow ignores `xmp=` for PNG.

Does not: touch files.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

from creatok_cli import __version__
from creatok_cli.domain import RENDER_VERSION, Job, Provenance, Rendered, Scalar
from creatok_cli.hashing import IDENTITY, canonical_json, content_key, identity, sha256_hex
from creatok_cli.sinks.base import MetadataMode, base_label

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = 1
SIGNATURE = b"\x89PNG\r\n\x1a\n"
IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"
IHDR_END = len(SIGNATURE) + 25
KEYWORD = "creatok"
XMP_KEYWORD = "XML:com.adobe.xmp"
HEAD = 4096
"""The key of a picture stands within the first 4096 bytes."""
MAX_TEXT = 4 << 20
MAX_FILE = 512 << 20
MAX_PIXELS = 64_000_000
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


class NotWhole(ValueError):
    """These bytes are not a whole PNG: cut, flipped or something else."""


class NotOurs(ValueError):
    """A whole PNG without a (complete, consistent) recipe of creatok."""


def pixel_hash(image: Image) -> str:
    """sha256 over mode, size and raw pixels: equal for equal pictures whatever the compression."""
    head = f"{image.mode} {image.width}x{image.height}\n".encode()
    return sha256_hex(head + image.tobytes())


def encode_png(result: Rendered, *, mode: MetadataMode, pixels: str) -> bytes:
    """The bytes of a picture file: zlib level 1 and the metadata of `mode`; equal input, equal
    bytes."""
    clean = result.image.copy()
    # A copy per file: Pillow keeps encoder settings on the image, and its info dict could leak into
    # chunks.
    clean.info = {}
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    return data[:IHDR_END] + b"".join(_chunks(result, mode, pixels)) + data[IHDR_END:]


def _chunks(result: Rendered, mode: MetadataMode, pixels: str) -> Iterator[bytes]:
    if mode == "none":
        return
    job, facts = result.job, dict(result.facts)
    base = base_label(str(facts.pop("base", job.base)))
    licence = facts.pop("licence", None)
    recipe: dict[str, Any] = {
        "schema": SCHEMA,
        "creatok": __version__,
        "key": job.key,
        "pixels": pixels,
        "seed": job.seed,
    }
    if mode == "full":
        del recipe["seed"]
        recipe |= {
            "base": base,
            "class": result.provenance.batch_effective,
            "licence": licence,
            "recipe": identity(job),
            "versions": dict(result.provenance.versions),
        }
        if facts:
            # Sorted behind the key, however long: the key must stay within `HEAD`.
            recipe["notes"] = facts
    yield _itxt(KEYWORD, json_bytes(recipe))
    if mode == "full":
        yield _text("parameters", parameters(job, base, result.provenance))
    yield _itxt(XMP_KEYWORD, xmp(job, base, prompt=mode == "full").encode())


def json_bytes(value: Any) -> bytes:
    """Canonical JSON as UTF-8; text that UTF-8 cannot say (lone surrogates) is escaped."""
    try:
        return canonical_json(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parameters(job: Job, base: str, provenance: Provenance) -> str:
    """The text that A1111, Forge and most viewers read."""
    pairs: list[tuple[str, Scalar]] = [
        ("Steps", job.steps),
        ("Sampler", job.scheduler),
        ("CFG scale", job.guidance),
        ("Seed", job.seed),
        ("Size", f"{job.size_px[0]}x{job.size_px[1]}"),
        ("Model hash", short(job.base_digest)),
        ("Model", base),
    ]
    if job.strength is not None:
        pairs.append(("Denoising strength", job.strength))
    if job.weights:
        pairs.append(("Lora hashes", _named((short(d), f"{s:g}") for d, s in job.weights)))
    if job.tokens:
        pairs.append(("TI hashes", _named(job.tokens)))
    pairs.append(("Version", f"creatok {__version__}"))
    lines = [job.prompt]
    if job.negative:
        lines.append(f"Negative prompt: {job.negative}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in pairs))
    return "\n".join(lines)


def short(digest: str) -> str:
    """The first 10 hex digits, as A1111 tells files apart."""
    return digest.rpartition(":")[2][:10]


def _named(pairs: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in pairs)


def _quoted(value: Scalar) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text


def xmp(job: Job, base: str, *, prompt: bool) -> str:
    """The XMP packet: how the picture came to be, which system made it, and the prompt where
    asked."""
    kind = "trainedAlgorithmicMedia"
    if job.init_image is not None:
        kind = "compositeWithTrainedAlgorithmicMedia"
    fields = {
        "DigitalSourceType": SOURCE_TYPES + kind,
        "AISystemUsed": f"creatok {base}",
        "AISystemVersionUsed": __version__,
    }
    if prompt:
        fields["AIPromptInformation"] = job.prompt
    inner = "".join(
        f"<Iptc4xmpExt:{name}>{escape(_xml_text(value))}</Iptc4xmpExt:{name}>"
        for name, value in fields.items()
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    )


def _xml_text(text: str) -> str:
    """Characters that XML 1.0 cannot hold become U+FFFD."""
    return "".join(c if c in "\t\n\r" or _xml_char(ord(c)) else "\ufffd" for c in text)


def _xml_char(code: int) -> bool:
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _itxt(keyword: str, data: bytes) -> bytes:
    return _chunk(b"iTXt", keyword.encode() + b"\x00\x00\x00\x00\x00" + data)


def _text(keyword: str, text: str) -> bytes:
    """tEXt where every character is printable Latin-1 or a line feed, else iTXt."""
    if all(c == "\n" or " " <= c <= "~" or "\xa0" <= c <= "\xff" for c in text):
        return _chunk(b"tEXt", keyword.encode() + b"\x00" + text.encode("latin-1"))
    safe = text.replace("\x00", "\ufffd").encode("utf-8", "replace")
    return _itxt(keyword, safe)


def iter_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, contents) of each chunk. Raises NotWhole at the first fault, also for bytes after
    IEND."""
    if not data.startswith(SIGNATURE):
        raise NotWhole("no PNG signature")
    view, at = memoryview(data), len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise NotWhole("cut off")
        (length,) = struct.unpack_from(">I", data, at)
        kind = bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise NotWhole("cut off")
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise NotWhole(f"checksum of {kind!r} differs")
        yield kind, view[at + 8 : end - 4]
        at = end
    if at != len(data):
        raise NotWhole("bytes after the end")


def read_recipe(data: bytes) -> dict[str, Any]:
    """The `creatok` chunk of PNG bytes, checked to be a whole PNG. Raises NotWhole, NotOurs."""
    found: Any = None
    start = KEYWORD.encode() + b"\x00\x00\x00"
    for kind, contents in iter_chunks(data):
        if kind != b"iTXt" or len(contents) > MAX_TEXT or found is not None:
            continue
        raw = bytes(contents)
        if raw.startswith(start) and raw.count(b"\x00", len(start)) >= 2:
            try:
                found = json.loads(raw[len(start) :].split(b"\x00", 2)[2])
            except (ValueError, RecursionError) as error:
                raise NotOurs("its creatok chunk is not JSON") from error
    if not isinstance(found, dict):
        raise NotOurs("it has no creatok chunk")
    schema = found.get("schema")
    if type(schema) is not int or schema < 1:
        raise NotOurs("its creatok chunk has no schema")
    if schema > SCHEMA:
        raise NotOurs(f"its creatok chunk has schema {schema}; this version reads {SCHEMA}")
    if not isinstance(found.get("key"), str) or not isinstance(found.get("pixels"), str):
        raise NotOurs("its creatok chunk has no key")
    return found


def job_of(recipe: Mapping[str, Any]) -> Job:
    """The job that a full `creatok` chunk describes, with its key derived again. Raises NotOurs."""
    parts = recipe.get("recipe")
    if not isinstance(parts, dict):
        raise NotOurs("it was written with --metadata minimal and holds its key and seed only")
    if parts.get("render_version") != RENDER_VERSION:
        found = parts.get("render_version")
        raise NotOurs(f"it was drawn by render version {found}, this is {RENDER_VERSION}")
    try:
        fields = {name: _tuples(parts[name]) for name in IDENTITY}
        job = Job(base=str(recipe.get("base") or "bestiary"), **fields)
        _check_types(job)
        key = content_key(job)
    except (KeyError, TypeError, ValueError) as error:
        raise NotOurs(f"its recipe cannot be read: {error}") from error
    if key != recipe.get("key"):
        raise NotOurs("its recipe does not give its key: the metadata was changed")
    return Job(**{**_fields(job), "key": key})


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in (*IDENTITY, "base")}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check_types(job: Job) -> None:
    width, height = job.size_px
    plain = (
        isinstance(job.prompt, str)
        and isinstance(job.negative, str | None)
        and type(job.seed) is int
        and type(width) is int
        and type(height) is int
        and type(job.steps) is int
        and all(isinstance(text, str) for text in (job.base_digest, job.scheduler, job.dtype))
        and isinstance(job.init_image, str | None)
        and isinstance(job.strength, float | None)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in job.tokens)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in job.weights)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in job.options)
    )
    if not plain or not 0 <= job.seed < 2**63 or width * height > MAX_PIXELS or width < 1:
        raise ValueError("a value has the wrong type or range")


def judge(data: bytes, key: str) -> tuple[Literal["ours", "damaged", "other"], str, str]:
    """Whether these bytes are the whole picture of `key`: (verdict, reason, hash of its pixels).

    `ours`: every chunk checksum, the end, the key (derived again from the recipe where it is there)
    and the hash of the decoded pixels agree. `damaged`: not a whole PNG. `other`: a whole picture
    of something else, or an edited one.
    """
    try:
        recipe = read_recipe(data)
        if recipe["key"] != key:
            return "other", f"holds another picture ({recipe['key']})", ""
        if "recipe" in recipe:
            job_of(recipe)
        pixels = _decoded_hash(data)
    except NotWhole as error:
        return "damaged", str(error), ""
    except NotOurs as error:
        return "other", str(error), ""
    if pixels != recipe["pixels"]:
        return "other", "its pixels differ from its own record: it was edited", pixels
    return "ours", "", pixels


def _decoded_hash(data: bytes) -> str:
    from PIL import Image

    width, height = struct.unpack_from(">II", data, len(SIGNATURE) + 8)
    if width * height > MAX_PIXELS:
        raise NotOurs("too many pixels")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            return pixel_hash(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise NotWhole(f"cannot be decoded: {error}") from error
