"""The columns of the proof table: a learned token, and every control that could explain it away.

Controls isolate the vague word, any word at all, a better word, training (0 steps), any other
vector (random rows), the cap (theta = 1), the template, selection (best of N) and two creatures
instead of one. Columns are made when they are asked for; what is learned is kept on disk.

Does not: draw or judge.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _drawn import Ask

from creatok_cli import registry
from creatok_cli.backbones import _clip
from creatok_cli.backbones._weights import resolve
from creatok_cli.backbones.base import Backbone, fixed_threads
from creatok_cli.concepts.sets import load_pairs
from creatok_cli.config import build_spec
from creatok_cli.errors import InputError, UnknownName
from creatok_cli.hashing import canonical_json, sha256_hex
from creatok_cli.methods import cretok
from creatok_cli.methods.base import Artefact, Brief, Run
from creatok_cli.seeds import derive, generator
from creatok_cli.tokens.file import load_token, save_token
from creatok_cli.tokens.token import Token
from creatok_cli.workflows._preset import load_preset

TEMPLATE = "a photo of a {word} mixture that looks like a {a} and a {b}"
"""The bestiary's own words for a mixture."""
PAPER_TEMPLATE = "a photo of a {word} mixture that resembles a {a} and a {b}"
DRAWS = 3
BEST_OF = 2
WORD = "creative"
Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One way to ask for a pair."""

    note: str
    template: str
    word: str = ""
    """In the place of {word}; empty removes the place."""
    tokens: tuple[Token, ...] = ()
    """In the place of {word}; each is drawn for all pictures, unless `dealt`."""
    dealt: bool = False
    """Tokens take turns with the seeds: a mean of draws at the price of one."""
    best_of: int = 1
    """Of so many seeds the one whose picture the base's own image tower likes best."""
    world: bool = False
    """The world itself draws it: the ceiling of the judge."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, parents: Sequence[str], seed: int, word: str) -> str:
        a, b = parents if seed % 2 == 0 else parents[::-1]
        text = self.template if word else self.template.replace("{word} ", "")
        return text.format(word=word, a=a, b=b)

    def asks(self, pair: tuple[str, str], seed: int) -> list[Ask]:
        """The pictures of one pair and seed."""
        if self.dealt and self.tokens:
            chosen: Sequence[Token | None] = [self.tokens[seed % len(self.tokens)]]
        else:
            chosen = self.tokens or [None]
        return [
            Ask(
                prompt=self.prompt(pair, seed, token.word if token else self.word),
                seed=seed,
                parents=pair,
                token=token,
            )
            for token in chosen
        ]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What was learned."""

    token: Token
    initial: Token
    facts: dict[str, Any]


class Columns:
    """Makes columns for the bestiary and its own pair list.

    `settings` are those of the token that is proved; `others` are whole settings of more tokens by
    name, `files` token files by name. Learned tokens are kept under `folder`.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        training_seeds: int = 3,
        others: Mapping[str, Settings] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.facts = resolve("bestiary")
        self.pairs = load_pairs("bestiary")
        self.settings, self.training_seeds = settings, training_seeds
        self._folder, self._others, self._files = folder, dict(others or {}), dict(files or {})
        module = registry.get("backbones", self.facts.backbone)
        self.backbone: Backbone = module.build(
            module.Spec(), self.facts, device="cpu", dtype="fp32"
        )

    def makers(self) -> dict[str, Callable[[], Column]]:
        """Every column by name, in the order of the table."""
        found: dict[str, Callable[[], Column]] = {
            "token": self._with("the learned token"),
            WORD: partial(word_column, WORD, "the word that is redefined"),
            "removed": partial(word_column, "", "no word at all"),
            "hybrid": partial(self.ordinary, "hybrid"),
            "a X Y": partial(Column, note="plain pair, other template", template="a {a} {b}"),
            "random row": partial(self.random_rows, self.first, "length of the token's row"),
            "short random row": partial(self.random_rows, self.start, "length of the first row"),
            "vocabulary row": self.vocabulary_rows,
            "initial row": self.initial,
            "centroid": self._with("theta = 1", theta="1"),
            f"best of {BEST_OF}": partial(
                Column,
                note=f"{WORD}, the better of {BEST_OF} seeds by the base's image tower",
                template=TEMPLATE,
                word=WORD,
                best_of=BEST_OF,
            ),
            "two": partial(
                Column,
                note="two creatures, other template",
                template="a photo of a {a} and a {b}",
            ),
            "world": partial(
                Column, note="drawn by the world: the judge's ceiling", template="", world=True
            ),
        }
        for theta in ("0.3", "0.5", "0.7", "rel:0.3", "rel:0.5", "rel:0.7"):
            found[f"theta {theta}"] = self._with("another cap", theta=theta)
        for steps in ("2000", "10000"):
            found[f"{steps} steps"] = self._with("no early stop", steps=steps, stop="never")
        for start in ("random", "mean"):
            found[f"{start} start"] = self._with("another start", init=start)
        for sampling in ("paper", "full"):
            found[f"{sampling} sampling"] = self._with("rows of a step", sampling=sampling)
        for name in ("token", WORD, "removed", "random row"):
            found[f"{name}, resembles"] = partial(_resembling, found[name])
        for name, settings in self._others.items():
            found[name] = partial(self.token, "other settings", settings)
        for name, file in self._files.items():
            found[name] = partial(self.from_file, file)
        return found

    def _with(self, note: str, **changes: str) -> Callable[[], Column]:
        return partial(self.token, note, {**self.settings, **changes})

    def token(self, note: str, settings: Settings) -> Column:
        """A learned token, once per training seed where a seed decides anything."""
        values = {**settings, "template": TEMPLATE}
        spec = build_spec(cretok.Spec, values, where="--set")
        is_random = spec.sampling != "full" or spec.init == "random" or spec.restarts > 1
        seeds = self.training_seeds if is_random else 1
        lessons = [self.learn(values, seed) for seed in range(seeds)]
        note += f"; {seeds} training seeds" if is_random else "; no setting depends on the seed"
        return Column(
            note=note,
            template=TEMPLATE,
            tokens=tuple(lesson.token for lesson in lessons),
            facts={"settings": values, "runs": [lesson.facts for lesson in lessons]},
        )

    def learn(self, values: Settings, seed: int) -> Lesson:
        """A learned token; kept on disk under all that decides it, the method's source included."""
        spec = build_spec(cretok.Spec, values, where="--set")
        tests = {k: v for k, v in self.pairs.held_out.items() if k.startswith("test-")}
        decides = [dataclasses.asdict(spec), seed, self.facts.digest, self.pairs.digest, _source()]
        folder = self._folder / "learned" / sha256_hex(canonical_json(decides))[:16]
        if not (folder / "facts.json").exists():
            brief = Brief(verb="learn", pairs=dataclasses.replace(self.pairs, held_out=tests))
            began = time.perf_counter()
            with fixed_threads(1):  # the tensors are too small for more
                artefact = _finished(cretok.build(spec).run(self.backbone, brief, seed=seed))
            seconds = time.perf_counter() - began
            assert artefact.initial is not None
            save_token(folder / "token.safetensors", artefact.token)
            save_token(folder / "initial.safetensors", artefact.initial)
            kept = ("theta", "baseline", "length", "neighbours", "capped", "cosine_to_start")
            facts = {name: artefact.facts[name] for name in kept if name in artefact.facts}
            facts |= {"seed": seed, "id": artefact.token.id, "ended": artefact.ended}
            facts |= {"steps": artefact.steps, "learning_s": round(seconds, 2)}
            (folder / "facts.json").write_text(json.dumps(facts))
        return Lesson(
            token=load_token(folder / "token.safetensors"),
            initial=load_token(folder / "initial.safetensors"),
            facts=json.loads((folder / "facts.json").read_text()),
        )

    def first(self) -> Token:
        """The token that is proved, of training seed 0."""
        return self.learn({**self.settings, "template": TEMPLATE}, 0).token

    def start(self) -> Token:
        """What learning began with."""
        return self.learn({**self.settings, "template": TEMPLATE}, 0).initial

    def initial(self) -> Column:
        note = "0 steps: what learning began with"
        return Column(note=note, template=TEMPLATE, tokens=(self.start(),))

    def ordinary(self, word: str) -> Column:
        """A better ordinary word. Raises UnknownName where the base does not know it."""
        assert self.backbone.text is not None
        pieces = {name: len(rows) for name, rows in self.backbone.text.rows(word).items()}
        if set(pieces.values()) != {1}:
            raise UnknownName(f"the base does not know the word {word!r}")
        return word_column(word, "a better ordinary word")

    def random_rows(self, like: Callable[[], Token], note: str) -> Column:
        """Random directions with the length of another token's rows."""
        tokens = []
        for draw in range(DRAWS):
            vectors = {}
            for name, rows in like().vectors.items():
                dice = generator(derive(0, "control"), "random row", name, draw)
                noise = torch.randn(rows.shape, generator=dice)
                lengths = rows.norm(dim=1, keepdim=True)
                vectors[name] = noise / noise.norm(dim=1, keepdim=True) * lengths
            tokens.append(Token(f"<random-{draw}>", WORD, vectors, {"kind": "control"}))
        note = f"random direction, {note}; {DRAWS} draws in turn"
        return Column(note=note, template=TEMPLATE, tokens=tuple(tokens), dealt=True)

    def vocabulary_rows(self) -> Column:
        """Rows of random words that both encoders know as one piece and no other column uses."""
        text = self.backbone.text
        assert text is not None
        spelled = [
            {word for word in words if word and word.isalpha()}
            for _, words in text.vocabulary().values()
        ]
        known = sorted(set.intersection(*spelled) - {WORD, "hybrid"})
        whole = [
            word
            for word in known
            if len(word) > 2 and {len(r) for r in text.rows(word).values()} == {1}
        ]
        words = random.Random(derive(0, "control", "vocabulary")).sample(whole, DRAWS)
        tokens = tuple(
            Token(f"<word-{word}>", word, dict(text.rows(word)), {"kind": "control"})
            for word in words
        )
        note = f"rows of random words in turn: {', '.join(words)}"
        return Column(note=note, template=TEMPLATE, tokens=tokens, dealt=True)

    def from_file(self, file: str) -> Column:
        return Column(note="a token file", template=TEMPLATE, tokens=(load_token(file),))


def preset_settings(name: str) -> Settings:
    """Settings of a shipped preset; its pair list is for other bases."""
    found = load_preset("learn", name)
    if found.method != "cretok":
        raise InputError(f"preset {name} is for {found.method}, not for cretok")
    return dict(found.values)


def _finished(run: Run) -> Artefact:
    """What a run returns."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            artefact: Artefact = end.value
            return artefact


def _source() -> str:
    """Digest of the code that learns."""
    files = [*Path(cretok.__file__).parent.glob("*.py"), Path(_clip.__file__)]
    return sha256_hex(b"".join(file.read_bytes() for file in sorted(files)))


def _resembling(make: Callable[[], Column]) -> Column:
    """The same column in the words of the paper, which the bestiary's captions never use."""
    return dataclasses.replace(make(), template=PAPER_TEMPLATE)


def word_column(word: str, note: str) -> Column:
    return Column(note=note, template=TEMPLATE, word=word)
