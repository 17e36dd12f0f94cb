"""Files for other clients: each client's own lookup finds the right rows, and we read all back."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from creatok_cli.errors import (
    CreatokError,
    DigestMismatch,
    InputError,
    Refused,
    TokenMissing,
    UnknownName,
)
from creatok_cli.hashing import sha256_hex
from creatok_cli.tokens._imports import Import, read_any
from creatok_cli.tokens.file import check_bytes, load_token, read_header, read_rows, token_bytes
from creatok_cli.tokens.profiles import (
    CLIENTS,
    FAMILIES,
    Export,
    Files,
    architecture_of,
    export,
    family_of,
)
from creatok_cli.tokens.token import Token
from tests.unit.tokens.kit import REAL, real_token, token_of

STEM = "hydra-fox"
WORKS = {
    "comfyui": {"sd15", "sdxl", "sd3", "flux"},
    "a1111": {"sd15", "sdxl", "sd3"},
    "forge": {"sd15", "sdxl", "flux"},
    "invokeai": {"sd15", "sdxl"},
    "diffusers": set(REAL),
    "onetrainer": {"sd15", "sdxl", "sd3", "flux"},
    "kohya": {"sd15", "sdxl"},
}
PAIRS = [(client, family) for client in WORKS for family in REAL]
POSSIBLE = [(client, family) for client, family in PAIRS if family in WORKS[client]]
IMPOSSIBLE = [pair for pair in PAIRS if pair not in POSSIBLE]


def written(
    folder: Path, token: Token, client: str, *, stem: str = STEM, force: bool = False
) -> tuple[Export, list[Path]]:
    """A token as files of a client."""
    native = folder / "native.safetensors"
    native.write_bytes(token_bytes(token, {"modelspec.license": "cc0-1.0"}))
    header, rows = read_rows(native)
    native.unlink()
    made = export(header, rows, client, stem=stem, force=force)
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    return made, [folder / name for name in made.files]


def back(found: Import, folder: Path) -> Token:
    """An import as a token."""
    path = folder / "back.safetensors"
    path.write_bytes(found.data)
    return load_token(path)


# The table


def test_the_table_is_the_one_of_the_notes() -> None:
    for client, family in PAIRS:
        cell = CLIENTS[client].cells[family]
        assert isinstance(cell, Files) == (family in WORKS[client]), (client, family)
    assert set(CLIENTS) == set(WORKS)
    for client in CLIENTS.values():
        assert set(client.cells) == set(FAMILIES)


KEYS = {
    ("comfyui", "sd15"): {STEM: ["emb_params"]},
    ("comfyui", "sd3"): {STEM: ["clip_g", "clip_l", "t5xxl"]},
    ("comfyui", "flux"): {STEM: ["clip_l", "t5xxl"]},
    ("a1111", "sd3"): {STEM: ["clip_g", "clip_l"]},
    ("forge", "flux"): {STEM: ["emb_params"]},
    ("invokeai", "sdxl"): {STEM: ["clip_g", "clip_l"]},
    ("onetrainer", "sd15"): {STEM: ["emp_params"]},
    ("onetrainer", "sd3"): {STEM: ["clip_g", "clip_l", "t5"]},
    ("kohya", "sdxl"): {STEM: ["clip_g", "clip_l"]},
    ("diffusers", "sd15"): {"learned_embeds": ["<hydra-fox>"]},
    ("diffusers", "sd3"): {
        "learned_embeds": ["<hydra-fox>"],
        "learned_embeds_2": ["<hydra-fox>"],
        "learned_embeds_3": ["<hydra-fox>"],
    },
    ("diffusers", "kandinsky22"): {"learned_embeds": ["<hydra-fox>"]},
    ("diffusers", "bestiary"): {
        "learned_embeds": ["<hydra-fox>"],
        "learned_embeds_2": ["<hydra-fox>"],
    },
}


@pytest.mark.parametrize(("client", "family"), KEYS)
def test_file_names_and_keys(tmp_path: Path, client: str, family: str) -> None:
    _, paths = written(tmp_path, real_token(family), client)
    found = {path.stem: sorted(load_file(path)) for path in paths}
    assert found == KEYS[client, family]


@pytest.mark.parametrize(("client", "family"), POSSIBLE)
def test_every_file_is_plain_f32_with_the_metadata_of_the_spec(
    tmp_path: Path, client: str, family: str
) -> None:
    token = real_token(family, steps=7, seed=3)
    made, paths = written(tmp_path, token, client)
    assert made.family == family
    for path in paths:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            assert all(file.get_tensor(key).dtype == torch.float32 for key in file.keys())
        data = path.read_bytes()
        payload = data[8 + int.from_bytes(data[:8], "little") :]
        assert metadata["modelspec.sai_model_spec"] == "1.0.1"
        assert metadata["modelspec.architecture"] == FAMILIES[family].architecture
        assert metadata["modelspec.architecture"].endswith("/textual-inversion")
        assert metadata["modelspec.implementation"].startswith("creatok ")
        assert metadata["modelspec.title"] == STEM
        assert metadata["modelspec.license"] == "cc0-1.0"
        assert metadata["modelspec.hash_sha256"] == "0x" + sha256_hex(payload)
        assert metadata["creatok.id"] == token.id
        assert json.loads(metadata["creatok.recipe"]) == token.recipe
        assert (metadata["creatok.steps"], metadata["creatok.method"]) == ("7", "cretok")
        assert "creatok.forced" not in metadata
    assert made.trigger in (STEM, f"embedding:{STEM}", f"<{STEM}>")
    again, _ = written(tmp_path, token, client)
    assert again.files == made.files


@pytest.mark.parametrize(("client", "family"), IMPOSSIBLE)
def test_impossible_pairs_are_refused_with_reason_and_way(
    tmp_path: Path, client: str, family: str
) -> None:
    with pytest.raises(Refused) as caught:
        written(tmp_path, real_token(family), client)
    said = str(caught.value)
    assert said.startswith(f"token <hydra-fox> (for {FAMILIES[family].title}) cannot go to ")
    proposed = re.search(r"--for (\w+) works", said)
    assert proposed, said
    assert family in WORKS[proposed[1]]
    assert ("--force" in said) == (REAL[family].get("clip_l") == 768)
    if family == "bestiary":
        assert "fit the text encoders of no other base" in said
        with pytest.raises(Refused, match="no other base"):
            written(tmp_path, real_token(family), client, force=True)


def test_an_unknown_client_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        written(tmp_path, real_token("sd15"), "comfy-ui")


@pytest.mark.parametrize(
    ("widths", "recipe", "family"),
    [
        (REAL["sd15"], {}, "sd15"),
        (REAL["sdxl"], {}, "sdxl"),
        (REAL["sd3"], {}, "sd3"),
        (REAL["flux"], {}, "flux"),
        (REAL["sdxl"], {"base": "sd3"}, "sd3"),
        (REAL["sdxl"], {"base": "sd3:owner/repo@0123"}, "sd3"),
        (REAL["sdxl"], {"architecture": "stable-diffusion-3.5-large/textual-inversion"}, "sd3"),
        (REAL["sdxl"], {"backbone": "sd3", "base": "/models/mine"}, "sd3"),
        (REAL["sd15"], {"base": "kandinsky21"}, "kandinsky21"),
        (REAL["sd15"], {"base": "flux"}, "flux"),
        (REAL["kandinsky22"], {"base": "kandinsky22"}, "kandinsky22"),
        (REAL["bestiary"], {"base": "bestiary"}, "bestiary"),
        ({"clip_l": 16, "clip_g": 24}, {"backbone": "sd3", "base": "./tiny"}, "other"),
        ({"clip_l": 1024}, {}, "other"),
        (REAL["bestiary"], {}, "other"),
        (REAL["sdxl"], {"architecture": "stable-diffusion-v1/textual-inversion"}, "other"),
    ],
)
def test_the_family_of_a_token(
    widths: Mapping[str, int], recipe: dict[str, str], family: str
) -> None:
    assert family_of(widths, recipe) == family


def test_architectures_of_bases() -> None:
    assert architecture_of("bestiary") == "creatok-bestiary/textual-inversion"
    assert architecture_of("sd3") == "stable-diffusion-3-medium/textual-inversion"
    assert architecture_of("something") == "creatok/textual-inversion"
    for name, family in FAMILIES.items():
        assert family_of(REAL.get(name, {}), {"architecture": family.architecture}) == name


def test_a_token_of_an_unknown_base_goes_to_diffusers_only(tmp_path: Path) -> None:
    token = token_of({"clip_l": 16, "clip_g": 24, "clip_h": 8, "t5xxl": 32}, base="./tiny")
    _, paths = written(tmp_path, token, "diffusers")
    shapes = [next(iter(load_file(path).values())).shape[1] for path in paths]
    assert shapes == [16, 24, 8, 32]
    assert back(read_any(tmp_path), tmp_path).id == token.id
    with pytest.raises(Refused, match="of its own"):
        written(tmp_path, token, "comfyui")


@pytest.mark.parametrize(("client", "family"), [("forge", "sd3"), ("kohya", "flux")])
def test_force_writes_the_clip_l_rows_alone_and_records_it(
    tmp_path: Path, client: str, family: str
) -> None:
    token = real_token(family)
    made, [path] = written(tmp_path, token, client, force=True)
    assert list(load_file(path)) == ["emb_params"]
    assert torch.equal(load_file(path)["emb_params"], token.vectors["clip_l"])
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["creatok.forced"] == f"clip_l of {FAMILIES[family].architecture}"
    assert any("forced" in note for note in made.notes)
    found = read_any(path)
    again = back(found, tmp_path)
    assert torch.equal(again.vectors["clip_l"], token.vectors["clip_l"])
    assert again.recipe["parents"] == [token.id]
    assert again.id != token.id
    assert "another token" in found.notes[0]


def test_force_changes_nothing_where_the_pair_works(tmp_path: Path) -> None:
    token = real_token("sdxl")
    plain, _ = written(tmp_path, token, "comfyui")
    forced, _ = written(tmp_path, token, "comfyui", force=True)
    assert plain.files == forced.files


def test_notes_tell_what_will_differ(tmp_path: Path) -> None:
    token = real_token("sd3")
    bare = replace(token, vectors={k: v for k, v in token.vectors.items() if k != "t5xxl"})
    notes, _ = written(tmp_path, bare, "comfyui")
    assert any("carries no T5 rows" in note for note in notes.notes)
    assert list(load_file(tmp_path / f"{STEM}.safetensors")) == ["clip_g", "clip_l"]
    assert any("file name" in note for note in written(tmp_path, token, "a1111")[0].notes)
    assert any(
        "load_textual_inversion" in n for n in written(tmp_path, token, "diffusers")[0].notes
    )
    plain, _ = written(tmp_path, real_token("sd15"), "a1111", stem="creative")
    assert any("every prompt" in note for note in plain.notes)
    assert written(tmp_path, token, "comfyui")[0].notes == ()


# Round trips


@pytest.mark.parametrize(("client", "family"), POSSIBLE)
@pytest.mark.parametrize("n", [1, 3])
def test_round_trip(tmp_path: Path, client: str, family: str, n: int) -> None:
    token = real_token(family, n=n)
    _, paths = written(tmp_path, token, client)
    found = read_any(paths[0])  # further files are found beside it
    again = back(found, tmp_path)
    assert found.origin == client
    carried = {key for path in paths for key in encoders_in(path)}
    for encoder in carried:
        assert torch.equal(again.vectors[encoder], token.vectors[encoder])
    assert (again.word, again.literal) == (token.word, token.literal)
    if carried == set(token.vectors):
        assert again.id == token.id
        assert again.recipe == token.recipe
        assert found.notes == ()
    else:
        assert (client, family) in [("a1111", "sd3"), ("forge", "flux")]
        assert again.recipe["parents"] == [token.id]
        assert "t5xxl" in found.notes[0]
    header = check_bytes(found.data, "x")
    assert header.metadata["modelspec.license"] == "cc0-1.0"


def encoders_in(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(json.loads(file.metadata()["creatok.keys"]).values())


@pytest.mark.parametrize(("client", "family"), POSSIBLE)
def test_without_our_metadata_the_vectors_still_come_back(
    tmp_path: Path, client: str, family: str
) -> None:
    """As after a tool that saves a file again."""
    token = real_token(family, n=1)
    _, paths = written(tmp_path, token, client)
    for path in paths:
        save_file(load_file(path), path)
    if family == "bestiary":
        with pytest.raises(Refused, match="vectors of width 128; known are 768"):
            read_any(tmp_path)
        return
    again = back(read_any(tmp_path), tmp_path)
    assert again.recipe["method"] == "import"
    for encoder, rows in again.vectors.items():
        assert torch.equal(rows, token.vectors[encoder])
    assert again.word == token.word


def test_a_native_file_and_its_renaming(tmp_path: Path) -> None:
    token = real_token("sdxl")
    path = tmp_path / "x.pt"  # content decides, not the extension
    path.write_bytes(token_bytes(token))
    assert read_any(path).data == token_bytes(token)
    renamed = back(read_any(path, word="other"), tmp_path)
    assert (renamed.id, renamed.word) == (token.id, "<other>")
    relabelled = back(read_any(path, literal="odd"), tmp_path)
    assert (relabelled.literal, relabelled.id == token.id) == ("odd", False)


def test_files_for_clients_are_no_files_for_sheets(tmp_path: Path) -> None:
    _, [path] = written(tmp_path, real_token("sdxl"), "comfyui")
    with pytest.raises(Refused, match=r"written for 'comfyui'.*creatok tokens import"):
        read_header(path)


# Foreign files


def foreign(folder: Path, tensors: dict[str, Tensor], name: str = "My Fox v2") -> Path:
    path = folder / f"{name}.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("tensors", "encoders", "family"),
    [
        ({"emb_params": torch.ones(2, 768)}, {"clip_l": 2}, "sd15"),
        ({"emp_params": torch.ones(1, 768)}, {"clip_l": 1}, "sd15"),
        ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, None, "sdxl"),
        ({"<cat-toy>": torch.ones(768)}, {"clip_l": 1}, "sd15"),
        ({"clip_l": torch.ones(1, 768), "t5": torch.ones(2, 4096)}, None, "flux"),
        ({"emb_params": torch.ones(1, 1024)}, {"clip_h": 1}, "other"),
    ],
)
def test_foreign_files_become_tokens(
    tmp_path: Path, tensors: dict[str, Tensor], encoders: dict[str, int] | None, family: str
) -> None:
    found = read_any(foreign(tmp_path, tensors))
    token = back(found, tmp_path)
    assert found.origin == "foreign"
    assert token.recipe["method"] == "import"
    assert token.word == ("<cat-toy>" if "<cat-toy>" in tensors else "<my-fox-v2>")
    assert family_of(token.widths, token.recipe) == family
    if encoders:
        assert token.counts == encoders
    named = back(read_any(foreign(tmp_path, tensors), word="<x>", literal="fox"), tmp_path)
    assert (named.word, named.literal) == ("<x>", "fox")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_become_f32_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.randn(3, 768).to(dtype)
    rows[0, :4] = torch.tensor([0.0, -0.0, 1e-7, 300.0]).to(dtype)
    token = back(read_any(foreign(tmp_path, {"emb_params": rows})), tmp_path)
    assert torch.equal(token.vectors["clip_l"], rows.float())


def test_a_folder_of_foreign_learned_embeds_is_one_token(tmp_path: Path) -> None:
    folder = tmp_path / "Cat Toy"
    folder.mkdir()
    one = foreign(folder, {"<cat>": torch.ones(1, 768)}, "learned_embeds")
    foreign(folder, {"<cat>": torch.ones(1, 1280)}, "learned_embeds_2")
    token = back(read_any(folder), tmp_path)
    assert token.widths == {"clip_l": 768, "clip_g": 1280}
    alone = read_any(one)
    assert "import the folder" in alone.notes[0]
    assert back(alone, tmp_path).widths == {"clip_l": 768}
    foreign(folder, {"any": torch.ones(1, 768)}, "learned_embeds")
    assert back(read_any(folder), tmp_path).word == "<cat-toy>"
    foreign(folder, {"any": torch.ones(1, 1280)}, "learned_embeds")
    with pytest.raises(Refused, match="clip_g twice"):
        read_any(folder)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"emb_params": torch.ones(1, 640)}, "vectors of width 640"),
        ({"emb_params": torch.ones(1, 768, dtype=torch.float64)}, "expected F32, F16 or BF16"),
        ({"emb_params": torch.ones(())}, "its tensor 'emb_params' is unknown"),
        ({"emb_params": torch.ones(1, 1, 768)}, "is unknown"),
        ({"emb_params": torch.full((1, 768), float("nan"))}, "not finite"),
        ({"emb_params": torch.full((1, 768), 1e30)}, "length"),
        ({"emb_params": torch.ones(65, 768)}, "expected \\[n d\\]"),
        ({"t5xxl": torch.ones(1, 4096)}, "no vectors for a CLIP encoder"),
        ({"a": torch.ones(1, 768), "b": torch.ones(1, 768)}, "unknown: no learned word"),
        ({f"lora_{n}": torch.ones(4, 4) for n in range(9)}, "a LoRA or a model"),
        ({"t5": torch.ones(1, 4096), "t5xxl": torch.ones(1, 4096)}, "t5xxl twice"),
    ],
)
def test_foreign_files_that_are_no_words(
    tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        read_any(foreign(tmp_path, tensors))


class Canary:
    """Would leave a file behind if it was ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.ckpt", "x.safetensors", "x.SAFETENSORS"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickle_is_never_opened(tmp_path: Path, name: str, zipped: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / name
    thing = {"string_to_param": {"*": torch.ones(1, 768)}, "evil": Canary(str(canary))}
    if zipped:
        torch.save(thing, path)
    else:
        path.write_bytes(pickle.dumps(thing))
    with pytest.raises(Refused, match="can run code"):
        read_any(path)
    if path.suffix in (".pt", ".bin", ".ckpt"):
        with pytest.raises(Refused, match="ask for a safetensors file"):
            read_any(path)
    assert not canary.exists()


def test_paths_that_hold_no_token(tmp_path: Path) -> None:
    with pytest.raises(TokenMissing):
        read_any(tmp_path / "none.safetensors")
    with pytest.raises(TokenMissing):
        read_any(tmp_path / "learned_embeds.safetensors")
    with pytest.raises(InputError, match=r"0 \.safetensors files"):
        read_any(tmp_path)
    foreign(tmp_path, {"emb_params": torch.ones(1, 768)}, "a")
    assert read_any(tmp_path).origin == "foreign"
    foreign(tmp_path, {"emb_params": torch.ones(1, 768)}, "b")
    with pytest.raises(InputError, match=r"2 \.safetensors files"):
        read_any(tmp_path)
    with pytest.raises(InputError, match="--word"):
        read_any(foreign(tmp_path, {"emb_params": torch.ones(1, 768)}, "äöü"))
    with pytest.raises(InputError, match="must look like"):
        read_any(tmp_path / "a.safetensors", word="Big Fox")
    with pytest.raises(InputError, match="literal"):
        read_any(tmp_path / "a.safetensors", literal="")


# What each client looks up, replayed from its documented order


def comfyui(path: Path, key: str, width: int) -> Tensor | None:
    """`load_embed` of ComfyUI for one tokenizer: its order, and its width check at use.

    string_to_param, a list of dicts by width, the tokenizer's own key, bundle_emb, else the first
    value; rows of a wrong width are dropped with a warning.
    """
    found: Any = load_file(path)
    if "string_to_param" in found:
        rows = next(iter(found["string_to_param"].values()))
    elif isinstance(found, list):
        rows = next(each for each in found if each.shape[-1] == width)
    elif key in found:
        rows = found[key]
    else:
        bundle = [name for name in found if name.startswith("bundle_emb.")]
        rows = found[bundle[0]] if bundle else next(iter(found.values()))
    tensor: Tensor = rows
    if tensor.shape[-1] != width:
        warnings.warn("shape mismatch when trying to apply embedding", stacklevel=1)
        return None
    return tensor


COMFY = {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_comfyui_finds_the_rows_of_each_encoder(tmp_path: Path, family: str) -> None:
    token = real_token(family)
    _, [path] = written(tmp_path, token, "comfyui")
    for encoder in REAL[family]:
        rows = comfyui(path, encoder, COMFY[encoder])
        assert rows is not None
        assert torch.equal(rows, token.vectors[encoder])


def test_comfyui_drops_what_lacks_its_key_and_takes_the_first_value(tmp_path: Path) -> None:
    """Why SD3 files carry T5 rows, and why a file holds nothing but rows."""
    token = real_token("sd3")
    bare = replace(token, vectors={k: v for k, v in token.vectors.items() if k != "t5xxl"})
    _, [path] = written(tmp_path, bare, "comfyui")
    assert next(iter(load_file(path))) == "clip_g"
    with pytest.warns(UserWarning, match="shape mismatch"):
        assert comfyui(path, "t5xxl", 4096) is None


def a1111(path: Path) -> Tensor | dict[str, Tensor]:
    """`create_embedding_from_data`: string_to_param, SDXL by both keys, else the one tensor."""
    found = load_file(path)
    if "clip_g" in found and "clip_l" in found:
        return found
    assert "string_to_param" not in found
    assert len(found) == 1
    [rows] = found.values()
    assert rows.ndim == 2
    return rows


def kohya(path: Path, family: str) -> list[Tensor]:
    """SD 1: the first tensor, `string_to_param` aside; SDXL: clip_l and clip_g."""
    found = load_file(path)
    if family == "sdxl":
        return [found["clip_l"], found["clip_g"]]
    return [next(iter(found.values()))]


def invokeai(path: Path) -> str:
    """The probe of a file: its base."""
    found = load_file(path)
    if "string_to_param" in found:
        width = next(iter(found["string_to_param"].values())).shape[-1]
    elif "emb_params" in found:
        width = found["emb_params"].shape[-1]
    elif "clip_g" in found:
        width = found["clip_g"].shape[-1]
    else:
        assert len(found) < 10
        width = next(iter(found.values())).shape[0]
    return {768: "sd15", 1024: "sd2", 1280: "sdxl"}[width]


ONETRAINER = {
    "sd15": {"clip_l": "emp_params"},
    "sdxl": {"clip_l": "clip_l", "clip_g": "clip_g"},
    "sd3": {"clip_l": "clip_l", "clip_g": "clip_g", "t5xxl": "t5"},
    "flux": {"clip_l": "clip_l", "t5xxl": "t5"},
}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a1111_forge_kohya_and_invokeai_find_their_rows(tmp_path: Path, family: str) -> None:
    token = real_token(family)
    for client in ("a1111", "forge"):
        _, [path] = written(tmp_path, token, client)
        rows = a1111(path)
        found = rows if isinstance(rows, dict) else {"clip_l": rows}
        assert set(found) == set(token.vectors)
        assert all(torch.equal(found[name], token.vectors[name]) for name in found)
        assert path.stem == STEM
    _, [path] = written(tmp_path, token, "kohya")
    for rows, name in zip(kohya(path, family), ("clip_l", "clip_g"), strict=False):
        assert torch.equal(rows, token.vectors[name])
    _, [path] = written(tmp_path, token, "invokeai")
    assert invokeai(path) == family


@pytest.mark.parametrize("family", ONETRAINER)
def test_onetrainer_finds_its_keys(tmp_path: Path, family: str) -> None:
    token = real_token(family)
    _, [path] = written(tmp_path, token, "onetrainer")
    found = load_file(path)
    for encoder, key in ONETRAINER[family].items():
        assert torch.equal(found[key], token.vectors[encoder])
    assert len(found) == len(ONETRAINER[family])


# Damage (T1): 1,000 files in all


def flip(data: bytearray, at: int, bit: int) -> bytes:
    data[at] ^= 1 << bit
    return bytes(data)


def mutate(kind: str, data: bytes, draw: torch.Generator) -> bytes:
    """One damaged form of a file."""

    def number(top: int) -> int:
        return int(torch.randint(max(1, top), (1,), generator=draw))

    end = 8 + int.from_bytes(data[:8], "little")
    if kind == "header":
        return flip(bytearray(data), number(end), number(8))
    if kind == "payload":
        return flip(bytearray(data), end + number(len(data) - end), number(8))
    if kind == "cut":
        return data[: number(len(data))]
    if kind == "grow":
        return data + bytes(1 + number(64))
    if kind == "values":
        row = number((len(data) - end) // 4)
        value = (float("nan"), float("inf"), -float("inf"), 1e30, 1e5)[number(5)]
        return data[: end + 4 * row] + struct.pack("<f", value) + data[end + 4 * row + 4 :]
    entries = json.loads(data[8:end])
    key = sorted(set(entries) - {"__metadata__"})[number(len(entries) - 1)]
    entry = entries[key]
    if kind == "dtype":
        entry["dtype"] = ("F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "X")[number(8)]
    elif kind == "shape":
        n, d = entry["shape"]
        shapes: list[Any] = [
            [],
            [n * d],
            [d, n],
            [n, d, 1],
            [n + 1, d],
            [0, d],
            [1, n * d],
            [-n, d],
        ]
        entry["shape"] = shapes[number(8)]
    else:
        entries[("clip_h", "x", "", "../a", "emb_params2")[number(5)]] = entries.pop(key)
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


KINDS = ("header", "payload", "cut", "grow", "values", "dtype", "shape", "key")
SOURCES: dict[str, tuple[str, str]] = {
    "native": ("sdxl", ""),
    "comfyui": ("sd3", "comfyui"),
    "a1111": ("sd3", "a1111"),
    "diffusers": ("sd15", "diffusers"),
    "onetrainer": ("flux", "onetrainer"),
}
EACH = 1000 // (len(KINDS) * len(SOURCES))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_and_no_changed_vector_is_taken(
    tmp_path: Path, kind: str, source: str
) -> None:
    assert EACH * len(KINDS) * len(SOURCES) == 1000
    family, client = SOURCES[source]
    token = real_token(family, n=2)
    if client:
        _, [path] = written(tmp_path, token, client)
    else:
        path = tmp_path / "native.safetensors"
        path.write_bytes(token_bytes(token))
    whole = path.read_bytes()
    draw = torch.Generator().manual_seed(KINDS.index(kind))
    for _ in range(EACH):
        damaged = mutate(kind, whole, draw)
        path.write_bytes(damaged)
        for read in (read_any, read_header):
            found, error = attempt(read, path)
            if error is not None:
                assert error.code == 4
                assert str(path) in str(error)
                assert kind != "payload" or isinstance(error, DigestMismatch | Refused)
                continue
            assert kind == "header"  # only notes outside the identity may change unseen
            if isinstance(found, Import):
                again = back(found, tmp_path)
                for name, rows in again.vectors.items():
                    assert torch.equal(rows, token.vectors[name])


def attempt(read: Callable[[Path], object], path: Path) -> tuple[object, CreatokError | None]:
    """What a reader gives, or the error by which it refuses; anything else is a bug."""
    try:
        return read(path), None
    except CreatokError as error:
        return None, error
