"""Which schedulers a folder offers by which names, and the options they heed; without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from creatok_cli import registry
from creatok_cli.backbones._schedulers import KINDS, Knobs, offered, own_name, settled
from creatok_cli.errors import InputError, UnknownName
from tests.tiny_unet import SD15_SCHEDULER, SDXL_SCHEDULER

NAMES = tuple(KINDS)
DPM = {"_class_name": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (SD15_SCHEDULER, "pndm"),
        (SDXL_SCHEDULER, "euler"),
        (SDXL_SCHEDULER | {"use_karras_sigmas": True}, "euler"),
        (DPM, "dpm++-2m"),
        (DPM | {"use_karras_sigmas": True}, "dpm++-2m-karras"),
        (DPM | {"algorithm_type": "sde-dpmsolver++"}, "dpm++-2m-sde"),
        (DPM | {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, NAMES[9]),
        (DPM | {"algorithm_type": "dpmsolver"}, "dpm++-2m"),
        ({"_class_name": "LCMScheduler", "clip_sample": True}, "lcm"),
        ({"_class_name": "DEISMultistepScheduler"}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_the_own_scheduler_of_a_folder_comes_first(config: dict[str, Any], own: str) -> None:
    assert own_name(config) == own
    found = offered(NAMES, config)
    assert sorted(found) == sorted(NAMES)
    assert found[0] == (own or NAMES[0])
    rest = [name for name in NAMES if name != found[0]]
    assert list(found[1:]) == rest


def test_what_would_ignore_a_folders_schedule_is_left_out() -> None:
    found = offered(NAMES, {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True})
    assert set(NAMES) - set(found) == {"pndm", "heun"}
    flows = ("flow-match-euler", "flow-match-heun")
    assert offered(flows, {"use_dynamic_shifting": True}) == flows[:1]
    assert offered(flows, {}) == flows


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_family_offers_every_name_and_takes_every_class(family: str) -> None:
    facts = registry.describe("backbones", family).facts
    assert set(facts["SCHEDULERS"]) == set(KINDS)
    assert {kind.made_by for kind in KINDS.values()} <= set(facts["PARTS"]["scheduler"])


def test_options_become_knobs() -> None:
    assert settled("x", "ddim", ()) == Knobs()
    told = (("timestep_spacing", "trailing"), ("eta", 1), ("guidance_rescale", 0.7))
    assert settled("x", "ddim", told) == Knobs("trailing", 1.0, 0.7)


@pytest.mark.parametrize(
    ("name", "option", "error", "told"),
    [
        ("ddim", ("eeta", 1), UnknownName, "x has no option 'eeta'; it has timestep_spacing, eta"),
        ("ddim", ("eta", 1.5), InputError, "eta is 0 to 1"),
        ("ddim", ("eta", True), InputError, "eta is 0 to 1"),
        ("ddim", ("eta", "high"), InputError, "eta is 0 to 1"),
        ("ddim", ("guidance_rescale", -0.1), InputError, "guidance_rescale is 0 to 1"),
        ("ddim", ("guidance_rescale", None), InputError, "guidance_rescale is 0 to 1"),
        ("euler", ("eta", 0.5), InputError, "eta has no effect with scheduler euler; ddim and tcd"),
        ("euler", ("timestep_spacing", "even"), InputError, "leading, trailing, linspace"),
        ("lcm", ("timestep_spacing", "trailing"), InputError, "no effect with scheduler lcm"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    name: str, option: tuple[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        settled("x", name, (option,))


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys; from creatok_cli.backbones._schedulers import offered\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
