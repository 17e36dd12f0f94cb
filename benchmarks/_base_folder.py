"""A folder in the layout of a real base with random weights, full-size or tiny.

Random weights suffice for speed and memory. They are scaled so that states keep their size from
layer to layer: pictures are finite and not flat, so that nothing is skipped for being broken.

Does not: look like anything; the vocabularies have the right sizes and know a few words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from _full_size import CLIP_WORDS, T5_WORDS, XLM_WORDS, Base, Part, Words, build

SHARD = "5GB"
"""Largest weight file, as in the published repositories."""
TINY_STEPS = 4
WORDS = "a photo of the pig snake owl dragon lion creative mixture in meadow red and fox".split()
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def write_base(
    base: Base, place: Path, *, is_tiny: bool, dtype: str, device: str, has_t5: bool = True
) -> Path:
    """The folder of a base inside `place`, its prior's beside it; what is there is kept. Random
    numbers are drawn on `device`, which must hold the largest part.
    """
    folder = place / base.repo.rpartition("/")[2]
    if not (folder / "model_index.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in base.parts if has_t5 or not _is_t5(base, name)]
        left = base.words if has_t5 else {k: v for k, v in base.words.items() if "T5" not in v.kind}
        for number, name in enumerate(names):
            _write_part(base.parts[name], folder / name, number, is_tiny, dtype, device)
        for name, words in left.items():
            write_words(words, folder / name, is_tiny=is_tiny)
        _write_rest(base, folder, is_tiny=is_tiny)
        _write_index(base, folder, [*names, *left])
    if base.prior is not None:
        write_base(base.prior, place, is_tiny=is_tiny, dtype=dtype, device=device)
    return folder


def _is_t5(base: Base, name: str) -> bool:
    return base.parts[name].kind.endswith("T5EncoderModel")


def _write_part(
    part: Part, folder: Path, number: int, is_tiny: bool, dtype: str, device: str
) -> None:
    config = {**part.config, **part.tiny} if is_tiny else part.config
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(DTYPES[dtype])
        with torch.device("meta"):
            model = build(part, config)
    finally:
        torch.set_default_dtype(usual)
    model.to_empty(device=device)
    fill(model, number)
    model.eval().save_pretrained(folder, max_shard_size=SHARD)
    del model


def fill(model: torch.nn.Module, seed: int) -> None:
    """Random numbers in place: rows of products with variance 1 / inputs, norms of one, no bias."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, tensor in _stored(model):
            if tensor.ndim >= 2:
                tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
            else:
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)
            if name in ("clip_mean", "clip_std"):  # the prior's embeddings, of length one
                tensor.fill_(float(name == "clip_std"))


def _stored(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What the file will hold, each tensor once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def write_words(words: Words, folder: Path, *, is_tiny: bool) -> None:
    """A tokenizer of the family's kind and size."""
    from transformers import T5Tokenizer, XLMRobertaTokenizer

    if words.kind == "CLIPTokenizer":
        _write_clip_words(folder, words.pad)
        return
    is_t5 = words.kind.startswith("T5")
    head = ["<pad>", "</s>", "<unk>"] if is_t5 else ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*head, "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz"]
    size = len(pieces) + 1 if is_tiny else (T5_WORDS if is_t5 else XLM_WORDS)
    pieces += [f"▁unused{n}" for n in range(size - len(pieces) - 1)] + ["<mask>"]
    scored = [(piece, 0.0 if piece in head else -3.0) for piece in pieces]
    if is_t5:
        tokenizer: Any = T5Tokenizer(vocab=scored, extra_ids=0, model_max_length=512)
    else:
        tokenizer = XLMRobertaTokenizer(vocab=scored, model_max_length=512)
    tokenizer.save_pretrained(folder)


def _write_clip_words(folder: Path, pad: str) -> None:
    """vocab.json, merges.txt and configs as CLIP repositories have them, of the published size."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces, merges = letters + [f"{letter}</w>" for letter in letters], []
    for word in WORDS:
        left = word[0]
        for place, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if place == len(word) - 1 else "")
            merges.append(f"{left} {right}")
            left += right
            pieces.append(left)
    pieces = list(dict.fromkeys(pieces))
    pieces += [f"unused{n}</w>" for n in range(CLIP_WORDS - len(pieces) - 2)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n"
    (folder / "merges.txt").write_text(lines, encoding="utf-8")
    special = {f"{name}_token": "<|endoftext|>" for name in ("eos", "unk")}
    special |= {"bos_token": "<|startoftext|>", "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = special | {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_rest(base: Base, folder: Path, *, is_tiny: bool) -> None:
    """Scheduler, picture processor, model card."""
    import diffusers

    kind, settings = base.scheduler
    getattr(diffusers, kind)(**settings).save_pretrained(folder / "scheduler")
    if "image_processor" in base.more:
        side = base.parts["image_encoder"]
        pixels = {**side.config, **(side.tiny if is_tiny else {})}["image_size"]
        facts = {
            "image_processor_type": "CLIPImageProcessor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "size": {"shortest_edge": pixels},
            "crop_size": {"height": pixels, "width": pixels},
        }
        (folder / "image_processor").mkdir(exist_ok=True)
        (folder / "image_processor" / "preprocessor_config.json").write_text(json.dumps(facts))
    steps = TINY_STEPS if is_tiny else base.steps
    lines = ["license: cc0-1.0", f"creatok_steps: {steps}", f"creatok_guidance: {base.guidance}"]
    lines += ["creatok_size: 64x64"] if is_tiny else []
    card = "\n".join(["---", *lines, "---", f"Random weights in the layout of {base.repo}.", ""])
    (folder / "README.md").write_text(card)


def _write_index(base: Base, folder: Path, names: list[str]) -> None:
    """model_index.json, at last: a folder that has one is whole."""
    import diffusers

    kinds: Mapping[str, str] = {
        **{name: part.kind for name, part in base.parts.items()},
        **{name: f"transformers {words.kind}" for name, words in base.words.items()},
        **base.more,
        "scheduler": f"diffusers {base.scheduler[0]}",
    }
    index: dict[str, Any] = {
        "_class_name": base.pipeline,
        "_diffusers_version": diffusers.__version__,
    }
    for name, kind in kinds.items():
        is_left_out = name not in (*names, *base.more, "scheduler")
        index[name] = [None, None] if is_left_out else kind.split()
    if base.backbone == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
