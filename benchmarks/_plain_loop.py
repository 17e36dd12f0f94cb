"""The loop that a person writes first: one diffusers pipeline, one call per picture, one PNG.

`R` is that loop as it stands: eager, the usual number format, the default PNG level, everything on
the device. `R2` is the same with its denoiser compiled and PNG level 1, so that a reader sees what
switches alone bring.

Does not: batch, cache words, or write beside drawing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from _base_folder import DTYPES
from _full_size import Base

from creatok_cli.domain import Job
from creatok_cli.seeds import generator

REPEATED = {"SD3Transformer2DModel": ["JointTransformerBlock"]}
"""Blocks that repeat in classes that do not say so themselves (diffusers 0.42)."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What one run of the loop took, in seconds."""

    load_s: float
    first_s: float
    """The first call, which also compiles and warms up."""
    rest_s: float
    """All pictures after the first call, files included."""


def open_pipe(base: Base, folder: Path, dtype: str, device: str, *, is_compiled: bool) -> Any:
    """The pipeline with all its parts on the device."""
    missing = {
        name: None
        for name in ("text_encoder_3", "tokenizer_3")
        if base.backbone == "sd3" and not (folder / name).is_dir()
    }
    kind = getattr(diffusers, base.pipeline)
    pipe = kind.from_pretrained(folder, dtype=DTYPES[dtype], **missing).to(device)
    pipe.set_progress_bar_config(disable=True)
    if is_compiled:
        model = getattr(pipe, "transformer", None) or pipe.unet
        if "transformer" in base.parts:
            model._repeated_blocks = model._repeated_blocks or REPEATED[type(model).__name__]
            model.compile_repeated_blocks(fullgraph=True)
        else:
            model.compile()
    return pipe


def asked(base: Base, job: Job, pipe: Any, device: str, dtype: str) -> dict[str, Any]:
    """What one call is given: a job with the noise that creatok draws for it."""
    width, height = job.size_px
    channels = base.parts["vae"].config["latent_channels"]
    shape = (1, channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    noise = torch.randn(shape, generator=generator(job.seed, "noise"))
    noise = noise.to(device=device, dtype=DTYPES[dtype])
    more: dict[str, Any] = {}
    if base.backbone == "flux":
        noise = pipe._pack_latents(noise, *shape)
        has_input = base.parts["transformer"].config["guidance_embeds"]
        more["max_sequence_length"] = 512 if has_input else 256
    return {
        "prompt": job.prompt,
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance,
        "height": height,
        "width": width,
        "latents": noise,
        **more,
    }


def plain_loop(
    base: Base,
    folder: Path,
    jobs: Sequence[Job],
    out: Path,
    *,
    device: str,
    dtype: str,
    level: int | None,
    is_compiled: bool,
) -> Loop:
    """Draw all jobs into `out`, one by one; the first job is drawn twice, once to warm up."""
    began = time.perf_counter()
    pipe = open_pipe(base, folder, dtype, device, is_compiled=is_compiled)
    wait(device)
    loaded = time.perf_counter()
    out.mkdir(parents=True)
    pipe(**asked(base, jobs[0], pipe, device, dtype))
    wait(device)
    warm = time.perf_counter()
    for number, job in enumerate(jobs):
        image = pipe(**asked(base, job, pipe, device, dtype)).images[0]
        settings = {} if level is None else {"compress_level": level}
        image.save(out / f"{number:04d}.png", **settings)
    return Loop(loaded - began, warm - loaded, time.perf_counter() - warm)


def plain_latents(
    base: Base, folder: Path, jobs: Sequence[Job], *, device: str, dtype: str
) -> torch.Tensor:
    """[b c h w] f32 on the CPU: the last latents of each job, one call per picture."""
    pipe = open_pipe(base, folder, dtype, device, is_compiled=False)
    found = []
    for job in jobs:
        width, height = job.size_px
        rows = pipe(**asked(base, job, pipe, device, dtype), output_type="latent").images
        if base.backbone == "flux":
            rows = pipe._unpack_latents(rows, height, width, pipe.vae_scale_factor)
        found.append(rows.float().cpu())
    return torch.cat(found)


def wait(device: str) -> None:
    """Until the device is idle."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
