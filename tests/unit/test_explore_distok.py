"""Random latents to finds: what is refused, what a run leaves behind, and how it goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from creatok_cli.concepts.mixes import parse_mix
from creatok_cli.domain import Event, ExploreSummary, Found, ImageWritten, Notice, Stage
from creatok_cli.errors import (
    ArtefactError,
    CreatokError,
    InputError,
    TokenMissing,
    UnknownName,
    UnsafeName,
)
from creatok_cli.methods import distok
from creatok_cli.tokens.file import read_header
from creatok_cli.tokens.library import Library
from creatok_cli.tokens.network import Network
from creatok_cli.workflows._fused import Fuser
from creatok_cli.workflows.explore_distok import (
    DistokRequest,
    _Run,
    explore_distok,
    outline,
    run_of,
    settle,
)
from tests.fakes.fusing import distok_network, write_network


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a network for bestiary, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    return write_network(distok_network(), tmp_path / "net.safetensors")


def asked(network: Path | None = None, **changes: Any) -> DistokRequest:
    """A small request on the CPU; every candidate that looks the same twice is novel."""
    settled = {"count": 3, "pick": 1, "novelty": 1.0, "blend": 1e4, "device": "cpu"}
    return DistokRequest(network=network, **(settled | changes))


def finish(events: Iterator[Event]) -> tuple[ExploreSummary, list[Event]]:
    """The summary and all events."""
    seen = list(events)
    assert isinstance(seen[-1], ExploreSummary)
    return seen[-1], seen


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"law": "gausian"}, UnknownName, '--z: unknown law "gausian"; did you mean "gaussian"'),
        ({"count": 0}, InputError, "--count: found 0, expected 1 to 1024"),
        ({"pick": 4}, InputError, "--pick: found 4, expected 1 to 3, the --count"),
        ({"novelty": float("nan")}, InputError, "--novelty: found nan"),
        ({"blend": 0.5}, InputError, "--blend: found 0.5"),
        ({"rarity": 1.0}, InputError, "--rarity: found 1, expected 0 to 0.999999"),
        ({"rarity": 0.9, "law": "cauchy"}, InputError, "--rarity: a shell of cauchy latents"),
        ({"reach": float("inf")}, InputError, "--spread: found inf"),
        ({"seed": -1}, InputError, "--seed: found -1"),
        ({"name": "Odd"}, UnsafeName, "--name: token name 'Odd'"),
        ({"near": "nobody"}, TokenMissing, "no token 'nobody' in the library"),
        ({"near": "gone.safetensors"}, TokenMissing, "gone.safetensors"),
        ({"labeler": "judge"}, InputError, "only measures"),
        ({"network": Path("gone.safetensors")}, TokenMissing, "gone.safetensors"),
        ({"resume": True}, InputError, "--resume: there is no run of these settings in"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_is_told_before_anything_is_opened(
    network: Path, changes: dict[str, Any], error: type[CreatokError], message: str
) -> None:
    with pytest.raises(error, match=message):
        next(explore_distok(asked(**({"network": network} | changes))))
    assert not (network.parent / "out").exists()


def test_a_network_without_latents_is_refused(tmp_path: Path) -> None:
    whole = distok_network()
    tensors = {name: part for name, part in whole.tensors.items() if name != "latents/mean"}
    file = write_network(Network(tensors, whole.recipe), tmp_path / "old.safetensors")
    with pytest.raises(ArtefactError, match="does not say how its latents lie"):
        settle(asked(file))


def test_near_takes_only_tokens_of_the_network_that_explores(network: Path) -> None:
    order = settle(asked(network))
    other = Fuser(distok_network(seed=5), order.facts).fuse(parse_mix(["pig"])[0])
    Library().add_bytes(other.data)
    with pytest.raises(InputError, match='--near "pig100": the token was not made by the network'):
        settle(asked(network, near="pig100"))


def test_a_fused_token_has_a_latent_to_look_around(network: Path) -> None:
    order = settle(asked(network))
    made = order.source.network
    assert made is not None
    mix = parse_mix(["pig=.7", "owl=.3"])[0]
    Library().add_bytes(Fuser(made, order.facts).fuse(mix, word="<hydra>").data)
    near = asked(network, near="hydra", reach=0.1)
    order = settle(near)
    parts = [(0.7, distok.class_row(made, "pig")), (0.3, distok.class_row(made, "owl"))]
    found = _Run(near, order)._near(made, distok)  # type: ignore[arg-type]
    assert found == pytest.approx(distok.encode(made, parts), rel=1e-12)
    wide = asked(network, near="hydra", reach=0.2)
    assert run_of(near, order, made) != run_of(wide, settle(wide), made)


def test_the_outline_needs_no_torch_and_names_what_would_be(network: Path) -> None:
    request = asked(network, seed=4)
    told = outline(settle(request), request)
    assert (told["candidates"], told["pictures"]) == (3, 6)
    assert told["finds"] == "at most 1, distok-4-00 and on"
    assert told["out"] == "out/explore/distok-4"
    assert (told["law"], told["network"]) == ("gaussian", distok_network().id)


def test_a_stopped_run_goes_on_and_an_ended_one_is_no_work(network: Path) -> None:
    stop, folder = threading.Event(), network.parent / "out/explore/distok-0"
    request = asked(network, stop=stop, resume_command="creatok explore distok")

    def stopped_at(kind: type[Event]) -> ExploreSummary:
        stop.clear()
        last: Event | None = None
        for last in explore_distok(request):
            if isinstance(last, kind):
                stop.set()
        assert isinstance(last, ExploreSummary)
        assert (last.code, last.reason) == (130, "interrupted")
        assert last.resume == "creatok explore distok"
        return last

    assert stopped_at(Stage).finds == 0
    assert json.loads((folder / "explore.json").read_text())["ended"] == "unfinished"
    assert stopped_at(Found).finds == 1
    document = json.loads((folder / "explore.json").read_text())
    assert (document["ended"], len(document["finds"])) == ("stopped", 1)

    stop.clear()
    summary, events = finish(explore_distok(asked(network, stop=stop, resume=True)))
    assert (summary.code, summary.finds, summary.looked_at) == (0, 1, 3)
    (found,) = [event for event in events if isinstance(event, Found)]
    assert Library().find(found.name).id == found.id
    document = json.loads((folder / "explore.json").read_text())
    assert (document["ended"], document["looked_at"]) == ("done", 3)
    assert [each["name"] for each in document["finds"]] == [found.name]
    assert len(document["facts"]["candidates"]) == 3
    kept = [each for each in document["facts"]["candidates"] if each["fate"] == "kept"]
    assert [(each["name"], each["id"]) for each in kept] == [(found.name, found.id)]
    header = read_header(folder / f"tokens/{found.name}.safetensors")
    recipe = header.recipe
    seen = header.metadata["modelspec.description"]
    assert seen.startswith(f"a random latent that looks like {found.values['looks like']}")
    assert recipe["latent"] == kept[0]["latent"]
    assert (recipe["network"], recipe["law"]) == (distok_network().id, "gaussian")
    assert recipe["run"] == document["run"]
    assert str(network.parent) not in (folder / "explore.json").read_text()
    names = {"candidates.png", "map.png", "distok.yaml", "pictures", "candidates", "tokens"}
    assert names <= {path.name for path in folder.iterdir()}
    assert set(summary.figures) == {
        f"out/explore/distok-0/{name}" for name in ("candidates.png", "map.png")
    }

    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    again, events = finish(explore_distok(asked(network)))
    assert (again.code, again.finds) == (0, 1)
    assert not any(isinstance(event, ImageWritten) for event in events)
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before
    assert json.loads((folder / "explore.json").read_text()) == document

    # Its find has a latent, and other settings are another run.
    near = asked(network, near=found.name, name="near")
    order = settle(near)
    assert order.source.network is not None
    assert _Run(near, order)._near(order.source.network, distok) == recipe["latent"]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finds of another run"):
        settle(asked(network, law="laplace"))
    settle(asked(network, law="laplace", replace=True))


def test_nothing_novel_is_told_and_has_a_code(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, events = finish(explore_distok(asked(network, count=1, novelty=1e-6)))
    assert (summary.code, summary.reason, summary.finds) == (3, "nothing-found", 0)
    (warning,) = [each for each in events if isinstance(each, Notice) and each.level == "warning"]
    assert warning.message.startswith("0 of 1 candidates are novel; 0 are kept: ask for more")
    assert (network.parent / "out/explore/distok-0/map.png").exists()
