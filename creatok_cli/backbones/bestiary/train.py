"""Trains the bestiary from nothing: two CLIP models, autoencoder, denoiser, judge.

    python -m creatok_cli.backbones.bestiary.train STAGE --work runs/bestiary

Stages, in order: `pictures`, `clip-l`, `clip-g`, `vae`, `latents`, `decoder`, `transformer`,
`judge`, `export`. A stage that was stopped continues from its last checkpoint when the same command
is given again; a finished one returns at once. Losses go to `<work>/<stage>.jsonl`.

The denoiser trains on two cores with a process each (two threads in one process were slower):

    python -m torch.distributed.run --standalone --nproc_per_node 2 \\
        -m creatok_cli.backbones.bestiary.train transformer --compile

Does not: measure quality (`benchmarks/bestiary.py`) or touch the shipped weights before `export`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from creatok_cli.backbones.bestiary import parts
from creatok_cli.backbones.bestiary.dataset import ATTRIBUTES, Pictures, draw_pictures
from creatok_cli.backbones.bestiary.genes import CONCEPTS
from creatok_cli.backbones.bestiary.judge import Judge, degrade
from creatok_cli.seeds import derive, generator

VALIDATION = 2_000
"""The last rows of the pictures are never trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One stage's knobs. `decay` is the last share of the steps, over which the learning rate falls
    linearly to 0.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.02
    muon: bool = True
    ema: float = 0.0


STAGES: dict[str, Settings] = {
    "clip-l": Settings(steps=1_100, batch=192, lr=2e-3, decay=0.5),
    "clip-g": Settings(steps=600, batch=192, lr=2e-3, decay=0.5),
    "vae": Settings(steps=950, batch=32, lr=2e-3, decay=0.5, muon=False, weight_decay=0.0),
    "decoder": Settings(steps=1_000, batch=32, lr=1.5e-3, decay=0.8, muon=False, weight_decay=0.0),
    "transformer": Settings(
        steps=3_300, batch=128, lr=2e-3, decay=0.3, weight_decay=0.0, ema=0.998
    ),
    "judge": Settings(steps=3_000, batch=96, lr=1.5e-3, decay=0.6),
}


class Run:
    """A training loop with checkpoints: networks, optimisers and step in one safetensors file.

    Rows and noise are addressed by step (`derive(seed, stage, step)`), so a checkpoint holds no
    generator state and a resumed run takes the same steps as an uninterrupted one.
    """

    def __init__(
        self,
        work: Path,
        stage: str,
        settings: Settings,
        networks: Mapping[str, nn.Module],
        *,
        seed: int,
        plain: Sequence[str] = (),
    ) -> None:
        self.work, self.stage, self.settings, self.seed = work, stage, settings, seed
        self.networks = dict(networks)
        self.file = work / f"{stage}.safetensors"
        self.log = work / f"{stage}.jsonl"
        self.step = 0
        self.optimisers = _optimisers(self.networks, settings, plain)
        self.average = (
            {k: v.detach().clone() for k, v in self._weights().items()} if settings.ema else {}
        )
        if self.file.exists():
            self._load()

    def _weights(self) -> dict[str, Tensor]:
        return {f"{n}.{k}": v for n, m in self.networks.items() for k, v in m.state_dict().items()}

    def _load(self) -> None:
        with safe_open(self.file, "pt") as file:
            self.step = int(file.metadata()["step"])
        table = load_file(self.file)
        _restore(table, self.networks, "net.")
        self.average = {k.removeprefix("ema."): v for k, v in table.items() if k.startswith("ema.")}
        for i, optimiser in enumerate(self.optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in table.items():
                if key.startswith(f"opt.{i}."):
                    _, _, index, field = key.split(".", 3)
                    state.setdefault(int(index), {})[field] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": state, "param_groups": groups})
            for parameter, fields in optimiser.state.items():
                for field, value in fields.items():
                    # The fused kernels pair memory, not indices: the state must have the strides of
                    # its parameter.
                    if value.shape == parameter.shape:
                        fields[field] = torch.empty_like(parameter).copy_(value)

    def save(self) -> None:
        """Write the checkpoint beside the old one, then take its place."""
        if _rank():
            return
        table = {f"net.{k}": v for k, v in self._weights().items()}
        table |= {f"ema.{k}": v for k, v in self.average.items()}
        for i, optimiser in enumerate(self.optimisers):
            for index, fields in optimiser.state_dict()["state"].items():
                for field, value in fields.items():
                    table[f"opt.{i}.{index}.{field}"] = torch.as_tensor(value)
        table = {k: v.detach().clone().contiguous() for k, v in table.items()}
        facts = {
            "step": str(self.step),
            "seed": str(self.seed),
            "settings": json.dumps(asdict(self.settings)),
        }
        part = self.file.with_suffix(".part")
        save_file(table, part, metadata=facts)
        os.replace(part, self.file)

    def rate(self) -> float:
        """The learning rate of the current step: warm-up, constant, linear fall."""
        s = self.settings
        falling = (s.steps - self.step) / max(1.0, s.decay * s.steps)
        return s.lr * min(1.0, (self.step + 1) / s.warmup, max(0.0, falling))

    def train(
        self, loss_of: Callable[[int], Mapping[str, Tensor]], *, minutes_between_saves: float = 2.0
    ) -> None:
        """Take the remaining steps. `loss_of(step)` returns named losses; `loss` is the one that is
        minimised.

        Raises RuntimeError at the first non-finite loss; the last checkpoint stays. An interrupt
        between two steps saves first.
        """
        began, first, saved = time.monotonic(), self.step, time.monotonic()
        sums: dict[str, float] = {}
        counted = 0
        while self.step < self.settings.steps:
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.rate()
            try:
                losses = loss_of(self.step)
                if not torch.isfinite(losses["loss"]):
                    raise RuntimeError(f"{self.stage}: loss is not finite at step {self.step}")
                losses["loss"].backward()
                _average_gradients(self.optimisers)
            except KeyboardInterrupt:
                # Nothing has moved since the last whole step; later it might have, in part.
                self.save()
                raise
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.step += 1
            if self.average:
                weights = self._weights()
                decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
                for key, mean in self.average.items():
                    if mean.is_floating_point():
                        mean.lerp_(weights[key], 1 - decay)
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            counted += 1
            if self.step % 50 == 0 or self.step == self.settings.steps:
                rate = (self.step - first) / (time.monotonic() - began)
                self._report({k: v / counted for k, v in sums.items()}, rate)
                sums, counted = {}, 0
            if time.monotonic() - saved > 60 * minutes_between_saves:
                self.save()
                saved = time.monotonic()
        self.save()

    def _report(self, means: dict[str, float], rate: float) -> None:
        if _rank():
            return
        left = (self.settings.steps - self.step) / rate
        shown = " ".join(f"{k} {v:.4f}" for k, v in means.items())
        images = rate * self.settings.batch
        print(
            f"{self.stage} {self.step}/{self.settings.steps} {shown} | {images:.0f} images/s, "
            f"{left / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )
        with self.log.open("a") as file:
            line = {
                "step": self.step,
                "lr": self.rate(),
                **{k: round(v, 5) for k, v in means.items()},
            }
            file.write(json.dumps(line) + "\n")


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _share(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of a batch that this process takes; together all processes do what one would do."""
    if not torch.distributed.is_initialized():
        return tensors
    world = torch.distributed.get_world_size()
    return tuple(tensor[_rank() :: world] for tensor in tensors)


def _average_gradients(optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """Mean of the gradients over all processes; they hold equal shares of a batch."""
    if not torch.distributed.is_initialized():
        return
    parameters = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _restore(table: Mapping[str, Tensor], networks: Mapping[str, nn.Module], kind: str) -> None:
    for name, network in networks.items():
        head = f"{kind}{name}."
        network.load_state_dict(
            {k.removeprefix(head): v for k, v in table.items() if k.startswith(head)}
        )


def load_stage(work: Path, stage: str, networks: Mapping[str, nn.Module]) -> None:
    """Load a stage's last checkpoint for use: averaged weights where there are any; networks switch
    to evaluation.
    """
    table = load_file(work / f"{stage}.safetensors")
    _restore(table, networks, "ema." if any(key.startswith("ema.") for key in table) else "net.")
    for network in networks.values():
        network.requires_grad_(False).eval()


def _optimisers(
    networks: Mapping[str, nn.Module], s: Settings, plain: Sequence[str]
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan, 2024) for the hidden matrices, AdamW for the rest: embeddings, norms, biases,
    ends.

    `plain` names fragments of parameter names that stay with AdamW. Measured against AdamW alone
    only by experience of others; both share one learning rate because Muon's update is scaled to
    AdamW's size (`match_rms_adamw`).
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            full = f"{name}.{key}"
            matrix = s.muon and parameter.ndim == 2 and not any(piece in full for piece in plain)
            (hidden if matrix else rest).append(parameter)
    adam = torch.optim.AdamW(
        rest, lr=s.lr, betas=(0.9, 0.98), weight_decay=s.weight_decay, fused=True
    )
    if not hidden:
        return [adam]
    muon = torch.optim.Muon(
        hidden, lr=s.lr, weight_decay=s.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adam, muon]


@contextmanager
def _half() -> Iterator[None]:
    """bf16 autocast, and attention as plain products: the fused CPU kernel's backward is slower
    (measured, 1.5 times).
    """
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _rows(count: int, batch: int, seed: int, stage: str, step: int) -> Tensor:
    return torch.randint(
        0, count - VALIDATION, (batch,), generator=generator(seed, stage, "rows", step)
    )


def _ids(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """[n 24] token ids, padded, for all unique captions."""
    encoded = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=parts.POSITIONS
    )
    return torch.tensor(encoded["input_ids"])


def _mix_loss(logits: Tensor, weights: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), weights)


def _contrast(image: Tensor, text: Tensor, scale: Tensor, caption: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al., 2021); pairs that share a caption are not negatives of
    each other.
    """
    image, text = (
        functional.normalize(image.float(), dim=-1),
        functional.normalize(text.float(), dim=-1),
    )
    logits = scale.exp().clamp(max=100) * image @ text.T
    same = caption[:, None] == caption[None, :]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits))
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


CLIP_PLAIN = ("embedding", "projection", "helper")


def _helper_heads(width: int) -> nn.ModuleDict:
    """Heads that exist only while a CLIP model trains: they name what a picture shows and so speed
    up its towers.
    """
    return nn.ModuleDict({name: nn.Linear(width, size) for name, size in _head_sizes().items()})


def _helper_loss(
    heads: nn.ModuleDict, features: Tensor, pictures: Pictures, rows: Tensor
) -> Tensor:
    loss = _mix_loss(heads["weights"](features), pictures.weights[rows])
    for j, name in enumerate(ATTRIBUTES):
        truth = pictures.attributes[rows, j].long()
        loss = loss + 0.3 * functional.cross_entropy(heads[name](features).float(), truth)
    return loss


def _clip(name: str, seed: int) -> tuple[Any, Any, nn.Module, nn.Module]:
    torch.manual_seed(derive(seed, "init", f"clip-{name}"))
    tokenizer = parts.build_tokenizer()
    clip = parts.build_clip(name, tokenizer)
    width = parts.TOWERS[name].width
    return tokenizer, clip, _helper_heads(width), nn.Linear(width, len(CONCEPTS))


def train_clip(
    work: Path, name: str, pictures: Pictures, settings: Settings, seed: int, *, compile: bool
) -> None:
    """Train one CLIP model: contrastive loss plus the helper heads."""
    tokenizer, clip, heads, words = _clip(name, seed)
    networks = {"clip": clip, "helper_image": heads, "helper_text": words}
    stage = f"clip-{name}"
    run = Run(work, stage, settings, networks, seed=seed, plain=CLIP_PLAIN)
    ids = _ids(tokenizer, pictures.captions)
    if compile:
        clip.vision_model.compile()

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = _rows(len(pictures), settings.batch, seed, stage, step)
        caption = pictures.caption[rows]
        with _half():
            image = clip.get_image_features(pictures.images(rows))
            text = clip.get_text_features(ids[caption])
            image, text = (x if isinstance(x, Tensor) else x.pooler_output for x in (image, text))
            helper = _helper_loss(heads, image, pictures, rows)
            read = _mix_loss(words(text), pictures.weights[rows])
        match = _contrast(image, text, clip.logit_scale, caption)
        return {
            "loss": match + helper + 0.5 * read,
            "match": match,
            "helper": helper,
            "read": read,
        }

    run.train(loss_of)
    clip.eval()
    top1 = _zero_shot(clip, tokenizer, pictures)
    print(f"{stage}: zero-shot top-1 on held-out single pictures {top1:.3f}", file=sys.stderr)
    (work / f"{stage}.json").write_text(json.dumps({"zero_shot_top1": top1, **asdict(settings)}))


@torch.inference_mode()
def _zero_shot(clip: Any, tokenizer: Any, pictures: Pictures) -> float:
    """Top-1 of `a photo of a {concept}` over held-out pictures that show one plain concept."""
    rows = torch.arange(len(pictures) - VALIDATION, len(pictures))
    rows = rows[pictures.weights[rows].max(1).values > 0.99]
    text = clip.get_text_features(_ids(tokenizer, [f"a photo of a {name}" for name in CONCEPTS]))
    image = clip.get_image_features(pictures.images(rows))
    image, text = (x if isinstance(x, Tensor) else x.pooler_output for x in (image, text))
    guess = (functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).T).argmax(1)
    return float((guess == pictures.weights[rows].argmax(1)).float().mean())


def train_vae(work: Path, pictures: Pictures, settings: Settings, seed: int) -> None:
    """Train the autoencoder: L1 on pixels and on their differences, and a light KL term.

    Deviates: no perceptual and no adversarial loss; flat shapes with clean edges need neither.
    """
    torch.manual_seed(derive(seed, "init", "vae"))
    vae = parts.build_vae().to(memory_format=torch.channels_last)
    run = Run(work, "vae", settings, {"vae": vae}, seed=seed)

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = _rows(len(pictures), settings.batch, seed, "vae", step)
        x = pictures.images(rows).contiguous(memory_format=torch.channels_last)
        with _half():
            posterior = vae.encode(x).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator(seed, "vae", "noise", step))
            y = vae.decode(mean + std * noise).sample.float()
        pixel, edge = _pixel_losses(x, y)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        return {"loss": pixel + 0.5 * edge + 1e-3 * kl, "l1": pixel, "edge": edge, "kl": kl}

    run.train(loss_of)


def train_decoder(work: Path, pictures: Pictures, settings: Settings, seed: int) -> None:
    """Let the decoder alone go on learning from the written latents, a little noisy as a sampler
    leaves them.

    The encoder and so the latents stay as they are: the denoiser may train in the meantime.
    """
    vae = load_vae(work).to(memory_format=torch.channels_last)
    vae.decoder.requires_grad_(True).train()
    run = Run(work, "decoder", settings, {"decoder": vae.decoder}, seed=seed)
    latents, shift, scale = load_latents(work)

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = _rows(len(pictures), settings.batch, seed, "decoder", step)
        noise = torch.randn(
            len(rows), 8, 16, 16, generator=generator(seed, "decoder", "noise", step)
        )
        z = (latents[rows].float() + 0.05 * noise) / scale + shift
        x = pictures.images(rows).contiguous(memory_format=torch.channels_last)
        with _half():
            y = vae.decode(z.contiguous(memory_format=torch.channels_last)).sample.float()
        pixel, edge = _pixel_losses(x, y)
        return {"loss": pixel + 0.5 * edge, "l1": pixel, "edge": edge}

    run.train(loss_of)


def _pixel_losses(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of pixels, and of their differences to the right and downward neighbour."""
    edge = (x.diff(dim=2) - y.diff(dim=2)).abs().mean() + (
        x.diff(dim=3) - y.diff(dim=3)
    ).abs().mean()
    return (x - y).abs().mean(), edge


def load_vae(work: Path) -> Any:
    """The trained autoencoder, with the decoder of its own stage once that has begun."""
    vae = parts.build_vae()
    load_stage(work, "vae", {"vae": vae})
    if (work / "decoder.safetensors").exists():
        load_stage(work, "decoder", {"decoder": vae.decoder})
    return vae


def load_latents(work: Path) -> tuple[Tensor, float, float]:
    """(latents [n 8 16 16] bf16 of mean 0 and variance 1, shift, scale): z = latents / scale +
    shift.
    """
    file = work / "latents.safetensors"
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    return load_file(file)["latents"], float(facts["shift"]), float(facts["scale"])


def load_clip(work: Path, name: str, seed: int) -> tuple[Any, Any]:
    """The CLIP model `l` or `g`, and its tokenizer."""
    tokenizer, clip, heads, words = _clip(name, seed)
    load_stage(work, f"clip-{name}", {"clip": clip, "helper_image": heads, "helper_text": words})
    return clip, tokenizer


def load_transformer(work: Path) -> Any:
    """The denoiser with its averaged weights."""
    network = parts.build_transformer()
    load_stage(work, "transformer", {"transformer": network})
    return network


def load_judge(work: Path) -> Judge:
    """The trained judge."""
    judge = Judge(_head_sizes())
    load_stage(work, "judge", {"judge": judge})
    return judge


def _head_sizes() -> dict[str, int]:
    return {"weights": len(CONCEPTS)} | {name: len(values) for name, values in ATTRIBUTES.items()}


@torch.inference_mode()
def encode_latents(work: Path, pictures: Pictures) -> None:
    """Write every picture's latent mean as bf16 [n 8 16 16], shifted and scaled to mean 0 and
    variance 1 overall.
    """
    file = work / "latents.safetensors"
    if file.exists():
        return
    vae = load_vae(work).to(memory_format=torch.channels_last)
    chunks: list[Tensor] = []
    for start in range(0, len(pictures), 256):
        x = pictures.images(torch.arange(start, min(start + 256, len(pictures))))
        with _half():
            chunks.append(
                vae.encode(
                    x.contiguous(memory_format=torch.channels_last)
                ).latent_dist.mean.bfloat16()
            )
    latents = torch.cat(chunks)
    shift, scale = float(latents.float().mean()), 1.0 / float(latents.float().std())
    latents = ((latents.float() - shift) * scale).bfloat16()
    save_file(
        {"latents": latents.contiguous()}, file, metadata={"shift": str(shift), "scale": str(scale)}
    )


@torch.inference_mode()
def encode_captions(work: Path, pictures: Pictures, seed: int) -> tuple[Tensor, Tensor]:
    """What the denoiser reads, for every unique caption: sequence [n 24 320] and pooled [n 320],
    both bf16.

    hidden_states[-2] of both towers side by side, and both projected pooled vectors, as
    StableDiffusion3Pipeline does without T5. Kept in a file for a resumed training.
    """
    file = work / "captions.safetensors"
    if file.exists():
        held = load_file(file)
        return held["sequence"], held["pooled"]
    sequence: list[Tensor] = []
    pooled: list[Tensor] = []
    for name in parts.TOWERS:
        clip, tokenizer = load_clip(work, name, seed)
        ids = _ids(tokenizer, pictures.captions)
        states, ends = [], []
        for start in range(0, len(ids), 512):
            out = clip.text_model(ids[start : start + 512], output_hidden_states=True)
            states.append(out.hidden_states[-2].bfloat16())
            ends.append(clip.text_projection(out.pooler_output).bfloat16())
        sequence.append(torch.cat(states))
        pooled.append(torch.cat(ends))
    held = {"sequence": torch.cat(sequence, -1), "pooled": torch.cat(pooled, -1)}
    save_file(held, file)
    return held["sequence"], held["pooled"]


TRANSFORMER_PLAIN = ("norm", "embed", "proj_out")
"""Adaptive norms and the two ends stay with AdamW."""


def train_transformer(
    work: Path, pictures: Pictures, settings: Settings, seed: int, *, compile: bool
) -> None:
    """Train the denoiser by rectified flow (Esser et al., 2024, eq. 13-14; t logit-normal, 10 %
    empty captions).
    """
    torch.manual_seed(derive(seed, "init", "transformer"))
    network = parts.build_transformer()
    run = Run(
        work, "transformer", settings, {"transformer": network}, seed=seed, plain=TRANSFORMER_PLAIN
    )
    latents, _, _ = load_latents(work)
    sequence, pooled = encode_captions(work, pictures, seed)
    forward = torch.compile(network) if compile else network

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = _rows(len(pictures), settings.batch, seed, "transformer", step)
        draw = generator(seed, "transformer", "noise", step)
        x0 = latents[rows].float()
        noise = torch.randn(x0.shape, generator=draw)
        t = torch.randn(len(rows), generator=draw).sigmoid()
        empty = torch.rand(len(rows), generator=draw) < 0.1
        caption = torch.where(empty, 0, pictures.caption[rows])
        x0, noise, t, caption = _share(x0, noise, t, caption)
        mixed = torch.lerp(x0, noise, t.view(-1, 1, 1, 1))
        with _half():
            velocity = forward(
                hidden_states=mixed,
                timestep=1000 * t,
                encoder_hidden_states=sequence[caption].float(),
                pooled_projections=pooled[caption].float(),
                return_dict=False,
            )[0]
        return {"loss": functional.mse_loss(velocity.float(), noise - x0)}

    run.train(loss_of)


def train_judge(work: Path, pictures: Pictures, settings: Settings, seed: int) -> None:
    """Train the judge on world pictures of its own, plain and degraded: single concepts, mixtures
    of all pairs and of uneven weights, none of them drawn by the base model.
    """
    torch.manual_seed(derive(seed, "init", "judge"))
    judge = Judge(_head_sizes()).to(memory_format=torch.channels_last)
    run = Run(work, "judge", settings, {"judge": judge}, seed=seed, plain=("heads",))

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = _rows(len(pictures), settings.batch, seed, "judge", step)
        x = degrade(pictures.images(rows), generator(seed, "judge", "degrade", step))
        with _half():
            out = judge(x.contiguous(memory_format=torch.channels_last))
        mix = _mix_loss(out["weights"], pictures.weights[rows])
        rest = sum(
            functional.cross_entropy(out[name].float(), pictures.attributes[rows, j].long())
            for j, name in enumerate(ATTRIBUTES)
        )
        return {"loss": mix + 0.2 * rest, "mix": mix}

    run.train(loss_of)
    judge.eval()
    with torch.inference_mode():
        rows = torch.arange(len(pictures) - VALIDATION, len(pictures))
        out = judge(pictures.images(rows))
        truth = pictures.weights[rows]
        single = truth.max(1).values > 0.99
        top1 = (out["weights"].argmax(1) == truth.argmax(1))[single].float().mean()
        pair = ~single
        parents = out["weights"][pair].topk(3).indices
        wanted = truth[pair].topk(2).indices
        both = (parents[:, :, None] == wanted[:, None, :]).any(1).all(1).float().mean()
        facts = {"top1_single": float(top1), "both_parents_top3": float(both)}
        for j, name in enumerate(ATTRIBUTES):
            facts[name] = float(
                (out[name].argmax(1) == pictures.attributes[rows, j]).float().mean()
            )
    print(f"judge on held-out pictures: {facts}", file=sys.stderr)
    (work / "judge.json").write_text(json.dumps({**facts, **asdict(settings)}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stage", choices=["pictures", "latents", "export", *STAGES])
    parser.add_argument("--work", type=Path, default=Path("runs/bestiary"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100_000, help="pictures of the world")
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw pictures")
    parser.add_argument(
        "--compile", action="store_true", help="compile what gains from it; needs a C++ compiler"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    torch.set_flush_denormal(True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "export":
        from creatok_cli.backbones.bestiary.export import export

        export(args.work, seed=args.seed)
        return
    pictures = draw_pictures(
        args.work / "pictures", seed=args.seed, count=args.count, workers=args.workers
    )
    settings = STAGES.get(args.stage)
    if settings is not None:
        changes = {
            k: getattr(args, k) for k in ("steps", "batch", "lr") if getattr(args, k) is not None
        }
        settings = Settings(**{**asdict(settings), **changes})
    match args.stage, settings:
        case "pictures", _:
            print(f"{len(pictures)} pictures, {len(pictures.captions)} captions", file=sys.stderr)
        case "latents", _:
            encode_latents(args.work, pictures)
        case "vae", Settings():
            train_vae(args.work, pictures, settings, args.seed)
        case "decoder", Settings():
            train_decoder(args.work, pictures, settings, args.seed)
        case "transformer", Settings():
            train_transformer(args.work, pictures, settings, args.seed, compile=args.compile)
        case "judge", Settings():
            judged = draw_pictures(
                args.work / "judged",
                seed=args.seed,
                count=args.count,
                workers=args.workers,
                kind="judged",
            )
            train_judge(args.work, judged, settings, args.seed)
        case str(stage), Settings():
            name = stage.removeprefix("clip-")
            train_clip(
                args.work,
                name,
                pictures,
                settings,
                args.seed,
                compile=args.compile,
            )


if __name__ == "__main__":
    main()
