"""Low-rank weights (LoRA) inside open models: trained as small adapters, worn as changed weights.

W + scale * alpha / rank * B A for each named matrix W (Hu et al. 2021, arXiv 2106.09685). To train,
the matrices become layers of peft with f32 leaves. To draw, the product is added in f32 and cast
once: the same picture as with the adapters of diffusers, without their cost, and nothing changes
while several threads draw.

Does not: check files (`tokens/lora.py` does), or know what a base's parts are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from creatok_cli.backbones._lora_names import Modules, Piece, part_of
from creatok_cli.errors import ArtefactError
from creatok_cli.seeds import generator
from creatok_cli.tokens._layout import Layout
from creatok_cli.tokens.lora import LowRank, read_changes, read_lora

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = (
    *(".to_q", ".to_k", ".to_v", ".to_out.0"),
    *(".add_q_proj", ".add_k_proj", ".add_v_proj", ".to_add_out"),
)
"""How the projections of an attention layer end in diffusers, those of the second stream of joint
blocks included.
"""
ADAPTER = "default"
KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Adapted:
    """Low-rank weights inside `model`, to be trained; see `backbones.base.Adaptation`."""

    def __init__(self, model: Any, prefix: str) -> None:
        self._prefix = prefix
        self.parameters: Mapping[str, Tensor] = {
            f"{prefix}.{name}.{half}.weight": getattr(layer, half)[ADAPTER].weight
            for name, layer in _adapters(model)
            for half in ("lora_A", "lora_B")
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """f32 copies on the CPU, as `load_lora_weights` of diffusers reads them: alpha = rank."""
        return {
            name: leaf.detach().to("cpu", copy=True).contiguous()
            for name, leaf in self.parameters.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put copies back, in place."""
        differing = sorted(set(tensors) ^ set(self.parameters)) or [
            name for name, leaf in self.parameters.items() if tensors[name].shape != leaf.shape
        ]
        if differing:
            raise ArtefactError(
                f"these low-rank weights are of another model or rank: {differing[0][:100]} "
                "does not fit"
            )
        with torch.no_grad():
            for name, leaf in self.parameters.items():
                leaf.copy_(tensors[name])


Loras = Sequence[tuple[str, float]]
"""(path, scale), in the order in which they are applied."""


def wear(model: Any, part: str, loras: Loras) -> Any:
    """The model with the LoRA files' changes to its part added to its weights. All changes of a
    matrix are summed in f32, in order, and cast once; scale 0 changes nothing.

    Raises as `tokens.lora.read_lora`, and ArtefactError for a matrix that the model does not have.
    """
    shapes = {
        name: tuple(layer.weight.shape)
        for name, layer in model.named_modules()
        if loras and isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }
    modules = Modules(shapes)
    added: dict[str, list[tuple[Piece, _Product]]] = {}
    for path, scale in loras:
        if not any(part_of(each, (part,)) == part for each in read_lora(path).changes):
            continue
        header, data, layout = read_changes(path)
        for change in header.changes if scale else ():
            if part_of(change, (part,)) != part:
                continue
            try:
                pieces = modules.pieces(change)
            except ArtefactError as error:
                raise ArtefactError(f"{path}: does not fit this base: {error}") from error
            product = _Product(change, data, layout, scale * change.factor)
            for piece in pieces:
                added.setdefault(piece.module, []).append((piece, product))
    with torch.no_grad():
        for name, products in added.items():  # one matrix in f32 at a time
            own = model.get_submodule(name).weight
            whole = own.to(torch.float32, copy=True)
            for piece, product in products:
                rows = product.rows(piece.first, piece.last, own.device)
                whole[piece.at :][: len(rows)] += rows.reshape(len(rows), *own.shape[1:])
            own.copy_(whole)
            if not own.isfinite().all():
                files = ", ".join(path for path, _ in loras)
                raise ArtefactError(f"{files}: {part}.{name} overflows with these LoRAs and scales")
    return model


@dataclass(frozen=True, slots=True)
class _Product:
    """factor * B A of one change, from the bytes of its file."""

    change: LowRank
    data: bytes
    layout: Layout
    factor: float

    def rows(self, first: int, last: int, device: torch.device) -> Tensor:
        """Rows [n in] f32 of the product, without its other rows."""
        down, up = (
            _tensor(self.data, self.layout, key).flatten(1)
            for key in (self.change.down, self.change.up)
        )
        return self.factor * (up[first:last].to(device) @ down.to(device))


def _tensor(data: bytes, layout: Layout, name: str) -> Tensor:
    dtype, shape, first, last = layout.tensors[name]
    plain = torch.frombuffer(bytearray(data[first:last]), dtype=KINDS[dtype])
    return plain.reshape(shape).float()


def adapt(model: Any, prefix: str, rank: int, *, seed: int) -> Adapted:
    """Low-rank leaves on every attention projection of a frozen model; those of an earlier call are
    dropped. `prefix` is what diffusers calls the model in files: `transformer`, `prior`.

    A is Gaussian of deviation 1 / rank as in diffusers' training scripts, each from
    `derive(seed, "lora", its name)`; B is zero, so nothing changes at the start. alpha = rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise ValueError(f"rank is {rank}: choose 1 or more")
    _remove(model)
    chosen = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and f".{name}".endswith(ATTENTION)
    ]
    settings = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=chosen)
    with torch.random.fork_rng(devices=[]):  # its own start is drawn, then replaced
        inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    model.eval()
    with torch.no_grad():
        for name, layer in _adapters(model):
            first, second = layer.lora_A[ADAPTER].float(), layer.lora_B[ADAPTER].float()
            start = torch.randn(first.weight.shape, generator=generator(seed, "lora", name))
            first.weight.copy_(start / rank)
            second.weight.zero_()
    return Adapted(model, prefix)


def _adapters(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    yield from (
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)
    )


def _remove(model: Any) -> None:
    """Put the plain layers back where an earlier call put adapters."""
    for name, layer in list(_adapters(model)):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
