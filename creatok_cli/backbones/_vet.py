"""What may stand in a model folder: safetensors and configs, nothing that runs or points outside.

Why each refusal: `auto_map`, `trust_remote_code`, `_attn_implementation` and unknown classes lead
the libraries to fetch or import code; `.bin`, `.pt` and `.ckpt` are pickles; an
`adapter_config.json`, a link or a weight index can point elsewhere.

What is opened are the parts that a family names, each from its own folder; pictures, papers and
checkpoints beside those folders are never opened and are passed over. A snapshot of the Hub's cache
belongs to other tools as well: there a pickle beside the safetensors of its part is passed over,
too, for the loaders are told to look for safetensors alone.

Does not: import torch, or open a weight beyond its header.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from creatok_cli import config, durable
from creatok_cli.backbones._hub_cache import repo_of
from creatok_cli.errors import ArtefactError, CreatokError, ModelMissing, Refused
from creatok_cli.hashing import sha256_hex
from creatok_cli.tokens._layout import Layout, describe_content, read_layout

CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb"})
PICKLES = frozenset(
    {
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".pkl",
        ".pickle",
        ".joblib",
        ".msgpack",
        ".h5",
        ".npy",
        ".npz",
    }
)
WEIGHTS = ".safetensors"
STEM = r"(diffusion_pytorch_model|model)"
PLAIN = re.compile(STEM + r"(-\d{5}-of-\d{5}\.safetensors|\.safetensors(\.index\.json)?)")
HALF = re.compile(
    STEM + r"(\.fp16(-\d{5}-of-\d{5})?\.safetensors|\.safetensors\.index\.fp16\.json"
    r"|\.fp16\.safetensors\.index\.json)"
)
"""The names of weights and their index that the loaders look for: as they are, or in fp16."""
INDEX = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")
OTHER_INDEX = re.compile(r"\.index(\.\w+)?\.json$")
"""Of shards: in a part, only that of the chosen weights is opened."""
TEXTS = (".json", ".txt", ".model")
"""Configs and word lists."""
DATA_JSON = frozenset({"vocab.json", "tokenizer.json"})
"""Word lists: large, and read as data by the tokenizer library."""
MODEL_INDEX = "model_index.json"
FORBIDDEN_FILES = frozenset({"adapter_config.json", "adapter_model.safetensors"})
FORBIDDEN_KEYS = frozenset(
    {
        *("auto_map", "trust_remote_code", "custom_pipeline", "custom_generate", "use_kernels"),
        *("transformers_weights", "quantization_config", "fast_tokenizer_files", "kernel_config"),
        *("distributed_config", "fusion_config", "use_flashpack"),
    }
)
FORBIDDEN_STARTS = ("attn_implementation", "experts_implementation")
CLASS_KEYS = (
    *("_class_name", "tokenizer_class", "processor_class"),
    *("image_processor_type", "feature_extractor_type"),
)
ALSO_KNOWN = frozenset(
    {"CLIPModel", "CLIPVisionModelWithProjection", "CLIPImageProcessor", "TokenizersBackend"}
)
"""Classes of data that may lie beside a pipeline; none is opened by name from a config."""
LIBRARIES = ("diffusers", "transformers", "kandinsky")
"""What model_index.json may name as the home of a class; `kandinsky` is a folder of diffusers."""
WEIGHTY = ("Model", "Projection", "KL", "Transformer", "CLIP")
"""How the names of classes with weights end."""
NEVER_OPENED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of real repositories that no adapter opens unless its family names them."""
ALSO_OPENED = ("image_encoder_l", "image_encoder_g", "judge")
"""Folders beside a pipeline that priors, labelers and judges read; they draw nothing, so they are
in no digest.
"""
MAX_CONFIG_BYTES = 2**20
MAX_INDEX_BYTES = 2**22
MAX_DATA_BYTES = 2**26
MAX_HEADER_BYTES = 2**24
"""Of a weight file: the largest known one has 1 MiB."""
MAX_FILES = 2000
MAX_NUMBER, MAX_LAYERS, MAX_BLOCKS = 2**24, 1024, 256
"""Larger sizes in a config are made to fill the memory before a weight is read."""
SIZED = ("config.json", "scheduler_config.json")
"""Configs from which models are built."""

Parts = Mapping[str, Sequence[str]]
"""Part of a pipeline -> the classes that its adapter opens for it."""


class DigestCache:
    """sha256 of files, remembered by (device, inode, size, modification time)."""

    def __init__(self) -> None:
        self._folder = config.home() / "cache"
        self._known: dict[str, str] = {}
        self._fresh = False
        with suppress(OSError, ValueError, AttributeError):
            content = json.loads((self._folder / "digests.json").read_text(encoding="utf-8"))
            self._known = {str(key): str(value) for key, value in content.items()}

    @staticmethod
    def _mark(path: Path) -> str:
        facts = path.stat()
        return f"{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}"

    def knows(self, path: Path) -> bool:
        """Whether this very file was read whole, and passed, before."""
        return self._mark(path) in self._known

    def digest(self, path: Path) -> str:
        """64 hex digits."""
        mark = self._mark(path)
        if mark not in self._known:
            self._known[mark] = durable.sha256_file(path)
            self._fresh = True
        return self._known[mark]

    def remember(self, path: Path, digest: str) -> None:
        """Take the digest of a file that was read whole just now."""
        self._known[self._mark(path)] = digest
        self._fresh = True

    def save(self) -> None:
        """Keep what is new; a cache that cannot be written is no fault."""
        if self._fresh:
            with suppress(OSError, CreatokError):
                durable.open_root(self._folder, create=True)
                data = json.dumps(self._known, sort_keys=True).encode()
                writer = durable.Writer(run=durable.new_run())
                durable.replace_derived(self._folder, "digests.json", data, writer=writer)


def chosen(names: Iterable[str]) -> tuple[frozenset[str], str | None]:
    """Of the file names of one part: the weights and index that are opened, and their variant."""
    every = tuple(names)
    plain = frozenset(name for name in every if PLAIN.fullmatch(name))
    if any(name.endswith(WEIGHTS) for name in plain):
        return plain, None
    half = frozenset(name for name in every if HALF.fullmatch(name))
    return (half, "fp16") if half else (plain, None)


def weight_files(folder: Path | str, part: str) -> list[Path]:
    """The weights of one part that are opened, without another variant that lies beside them."""
    place = Path(folder) / part
    names = chosen(path.name for path in place.glob(f"*{WEIGHTS}*"))[0]
    return [place / name for name in sorted(names) if name.endswith(WEIGHTS)]


def wanted(names: Iterable[str], parts: Iterable[str]) -> frozenset[str]:
    """Of the relative names of a folder: those that are opened. They alone make its digest."""
    inside: dict[str, list[str]] = {part: [] for part in parts}
    found = {MODEL_INDEX}
    for name in names:
        part, slash, rest = name.partition("/")
        if slash and part in inside and "/" not in rest:
            inside[part].append(rest)
    for part, rests in inside.items():
        weights, _ = chosen(rests)
        found |= {f"{part}/{name}" for name in (*weights, *filter(is_text, rests))}
    return frozenset(found)


def is_text(name: str) -> bool:
    """Whether a file is a config or a word list."""
    return name.endswith(TEXTS) and not OTHER_INDEX.search(name)


def read_index(folder: Path) -> Mapping[str, Any]:
    """The checked model_index.json of a folder. Raises ModelMissing, Refused or ArtefactError."""
    path = folder / MODEL_INDEX
    if not path.is_file():
        raise ModelMissing(f"{folder}: no {MODEL_INDEX}: not a diffusers folder")
    content = _config(path, f"{folder}: {MODEL_INDEX}")
    return content if isinstance(content, dict) else {}


class Vetted:
    """A folder that passed: its files, parsed configs and digest.

    Raises Refused, DigestMismatch (a damaged weight file) or ArtefactError, naming file and reason.
    """

    def __init__(self, folder: Path, parts: Parts) -> None:
        self.folder = folder
        self.files = dict(_walk(folder))
        self.configs: dict[str, Any] = {MODEL_INDEX: read_index(folder)}
        self._cache = DigestCache()
        self._folders = {part.casefold() for part in (*parts, *ALSO_OPENED)}
        for relative, path in self.files.items():
            self._check_file(relative, path)
        for relative, content in self.configs.items():
            if INDEX.search(relative):
                self._check_shards(relative, content)

    @cached_property
    def digest(self) -> str:
        """`sha256:` over the sorted (name, digest) lines of what draws; reads what is new.

        What draws: `model_index.json` and, of the parts that it names, what the loaders open. A
        corrected model card, another variant or a folder beside them is no new base.
        """
        return self._digest_of(wanted(self.files, self._named))

    def text_digest(self, weighty: Iterable[str]) -> str:
        """The same of the texts alone: of the parts in `weighty`, of tokenizers and schedulers."""
        others = {part for part in self._named if part.startswith(("tokenizer", "scheduler"))}
        names = wanted(self.files, others | (set(weighty) & self._named))
        return self._digest_of(name for name in names if is_text(name))

    @property
    def _named(self) -> set[str]:
        """Parts that are opened and that the index has."""
        index = self.config(MODEL_INDEX)
        named = {part for part, entry in index.items() if isinstance(entry, list) and any(entry)}
        return {part for part in named if part.casefold() in self._folders}

    def _digest_of(self, names: Iterable[str]) -> str:
        lines = "".join(
            f"{name}\0{self._cache.digest(self.files[name])}\n" for name in sorted(names)
        )
        self._cache.save()
        return "sha256:" + sha256_hex(lines)

    def _check_file(self, relative: str, path: Path) -> None:
        name, suffix, where = path.name.lower(), path.suffix.lower(), f"{self.folder}: {relative}"
        if suffix in CODE or name in FORBIDDEN_FILES:
            raise Refused(f"{where} could bring code or weights from elsewhere: remove it")
        part, slash, _ = relative.partition("/")
        if not slash or part.casefold() not in self._folders:
            return  # never opened
        if suffix in PICKLES:
            self._check_twin(part, where)
        if suffix == WEIGHTS and not self._cache.knows(path):
            check_header(path, where)
        if name in DATA_JSON and not self._cache.knows(path):
            _config(path, where, MAX_DATA_BYTES)
        elif suffix == ".json" and name not in DATA_JSON:
            limit = MAX_INDEX_BYTES if OTHER_INDEX.search(name) else MAX_CONFIG_BYTES
            self.configs[relative] = _config(path, where, limit)
            if name in SIZED:
                _check_sizes(self.configs[relative], where)
        elif suffix in TEXTS and path.stat().st_size > MAX_DATA_BYTES:
            raise Refused(f"{where} is too large for a word list")

    def _check_twin(self, part: str, where: str) -> None:
        """Raise Refused for a pickle, unless it lies in the Hub's cache beside safetensors."""
        inside = [name.partition("/")[2] for name in self.files if name.startswith(f"{part}/")]
        has_other = any(name.endswith(WEIGHTS) for name in chosen(inside)[0])
        if has_other and repo_of(self.folder):
            return
        what = "delete it; its part has safetensors" if has_other else "use safetensors only"
        raise Refused(f"{where} may be a pickle, which can run code: {what}")

    def _check_shards(self, relative: str, index: Any) -> None:
        shards = index.get("weight_map") if isinstance(index, dict) else None
        for shard in set(shards.values()) if isinstance(shards, dict) else {None}:
            plain = isinstance(shard, str) and re.fullmatch(
                r"[\w-]+(\.[\w-]+)*\.safetensors", shard
            )
            if not plain:
                raise Refused(
                    f"{self.folder}: {relative} names the shard {str(shard)[:80]!r}, "
                    "which is no plain file name"
                )
            if f"{relative.rpartition('/')[0]}/{shard}".lstrip("/") not in self.files:
                raise ModelMissing(f"{self.folder}: {relative} lacks its shard {shard}")

    def check_classes(self, index: Mapping[str, Any], parts: Parts) -> None:
        """Every class that a config names must be one that the adapter opens by name itself."""
        for part, entry in index.items():
            if not isinstance(entry, list) or entry == [None, None]:
                continue
            if part in NEVER_OPENED and part not in parts:
                continue
            library, kind = entry if len(entry) == 2 else (None, None)
            known = part in parts and kind in parts[part]
            if not known or library not in LIBRARIES:
                raise Refused(
                    f"{self.folder}: model_index.json names {str(entry)[:100]} for {part[:40]!r}; "
                    f"creatok opens {list(parts.get(part, ()))}"
                )
        every = {kind for kinds in parts.values() for kind in kinds} | ALSO_KNOWN
        every.add(str(index.get("_class_name")))
        for relative, content in self.configs.items():
            if isinstance(content, dict):
                named = [content[key] for key in CLASS_KEYS if content.get(key) is not None]
                more = content.get("architectures")
                for kind in [*named, *(more if isinstance(more, list) else [])]:
                    if not isinstance(kind, str) or kind not in every:
                        raise Refused(
                            f"{self.folder}: {relative} names the class {str(kind)[:60]!r}, "
                            "which creatok does not open"
                        )

    def check_weights(
        self, index: Mapping[str, Any], parts: Parts, *, are_needed: bool = True
    ) -> None:
        """Every part has files, and a part with weights has safetensors. Raises ModelMissing."""
        for part in parts:
            entry = index.get(part)
            if not isinstance(entry, list) or entry == [None, None]:
                continue
            inside = [name.partition("/")[2] for name in self.files if name.startswith(f"{part}/")]
            if are_needed and str(entry[1]).endswith(WEIGHTY):
                if not any(name.endswith(WEIGHTS) for name in chosen(inside)[0]):
                    raise ModelMissing(f"{self.folder}: {part} has no safetensors weights")
            elif not inside:
                raise ModelMissing(f"{self.folder}: the folder {part} is missing or empty")

    def check_whole(self, index: Mapping[str, Any], needed: Sequence[str]) -> None:
        """The pipeline has every part without which it cannot draw. Raises ModelMissing."""
        for part in needed:
            entry = index.get(part)
            if not isinstance(entry, list) or not any(entry):
                raise ModelMissing(
                    f"{self.folder}: model_index.json has no {part}: creatok draws with "
                    f"{', '.join(needed)}"
                )

    def config(self, relative: str) -> Mapping[str, Any]:
        """A parsed config, empty when it is not there or is no object."""
        content = self.configs.get(relative, {})
        return content if isinstance(content, dict) else {}

    def number(self, relative: str, key: str, default: int | None = None) -> int:
        """A positive whole number of a config. Raises ArtefactError."""
        value = self.config(relative).get(key, default)
        if not isinstance(value, int) or not 0 < value < 2**31:
            raise ArtefactError(
                f"{self.folder}: {relative}: {key} must be a positive number, "
                f"found {str(value)[:40]!r}"
            )
        return value


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """(relative name with '/', path) of every file; hidden names left out, links must stay inside.

    A snapshot of the Hub's cache links into the `blobs` folder beside it, and that into the `blobs`
    folder of the cache: for that layout both count as inside.
    """
    inside = [folder.resolve()]
    if repo_of(inside[0]):
        model = inside[0].parent.parent
        inside += [model / "blobs", model.parent / "blobs"]
    count = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        links = [each for each in folders if (Path(root) / each).is_symlink()]
        for each in (*links, *sorted(names)):
            path = Path(root) / each
            relative = path.relative_to(folder).as_posix()
            if each.startswith("."):
                continue
            real = Path(os.path.realpath(path))
            if path.is_symlink() and not any(real.is_relative_to(place) for place in inside):
                raise Refused(f"{folder}: {relative} is a link out of the folder")
            if not path.exists() or not stat.S_ISREG(path.stat().st_mode):
                raise Refused(f"{folder}: {relative} is not a regular file")
            count += 1
            if count > MAX_FILES:
                raise Refused(f"{folder}: more than {MAX_FILES} files: not a model folder")
            yield relative, path


def check_header(path: Path, where: str) -> Layout:
    """The layout of a weight file. Raises Refused or DigestMismatch."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if MAX_HEADER_BYTES < length < path.stat().st_size:
            raise Refused(
                f"{where}: this is no safetensors file of a model: the header is too long"
            )
        file.seek(0)
        return read_layout(file, path.stat().st_size, where)


def _config(path: Path, where: str, limit: int = MAX_CONFIG_BYTES) -> Any:
    if path.stat().st_size > limit:
        raise Refused(f"{where} is too large for a config")
    with path.open("rb") as file:
        head = file.read(64)
    if not head.lstrip().startswith((b"{", b"[")) and describe_content(head):
        raise Refused(f"{where}: this is {describe_content(head)}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        _check_keys(content, where)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{where} is no valid JSON: {str(error)[:100]}") from None
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are there once: two readers of a double one may see two configs."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _check_sizes(value: Any, where: str, key: str = "") -> None:
    """No number or list with which a model would never be built in the memory of a machine."""
    inner: list[tuple[str, Any]] = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        inner = [(key, each) for each in value]
        if len(value) > MAX_BLOCKS and key not in ("trained_betas", "prune_heads"):
            raise Refused(f"{where}: {key[:60]!r} is a list of {len(value)}: no known model is so")
    for name, each in inner:
        _check_sizes(each, where, str(name))
    if isinstance(value, int) and abs(value) > (MAX_LAYERS if "layers" in key else MAX_NUMBER):
        raise Refused(f"{where}: {key[:60]!r} is far larger than in any known model")


def _check_keys(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            plain = key.lstrip("_").lower()
            forbidden = plain in FORBIDDEN_KEYS or plain.startswith(FORBIDDEN_STARTS)
            if plain.endswith("_autoset") and isinstance(inner, bool):
                forbidden = False  # written by transformers 4.48 to 4.52: a note, names nothing
            if forbidden and inner not in (None, False, {}, []):
                raise Refused(f"{where} says {key!r}, which can fetch or run code: remove the line")
            _check_keys(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _check_keys(inner, where)
