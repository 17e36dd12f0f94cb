"""Puts the trained parts into the folder that ships: pipeline, image towers, judge, card.

Weights are stored in fp16 safetensors; every part is loaded once more from the new folder
before the old one is replaced.

Does not: train, or measure quality; `benchmarks/bestiary.py --card` does that.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from creatok_cli.backbones.bestiary import parts
from creatok_cli.backbones.bestiary.dataset import ATTRIBUTES
from creatok_cli.backbones.bestiary.genes import CONCEPTS
from creatok_cli.backbones.bestiary.judge import Judge, LoadedJudge

if TYPE_CHECKING:
    from torch import nn

SHIPPED = Path(__file__).parent / "weights"
CARD = Path(__file__).parent / "card.md"
"""The model card before its tables are filled in."""
TEXT_FOLDERS = {"l": ("text_encoder", "tokenizer"), "g": ("text_encoder_2", "tokenizer_2")}
IMAGE_FOLDERS = {"l": "image_encoder_l", "g": "image_encoder_g"}


def _facts(work: Path, stage: str) -> dict[str, Any]:
    """Steps, settings and last losses of a finished stage."""
    with safe_open(work / f"{stage}.safetensors", "pt") as file:
        held = file.metadata()
    facts: dict[str, Any] = {"steps": int(held["step"]), **json.loads(held["settings"])}
    log = work / f"{stage}.jsonl"
    if log.exists():
        last = json.loads(log.read_text().splitlines()[-1])
        facts["losses"] = {k: v for k, v in last.items() if k not in ("step", "lr")}
    extra = work / f"{stage}.json"
    if extra.exists():
        facts |= json.loads(extra.read_text())
    return facts | {"steps": int(held["step"])}


def _towers(work: Path, name: str, seed: int) -> tuple[nn.Module, nn.Module, Any]:
    """The two halves of a CLIP model as the classes that ship, and its tokenizer."""
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    from creatok_cli.backbones.bestiary.train import load_clip

    clip, tokenizer = load_clip(work, name, seed)
    text = CLIPTextModelWithProjection(clip.config.text_config)
    text.load_state_dict(_half_of(clip, "text", text))
    image = CLIPVisionModelWithProjection(clip.config.vision_config)
    image.load_state_dict(_half_of(clip, "vision", image))
    image.config.logit_scale = float(clip.logit_scale.exp())
    return text, image, tokenizer


def _half_of(clip: Any, side: str, target: nn.Module) -> dict[str, torch.Tensor]:
    """The state of one half of a CLIPModel under the names of the class with projection."""
    projection = "text_projection" if side == "text" else "visual_projection"
    source = clip.state_dict()
    state: dict[str, torch.Tensor] = {}
    for key in target.state_dict():
        inner = key.removeprefix(f"{side}_model.")
        state[key] = (
            source[f"{projection}.weight"]
            if key == f"{projection}.weight"
            else source[f"{side}_model.{inner}"]
        )
    return state


def export(work: Path, *, seed: int, folder: Path = SHIPPED) -> None:
    """Write the folder anew beside the old one, check that everything loads, take its place."""
    from diffusers import StableDiffusion3Pipeline

    from creatok_cli.backbones.bestiary.train import load_latents, load_transformer, load_vae

    part = folder.with_name(folder.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    components: dict[str, Any] = {}
    for name, (text_folder, tokenizer_folder) in TEXT_FOLDERS.items():
        text, image, tokenizer = _towers(work, name, seed)
        components |= {text_folder: text.half(), tokenizer_folder: tokenizer}
        image.half().save_pretrained(part / IMAGE_FOLDERS[name])
    vae = load_vae(work)
    _, shift, scale = load_latents(work)
    vae.register_to_config(scaling_factor=scale, shift_factor=shift)
    pipeline = StableDiffusion3Pipeline(
        transformer=load_transformer(work).half(),
        vae=vae.half(),
        scheduler=parts.build_scheduler(),
        text_encoder_3=None,
        tokenizer_3=None,
        **components,
    )
    pipeline.save_pretrained(part)
    if (work / "judge.safetensors").exists():
        _export_judge(work, part / "judge")
    stages = ("clip-l", "clip-g", "vae", "decoder", "transformer", "judge")
    facts = {s: _facts(work, s) for s in stages if (work / f"{s}.safetensors").exists()}
    (part / "training.json").write_text(
        json.dumps({"seed": seed, "stages": facts}, indent=1) + "\n"
    )
    text = fill(CARD.read_text(), "training", _training_table(facts, seed))
    (part / "README.md").write_text(text)
    for file in part.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    StableDiffusion3Pipeline.from_pretrained(
        part, text_encoder_3=None, tokenizer_3=None, local_files_only=True, use_safetensors=True
    )
    if (part / "judge").exists():
        LoadedJudge(part / "judge")
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _export_judge(work: Path, folder: Path) -> None:
    from creatok_cli.backbones.bestiary.train import load_judge

    judge: Judge = load_judge(work)
    folder.mkdir(parents=True)
    save_file(
        {k: v.half().contiguous() for k, v in judge.state_dict().items()},
        folder / "model.safetensors",
    )
    config = {"concepts": CONCEPTS, "attributes": ATTRIBUTES, "sizes": judge.sizes}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _training_table(facts: dict[str, Any], seed: int) -> str:
    """Markdown: one row per stage with steps, batch, learning rate and the last losses."""
    lines = [
        f"Seed {seed}.",
        "",
        "| stage | steps | batch | lr | last losses |",
        "|---|---|---|---|---|",
    ]
    for stage, held in facts.items():
        losses = ", ".join(f"{name} {value:.4f}" for name, value in held.get("losses", {}).items())
        lines.append(f"| {stage} | {held['steps']} | {held['batch']} | {held['lr']} | {losses} |")
    return "\n".join(lines)


def fill(text: str, mark: str, content: str) -> str:
    """The text with everything between `<!-- mark -->` and `<!-- /mark -->` replaced."""
    head, rest = text.split(f"<!-- {mark} -->")
    tail = rest.split(f"<!-- /{mark} -->")[1]
    return f"{head}<!-- {mark} -->\n{content}\n<!-- /{mark} -->{tail}"
