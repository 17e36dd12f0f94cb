"""Samplers of the UNet families by allow-listed name: diffusers' own classes over the settings of
the folder.

A name stands for a class and the settings that make it what the name says; everything else comes
from `scheduler_config.json`, as `from_config` of diffusers takes it. Steps that draw noise take it
from one CPU generator per picture: every class here hands a list of generators to diffusers'
`randn_tensor`, which draws row by row.

Left out: LMS (needs scipy), DPM++ SDE (needs torchsde, and its Brownian tree knows no generators),
single-step DPM++ and KDPM2 (their calls make no whole steps), DEIS (in diffusers it reckons with
numpy over tensors, which numpy is giving up).

Deviates: latents are never clipped, whatever a config says (StableDiffusionPipeline says so, too),
and PNDM never takes its Runge-Kutta steps, as in every published Stable Diffusion.

Does not: know rectified flow, or call a denoiser. It imports torch and diffusers only to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from creatok_cli.domain import Options
from creatok_cli.errors import InputError, UnknownName
from creatok_cli.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

SPACINGS = ("leading", "trailing", "linspace")
"""Where steps lie among the trained ones (Lin et al. 2023, arXiv 2305.08891, Table 2)."""
PLAIN_SIGMAS = {"use_exponential_sigmas": False, "use_beta_sigmas": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What a name stands for."""

    made_by: str
    """The class of diffusers."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What makes the class what the name says."""
    is_drawing: bool = False
    """Whether its steps draw noise; where `has_eta`, only when eta is above 0."""
    has_eta: bool = False
    is_spaced: bool = True
    """Whether `timestep_spacing` moves its steps."""
    knows_zero_snr: bool = True
    """Whether it heeds `rescale_betas_zero_snr` of a config."""


KINDS: Mapping[str, Kind] = {
    "ddim": Kind(made_by="DDIMScheduler", settings={"clip_sample": False}, has_eta=True),
    "ddpm": Kind(made_by="DDPMScheduler", settings={"clip_sample": False}, is_drawing=True),
    "pndm": Kind(made_by="PNDMScheduler", settings={"skip_prk_steps": True}, knows_zero_snr=False),
    "euler": Kind(made_by="EulerDiscreteScheduler"),
    "euler-ancestral": Kind(made_by="EulerAncestralDiscreteScheduler", is_drawing=True),
    "heun": Kind(
        made_by="HeunDiscreteScheduler", settings={"clip_sample": False}, knows_zero_snr=False
    ),
    "dpm++-2m": Kind(
        made_by="DPMSolverMultistepScheduler",
        settings={"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
    ),
    "dpm++-2m-karras": Kind(
        made_by="DPMSolverMultistepScheduler",
        settings={
            **{"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
            **PLAIN_SIGMAS,
        },
    ),
    "dpm++-2m-sde": Kind(
        made_by="DPMSolverMultistepScheduler",
        settings={
            **{"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
        },
        is_drawing=True,
    ),
    "dpm++-2m-sde-karras": Kind(
        made_by="DPMSolverMultistepScheduler",
        settings={
            **{"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
            **PLAIN_SIGMAS,
        },
        is_drawing=True,
    ),
    "unipc": Kind(made_by="UniPCMultistepScheduler"),
    "lcm": Kind(
        made_by="LCMScheduler",
        settings={"clip_sample": False},
        is_drawing=True,
        is_spaced=False,
    ),
    "tcd": Kind(
        made_by="TCDScheduler", settings={"clip_sample": False}, has_eta=True, is_spaced=False
    ),
}
USUAL = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False}
"""What diffusers takes where a config is silent."""


def offered(names: Sequence[str], config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that draw on a folder, its own first where it is among them. `config`: its
    `scheduler_config.json`.

    Left out are classes that would ignore a folder's rescaled schedule, or its dynamic shift, and
    draw something else.
    """
    own, left_out = own_name(config), set[str]()
    if config.get("rescale_betas_zero_snr"):
        left_out |= {name for name, kind in KINDS.items() if not kind.knows_zero_snr}
    if config.get("use_dynamic_shifting"):
        left_out.add("flow-match-heun")
    kept = [name for name in names if name not in left_out]
    return tuple(sorted(kept, key=lambda name: name != own))


def own_name(config: Mapping[str, Any]) -> str:
    """The name of a folder's own scheduler; empty when it is none of these.

    Of several names for a class, the one whose settings are nearest, the first of these.
    """
    there = USUAL | dict(config)
    ours = [name for name, kind in KINDS.items() if kind.made_by == config.get("_class_name")]
    differing = {
        name: sum(there.get(key, value) != value for key, value in KINDS[name].settings.items())
        for name in ours
    }
    return min(ours, key=lambda name: differing[name], default="")


def load_kinds() -> Mapping[str, Any]:
    """The class of each name. Called by one thread: the lazy imports of the library are not made
    for several.
    """
    import diffusers

    return {name: getattr(diffusers, kind.made_by) for name, kind in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a job may say about its steps, beside their number."""

    spacing: str | None = None
    """One of `SPACINGS`, or what the folder says."""
    eta: float = 0.0
    """Share of the noise that is drawn anew at each step: 0 none (the default of diffusers'
    pipelines, for TCD, too), 1 all (Song et al. 2021, arXiv 2010.02502, eq. 16; Zheng et al. 2024,
    arXiv 2402.19159: gamma).
    """
    rescale: float = 0.0
    """Guidance rescale phi (arXiv 2305.08891, section 3.4)."""


def settled(base: str, name: str, options: Options) -> Knobs:
    """The options of a job with this scheduler.

    Raises UnknownName for an unknown option, InputError for a value out of range or without effect.
    """
    given, kind = dict(options), KINDS[name]
    spacing = given.pop("timestep_spacing", None)
    eta, rescale = given.pop("eta", None), given.pop("guidance_rescale", 0.0)
    if given:
        raise UnknownName(
            f"base {base} has no option {next(iter(given))!r}; "
            "it has timestep_spacing, eta, guidance_rescale"
        )
    if spacing is not None and spacing not in SPACINGS:
        raise InputError(f"base {base}: timestep_spacing is one of {', '.join(SPACINGS)}")
    for word, value in (("eta", eta or 0.0), ("guidance_rescale", rescale)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"base {base}: {word} is 0 to 1")
    if spacing is not None and not kind.is_spaced:
        raise InputError(f"base {base}: timestep_spacing has no effect with scheduler {name}")
    if eta is not None and not kind.has_eta:
        raise InputError(
            f"base {base}: eta has no effect with scheduler {name}; ddim and tcd heed it"
        )
    return Knobs(None if spacing is None else str(spacing), float(eta or 0), float(rescale or 0))


class Course:
    """The steps of one draw: a fresh scheduler, set. Nothing else may use it.

    `first` steps are left out at the beginning, for a draw that begins from a picture. Times stay
    on the CPU: no step waits for the device.
    """

    def __init__(
        self,
        kinds: Mapping[str, Any],
        name: str,
        config: Mapping[str, Any],
        steps: int,
        knobs: Knobs,
        *,
        first: int = 0,
    ) -> None:
        kind = KINDS[name]
        spacing = {"timestep_spacing": knobs.spacing} if knobs.spacing else {}
        self._kind, self._eta, self._taken = kind, knobs.eta, steps - first
        try:
            self._schedule: Any = kinds[name].from_config(dict(config), **kind.settings, **spacing)
            self._schedule.set_timesteps(steps, device="cpu")
        except (ValueError, ImportError) as error:
            raise InputError(f"scheduler {name} cannot take {steps} steps: {error}") from error
        skipped = first * self._schedule.order
        self.times: Tensor = self._schedule.timesteps[skipped:]
        """[n] trained times of the denoiser's calls, on the CPU."""
        if len(self.times) > 0 and float(self.times.min()) < 0:
            # Rounding in diffusers: trailing with 61 steps makes 62.
            raise InputError(f"scheduler {name} cannot take {steps} steps: take one more or less")
        if hasattr(self._schedule, "set_begin_index"):
            self._schedule.set_begin_index(skipped)

    def begin(self, noise: Tensor) -> Tensor:
        """Where a draw from noise alone begins."""
        begun: Tensor = noise * self._schedule.init_noise_sigma
        return begun

    def mix(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Where a draw from latents of a picture begins."""
        mixed: Tensor = self._schedule.add_noise(
            latents, noise, self.times[:1].expand(len(latents))
        )
        return mixed

    def scale(self, latents: Tensor, index: int) -> Tensor:
        """What the denoiser sees of latents at call `index`."""
        scaled: Tensor = self._schedule.scale_model_input(latents, self.times[index])
        return scaled

    def step(self, found: Tensor, index: int, latents: Tensor, seeds: Sequence[int]) -> Tensor:
        """Latents after call `index`, which found this."""
        more: dict[str, Any] = {"eta": self._eta} if self._kind.has_eta else {}
        if self._kind.is_drawing or self._eta > 0:
            more["generator"] = [generator(seed, "step", index) for seed in seeds]
        after: Tensor = self._schedule.step(
            found, self.times[index], latents, return_dict=False, **more
        )[0]
        return after

    def is_whole(self, index: int) -> bool:
        """Whether a step ends with call `index`: Heun takes two for all but the last, PNDM two for
        the first.
        """
        last = len(self.times) - 1
        if self._schedule.order > 1:
            return index == last or bool(self._schedule.state_in_first_order)
        return last - index < self._taken
