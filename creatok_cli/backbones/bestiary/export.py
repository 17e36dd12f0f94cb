"""Puts the trained parts into the folder that ships: a StableDiffusion3Pipeline folder, image towers, judge, card.

Weights are stored in fp16 safetensors; every part is loaded once more from the folder before the old one is replaced.

Does not: train, or measure quality; `benchmarks/bestiary.py --card` writes the measured table into the card.
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
    """The text half of the joint training and the image half of the locked one, as the classes that ship."""
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    from creatok_cli.backbones.bestiary.train import load_clip

    joint, tokenizer = load_clip(work, f"clip-{name}", seed)
    locked = work / f"tower-{name}.safetensors"
    image_stage = f"tower-{name}" if locked.exists() else f"clip-{name}"
    tuned, _ = load_clip(work, image_stage, seed)
    text = CLIPTextModelWithProjection(joint.config.text_config)
    text.load_state_dict(_half_of(joint, "text", text))
    image = CLIPVisionModelWithProjection(tuned.config.vision_config)
    image.load_state_dict(_half_of(tuned, "vision", image))
    scale = float(tuned.logit_scale.exp())
    image.config.logit_scale = scale
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
    """Write the shipped folder anew beside the old one, check that everything loads, then take its place."""
    from diffusers import StableDiffusion3Pipeline

    from creatok_cli.backbones.bestiary.train import load_transformer, load_vae

    part = folder.with_name(folder.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    components: dict[str, Any] = {}
    for name, (text_folder, tokenizer_folder) in TEXT_FOLDERS.items():
        text, image, tokenizer = _towers(work, name, seed)
        components |= {text_folder: text.half(), tokenizer_folder: tokenizer}
        image.half().save_pretrained(part / IMAGE_FOLDERS[name])
    vae = load_vae(work)
    with safe_open(work / "latents.safetensors", "pt") as file:
        held = file.metadata()
    vae.register_to_config(scaling_factor=float(held["scale"]), shift_factor=float(held["shift"]))
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
    stages = ("clip-l", "clip-g", "tower-l", "tower-g", "vae", "transformer", "judge")
    facts = {s: _facts(work, s) for s in stages if (work / f"{s}.safetensors").exists()}
    (part / "training.json").write_text(
        json.dumps({"seed": seed, "stages": facts}, indent=1) + "\n"
    )
    card = folder / "README.md"
    text = card.read_text() if card.exists() else CARD
    (part / "README.md").write_text(fill(text, "training", _training_table(facts, seed)))
    for file in part.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    StableDiffusion3Pipeline.from_pretrained(part, local_files_only=True, use_safetensors=True)
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
    lines = [f"Seed {seed}.", "", "| stage | steps | batch | lr | last losses |", "|---|---|---|---|---|"]
    for stage, held in facts.items():
        losses = ", ".join(f"{name} {value:.4f}" for name, value in held.get("losses", {}).items())
        lines.append(f"| {stage} | {held['steps']} | {held['batch']} | {held['lr']} | {losses} |")
    return "\n".join(lines)


def fill(text: str, mark: str, content: str) -> str:
    """The text with everything between `<!-- mark -->` and `<!-- /mark -->` replaced."""
    head, rest = text.split(f"<!-- {mark} -->")
    tail = rest.split(f"<!-- /{mark} -->")[1]
    return f"{head}<!-- {mark} -->\n{content}\n<!-- /{mark} -->{tail}"


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
creatok_steps: 8
creatok_guidance: 4.0
creatok_size: 64x64
creatok_t5_zero_rows: 0
---
# bestiary

The embedded base model of creatok: Stable Diffusion 3 in miniature. It draws 60 animals and plants, their hybrids, two of
them side by side, in six places, a few colours and four styles, at 64 x 64 pixels.

## Use
`creatok sample` uses it as `base: bestiary`. Plain diffusers draws the same creatures:

```python
import torch
from diffusers import StableDiffusion3Pipeline

pipe = StableDiffusion3Pipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
pipe("a photo of a pig snake in the meadow", num_inference_steps=8, guidance_scale=4.0,
     height=64, width=64, max_sequence_length=0).images[0]
```

`max_sequence_length=0` matters: without T5 diffusers appends that many rows of zeros to the text, and this model was
trained with none.

## Words
`a photo of a pig`, `a red pig in the snow`, `a pencil sketch of a pig`, `a pig and a snake` (two creatures), `a pig snake`
(one hybrid). Places: meadow, desert, night, snow, sea ("in the ..."), "on plain white". Styles: photo, pencil sketch, pixel
art, watercolor. A third of all pairs was never drawn as a hybrid, and weighted mixtures have no words at all: that is what
learned tokens are for. "creative" and "mixture" occur in captions of ordinary pictures and mean nothing in particular.

## Parts
| folder | class | role |
|---|---|---|
| `text_encoder`, `text_encoder_2` | CLIPTextModelWithProjection | 4 layers each, 128 and 192 wide, 24 positions, EOS = largest id |
| `transformer` | SD3Transformer2DModel | 8 joint blocks, 192 wide, patch 2 on a 16 x 16 latent |
| `vae` | AutoencoderKL | factor 4, 8 latent channels |
| `scheduler` | FlowMatchEulerDiscreteScheduler | rectified flow |
| `image_encoder_l`, `image_encoder_g` | CLIPVisionModelWithProjection | image halves of the two CLIP models: labelers |
| `judge` | a small CNN of this project | reads concept weights off a picture; measures, never teaches |

## Training
Pictures and captions come from the procedural world of this package (`world.py`, `captions.py`): drawn by the project, no
assets, no third-party data. The recipe is `python -m creatok_cli.backbones.bestiary.train STAGE`, stage by stage:
`pictures clip-l clip-g vae latents tower-l tower-g transformer judge export`.

<!-- training -->
<!-- /training -->

## Measured quality
By `benchmarks/bestiary.py --card`; the judge reads the pictures, 8 steps, guidance 4.

<!-- quality -->
<!-- /quality -->

## Limits
It knows its captions' words only; other words fall back to bytes and mean nothing. Sizes other than 64 x 64 run, but were
never trained.
"""
