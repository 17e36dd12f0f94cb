"""Inject: a prompt with token words becomes id sequences with holes where vectors go.

Pure functions over strings and integers. The prompt is cut at its words, each plain piece is
tokenised on its own, and a word becomes as many holes as the token has vectors for that encoder.
Without a word the whole prompt is tokenised in one piece, exactly as the tokenizer alone would do
it.

Does not: know a tokenizer, an encoder or torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

Tokenize = Callable[[str], Sequence[tuple[int, int]]]
"""Text without special ids -> (id, position in the text where it starts)."""


@dataclass(frozen=True, slots=True)
class Laid:
    """One prompt laid out for one encoder."""

    ids: tuple[int, ...]
    """Full length, padded. In a hole stands the padding id, which is never looked at."""
    holes: tuple[tuple[int, str, int], ...]
    """(position, word, row of the token's vectors)."""
    eos: int
    """Position of the FIRST end-of-sequence id outside holes: where the pooled state is taken."""
    cut: str
    """The end of the prompt that did not fit, empty when all did."""


def words_in(prompt: str, words: Collection[str]) -> tuple[str, ...]:
    """The distinct token words that a prompt uses, sorted."""
    return tuple(sorted(word for word in words if word in prompt))


def split_prompt(prompt: str, words: Collection[str]) -> list[tuple[int, str, bool]]:
    """(position, text, is a token word) for each piece, in order; empty pieces are dropped."""
    if not words:
        return [(0, prompt, False)] if prompt else []
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pieces: list[tuple[int, str, bool]] = []
    start = 0
    for match in re.finditer(pattern, prompt):
        pieces.append((start, prompt[start : match.start()], False))
        pieces.append((match.start(), match.group(), True))
        start = match.end()
    pieces.append((start, prompt[start:], False))
    return [piece for piece in pieces if piece[1]]


def spell_out(prompt: str, literals: Mapping[str, str]) -> str:
    """The prompt with each token word replaced by its literal, for encoders without vectors."""
    return "".join(
        literals[text] if word else text for _, text, word in split_prompt(prompt, literals)
    )


def lay_out(
    prompt: str,
    counts: Mapping[str, int],
    tokenize: Tokenize,
    *,
    bos: int,
    eos: int,
    pad: int,
    length: int,
) -> Laid:
    """Ids of one prompt for one encoder: BOS, pieces and holes, EOS, padding to `length`.

    `counts` gives the number of vectors per word. What does not fit is cut at the end, as the
    libraries do, and told in `Laid.cut`; a token that does not fit whole is cut to the rows that
    do.
    """
    content: list[tuple[int, str, int, int]] = []
    for start, text, is_word in split_prompt(prompt, counts):
        if is_word:
            content += [(pad, text, row, start) for row in range(counts[text])]
        else:
            content += [(number, "", 0, start + offset) for number, offset in tokenize(text)]
    room = length - 2
    kept, dropped = content[:room], content[room:]
    ids = [bos, *(number for number, _, _, _ in kept), eos]
    holes = tuple(
        (place, word, row) for place, (_, word, row, _) in enumerate(kept, start=1) if word
    )
    taken = {place for place, _, _ in holes}
    first = next(place for place, number in enumerate(ids) if number == eos and place not in taken)
    padded = (*ids, *([pad] * (length - len(ids))))
    return Laid(padded, holes, first, prompt[dropped[0][3] :].strip() if dropped else "")
