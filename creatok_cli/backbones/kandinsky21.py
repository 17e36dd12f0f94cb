"""Kandinsky 2.1 from two local diffusers folders: a prior from words to embeddings, a decoder.

Razzhigaev et al. 2023 (arXiv 2310.03502), after unCLIP (Ramesh et al. 2022, arXiv 2204.06125).
Words act through the prior alone: CLIP-L states -> embedding of width 768 -> latents -> MoVQ.
The decoder's own text encoder (XLM-R) is always given the empty prompt, as in the released code of
ConceptLab (Richardson et al. 2024, arXiv 2308.02669).

`--base DIR` is the repository of the decoder, with the repository of the prior beside it under its
own name, both without pickles (`*.bin`); from the Hub's cache each is taken by its name:

    models/kandinsky-2-1/        model_index.json scheduler/ unet/ movq/ text_encoder/ tokenizer/
    models/kandinsky-2-1-prior/  model_index.json scheduler/ prior/ text_encoder/ tokenizer/
                                 image_encoder/ image_processor/

Options of a job: `prior_steps`, `prior_guidance`. The adapter is `_kandinsky.py` over `_unclip.py`.

Does not: download.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creatok_cli.backbones._kandinsky import Kandinsky
    from creatok_cli.domain import BaseFacts, Options

SIDES = ("text", "prior", "image")
PIPELINE = "KandinskyPipeline"
PARTS = {
    "unet": ("UNet2DConditionModel",),
    "scheduler": ("DDIMScheduler", "DDPMScheduler"),
    "movq": ("VQModel",),
    "text_encoder": ("MultilingualCLIP",),
    "tokenizer": ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast"),
}
PRIOR_PIPELINE = "KandinskyPriorPipeline"
PRIOR_PARTS = {
    "prior": ("PriorTransformer",),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "text_encoder": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": ("UnCLIPScheduler",),
    "image_processor": ("CLIPImageProcessor", "CLIPImageProcessorFast"),
}
PRIOR_NAMES = ("", "-prior")
"""How the names of the two folders, or repositories, end."""
ENCODERS = (("clip_l", "text_encoder"),)
LORA_PARTS = ("prior", "unet")
"""What a LoRA may change."""
SCHEDULERS = ("ddim", "ddpm")
CAN_START = True
"""A job may begin from a picture."""
START_BETAS = (0.0001, 0.02)
"""Of the noise on that picture (diffusers: KandinskyImg2ImgPipeline.add_noise)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Defaults of diffusers' pipelines and of the model card."""

    repo: str = "kandinsky-community/kandinsky-2-1"
    prior_repo: str = "kandinsky-community/kandinsky-2-1-prior"
    licence: str = "apache-2.0"
    steps: int = 50
    guidance: float = 4.0
    size_px: tuple[int, int] = (512, 512)
    dtype: str = "fp32"
    batch_rows: tuple[tuple[int, int], ...] = ((512, 4), (768, 2))
    """(largest side, batch class); set by eye."""
    prior_steps: int = 25
    """For pictures (diffusers: `num_inference_steps` of the prior)."""
    prior_guidance: float = 4.0
    search_steps: int = 5
    """For searches under autograd (Richardson et al. 2024, arXiv 2308.02669: the released code)."""


def check_options(options: Options, scheduler: str = "") -> None:
    """Raises UnknownName or InputError for options that no job of this base can have."""
    from creatok_cli.backbones._kandinsky_options import walk_of

    walk_of(options, "kandinsky21", Spec().prior_steps, Spec().prior_guidance)


def build(spec: Spec, facts: BaseFacts, *, device: str, dtype: str) -> Kandinsky:
    """The adapter over both folders; nothing is read yet."""
    from creatok_cli.backbones._kandinsky import Kandinsky
    from creatok_cli.backbones._unclip import Walk

    return Kandinsky(
        facts,
        reads_words=True,
        device=device,
        dtype=dtype,
        walk=Walk(spec.prior_steps, spec.prior_guidance),
        search=Walk(spec.search_steps, spec.prior_guidance),
        start_betas=START_BETAS,
    )
