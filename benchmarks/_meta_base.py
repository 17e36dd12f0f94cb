"""Our adapters over full-size models on torch's meta device: every shape, no weight, no memory.

What layers hold while they work is counted here, too: every storage that an operation makes, until
it is dropped. Attention counts as the fused kernels of cards have it, without its square.

Does not: know what kernels take for themselves, or what an allocator leaves unused.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from _full_size import Base, build, part_class
from torch.utils._python_dispatch import TorchDispatchMode

from creatok_cli import registry
from creatok_cli.backbones.base import Conditioning, Room, torch_dtype
from creatok_cli.domain import BaseFacts


class MetaLoader:
    """Opens parts of a base by its data, in place of a folder."""

    device, loras, room = "meta", (), Room()

    def __init__(self, base: Base, folder: str, dtype: str, words: Mapping[str, Any]) -> None:
        self.base, self.folder, self.dtype, self._words = base, folder, dtype, words

    def model(self, kind: type[Any], part: str, **_: Any) -> Any:
        """A model of the class that the adapter asks for."""
        found = self.base.parts[part]
        if part_class(found) is not kind:
            raise TypeError(f"{part} is a {found.kind}, asked for as {kind.__name__}")
        with torch.device("meta"):
            model = build(found)
        return model.to(torch_dtype(self.dtype)).requires_grad_(False).eval()

    def small(self, kind: type[Any], part: str) -> Any:
        """A scheduler, or one of the tokenizers that were given by their kind."""
        if part == "scheduler":
            return kind.from_config(dict(self.base.scheduler[1]))
        return self._words[self.base.words[part].kind]


def open_meta(name: str, base: Base, folder: str, words: Mapping[str, Any]) -> Any:
    """The adapter of a base. `folder` holds its configs (`_base_memory.write_configs`)."""
    module = registry.get("backbones", base.backbone)
    facts = BaseFacts(
        name=name,
        backbone=base.backbone,
        folder=folder,
        digest="sha256:none",
        licence="none",
        steps=base.steps,
        guidance=base.guidance,
        size_px=(base.side_px, base.side_px),
        size_multiple=16,
        schedulers=tuple(registry.describe("backbones", base.backbone).facts["SCHEDULERS"]),
        dtype=base.dtype,
        max_prompt_tokens=75,
        encoders=base.encoders,
    )
    backbone = module.build(module.Spec(), facts, device="meta", dtype=base.dtype)
    backbone._check = lambda: None
    backbone._loader = lambda folder_=None: MetaLoader(base, folder, base.dtype, words)
    if base.prior is not None:
        backbone._beside = lambda: MetaLoader(base.prior, folder, base.dtype, words)
    return backbone


class Live(TorchDispatchMode):
    """Bytes of the storages that were made inside and still live, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._refs: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, list | tuple) else (found,):
            if isinstance(each, torch.Tensor) and each.device.type == "meta":
                self._count(each.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._refs:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            self._refs.pop(key, None)

        self._refs[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


@contextmanager
def counting() -> Iterator[Live]:
    """Counts what is made inside."""

    def attend(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    functions = torch.nn.functional
    with patch.object(functions, "scaled_dot_product_attention", attend), Live() as live:
        yield live


def written(name: str, base: Base, folder: str, rows: int) -> tuple[int, int]:
    """(bytes that one step of the denoiser takes beside its weights, bytes that decoding takes) for
    `rows` pictures of the usual size.
    """
    backbone = open_meta(name, base, folder, {})
    if base.prior is not None:
        return _kandinsky(backbone, base, rows)
    with torch.inference_mode():
        image, size = backbone.image, (base.side_px, base.side_px)
        cond = Conditioning(
            {
                key: torch.empty(rows, *shape, device="meta", dtype=torch_dtype(base.dtype))
                for key, shape in conditions(base).items()
            }
        )
        with counting() as live:
            latents = next(
                iter(
                    image.denoise(
                        image.noise(range(rows), size),
                        cond,
                        negative=cond,
                        steps=2,
                        guidance=base.guidance,
                        scheduler=backbone.facts.schedulers[0],
                        options=(),
                        seeds=range(rows),
                    )
                )
            )
        with counting() as other:
            image.decode(latents)
    return live.most, other.most


def conditions(base: Base) -> Mapping[str, Sequence[int]]:
    """Shape of what a denoiser reads of one prompt, by name."""
    if base.backbone == "flux":
        length = 512 if base.parts["transformer"].config["guidance_embeds"] else 256
        return {"pooled": (768,), "t5": (length, 4096)}
    return {
        "sd15": {"states": (77, 768)},
        "sdxl": {"states": (77, 2048), "pooled": (1280,), "is_said": (1,)},
        "sd3": {"states": (77, 2048), "pooled": (2048,), "t5": (256, 4096)},
    }[base.backbone]


def _kandinsky(backbone: Any, base: Base, rows: int) -> tuple[int, int]:
    """Part by part: between the parts the adapter asks for values, which meta tensors lack."""
    from types import SimpleNamespace

    from creatok_cli.backbones._kandinsky import KandinskyImage

    silent = SimpleNamespace()  # the prior draws in `denoise`, which is not called
    image = KandinskyImage(backbone._loader(), backbone.facts, silent, None, reads_words=False)
    with torch.inference_mode(), counting() as live:
        found = image.unet(**unet_inputs(base, 2 * rows)).sample
    with torch.inference_mode(), counting() as other:
        image.decode(found[:rows, :4])
    return live.most, other.most


def unet_inputs(base: Base, rows: int) -> dict[str, Any]:
    """What Kandinsky's UNet is called with."""
    meta: dict[str, Any] = {"device": "meta", "dtype": torch_dtype(base.dtype)}
    (_, width), is_old = base.encoders[0], "text_encoder" in base.parts
    more = {"text_embeds": torch.empty(rows, 768, **meta)} if is_old else {}
    return {
        "sample": torch.empty(rows, 4, base.side_px // 8, base.side_px // 8, **meta),
        "timestep": torch.zeros(1, device="meta"),
        "encoder_hidden_states": torch.empty(rows, 77, 1024, **meta) if is_old else None,
        "added_cond_kwargs": {"image_embeds": torch.empty(rows, width, **meta), **more},
    }
