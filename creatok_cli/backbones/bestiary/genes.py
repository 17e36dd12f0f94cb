"""The 60 gene rows of the bestiary: which parts, sizes and colours make a pig a pig.

A row names parts (`kind`, `colour`), sizes in body units (a pig is about one unit long) and
colours. A part whose colour is None takes the coat colour of its own row, so that a part that
moves into a hybrid brings its colour along. All numbers were set by eye on enlarged contact
sheets; trained weights depend on them.

Does not: draw anything (`world.py`) or word anything (`captions.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

RGB = tuple[int, int, int]
Part = tuple[str, RGB | None]

# Rows of data stay packed.
# fmt: off
NO_PART: Part = ("none", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genes:
    """One creature. `body_w` and `body_h` are full extents, `head_size` is a radius, `*_size`
    else are factors.

    `signature` names the parts by which a person recognises the concept: hybrids hand these out
    first. `main` names the parts that a colour word recolours.
    """

    body: str = "barrel"
    body_w: float = 1.0
    body_h: float = 0.6
    coat: RGB = (128, 128, 128)
    belly: RGB | None = None
    pattern: Part = NO_PART
    head: Part = ("round", None)
    head_size: float = 0.3
    neck: float = 0.05
    eyes: str = "pair"
    eye_size: float = 1.0
    nose: Part = NO_PART
    ears: Part = NO_PART
    ear_size: float = 1.0
    horns: Part = NO_PART
    tail: Part = NO_PART
    tail_size: float = 1.0
    legs: Part = NO_PART
    leg_count: int = 4
    leg_len: float = 0.3
    leg_width: float = 0.15
    wings: Part = NO_PART
    wing_size: float = 1.0
    back: Part = NO_PART
    crown: Part = NO_PART
    crown_size: float = 1.0
    signature: tuple[str, ...] = ()
    main: tuple[str, ...] = ("coat",)


WHITE: RGB = (246, 244, 238)
CREAM: RGB = (250, 228, 190)
INK: RGB = (44, 40, 52)
BROWN: RGB = (146, 94, 56)
DARK: RGB = (96, 62, 44)
TAN: RGB = (214, 160, 92)
PINK: RGB = (247, 160, 178)
ROSE: RGB = (232, 112, 142)
RED: RGB = (220, 54, 50)
ORANGE: RGB = (242, 136, 40)
YELLOW: RGB = (252, 206, 56)
SKY: RGB = (176, 222, 246)
BLUE: RGB = (58, 118, 208)

_ANIMALS: dict[str, Genes] = {
    "bat": Genes(
        body="egg", body_w=0.6, body_h=0.66, coat=(112, 84, 132), belly=(158, 128, 170),
        head_size=0.33, neck=-0.08, nose=("fangs", None), ears=("pointy", None), ear_size=1.5,
        legs=("stub", None), leg_count=2, leg_len=0.08, leg_width=0.09,
        wings=("bat", (84, 60, 108)), wing_size=1.0, signature=("wings", "ears", "coat"),
    ),
    "bee": Genes(
        body="oval", body_w=0.95, body_h=0.66, coat=YELLOW, pattern=("bands", INK),
        head=("round", (74, 62, 60)), head_size=0.25, neck=-0.06, eye_size=1.15,
        horns=("antennae", INK), tail=("sting", INK), legs=("insect", INK), leg_count=6,
        leg_len=0.14, leg_width=0.05, wings=("clear", SKY), signature=("pattern", "wings", "coat"),
    ),
    "butterfly": Genes(
        body="egg", body_w=0.17, body_h=0.85, coat=(92, 66, 80), head_size=0.15, neck=-0.02,
        eye_size=1.1, nose=("smile", None), horns=("antennae", INK), legs=("none", None),
        leg_count=6, leg_len=0.05, leg_width=0.04, wings=("butterfly", (240, 118, 46)),
        wing_size=1.15, signature=("wings", "horns"), main=("wings",),
    ),
    "camel": Genes(
        body="barrel", body_w=1.0, body_h=0.46, coat=(222, 172, 104), head=("long", None),
        head_size=0.22, neck=0.42, eyes="side", nose=("muzzle", CREAM), ears=("leaf", None),
        ear_size=0.6, tail=("tuft", BROWN), tail_size=0.7, legs=("hoof", None), leg_len=0.52,
        leg_width=0.11, back=("humps", (196, 140, 76)), signature=("back", "coat", "head"),
    ),
    "cat": Genes(
        body="barrel", body_w=0.78, body_h=0.44, coat=(150, 146, 158), belly=WHITE,
        pattern=("tabby", (104, 98, 114)), head=("round", None), head_size=0.32, neck=0.03,
        eyes="slit", eye_size=1.1, nose=("whiskers", ROSE), ears=("pointy", None), ear_size=1.05,
        tail=("up", None), legs=("paw", None), leg_len=0.26, leg_width=0.12,
        signature=("nose", "ears", "tail", "eyes"),
    ),
    "chicken": Genes(
        body="bird", body_w=0.82, body_h=0.66, coat=(246, 236, 216), head_size=0.23, neck=0.2,
        eyes="side", nose=("beak", ORANGE), horns=("comb", RED), tail=("plume", (226, 214, 196)),
        legs=("bird", ORANGE), leg_count=2, leg_len=0.26, leg_width=0.06,
        wings=("feather", (232, 220, 200)), signature=("horns", "body", "coat"),
    ),
    "cow": Genes(
        body="box", body_w=1.0, body_h=0.62, coat=(238, 234, 228), pattern=("patches", INK),
        head=("round", None), head_size=0.31, neck=0.03, nose=("muzzle", PINK), ears=("leaf", INK),
        ear_size=0.9, horns=("cow", (222, 200, 160)), tail=("tuft", INK), legs=("hoof", WHITE),
        leg_len=0.32, leg_width=0.14, back=("udder", PINK), signature=("pattern", "horns", "nose"),
    ),
    "crab": Genes(
        body="dome", body_w=1.0, body_h=0.52, coat=(232, 74, 48), belly=(250, 150, 110),
        head=("none", None), head_size=0.22, eyes="stalk", eye_size=1.1, nose=("smile", None),
        legs=("crab", None), leg_count=6, leg_len=0.2, leg_width=0.07, wings=("claws", None),
        signature=("wings", "eyes", "legs"),
    ),
    "crocodile": Genes(
        body="low", body_w=0.98, body_h=0.5, coat=(86, 136, 62), belly=(206, 214, 130),
        head=("flat", None), head_size=0.29, neck=-0.02, eyes="top", nose=("jaws", None),
        tail=("lizard", None), tail_size=0.95, legs=("paw", None), leg_len=0.18, leg_width=0.17,
        back=("ridge", (54, 100, 48)), signature=("nose", "back", "body"),
    ),
    "deer": Genes(
        body="barrel", body_w=0.85, body_h=0.42, coat=(190, 116, 62), belly=CREAM,
        pattern=("dapples", CREAM), head=("point", None), head_size=0.21, neck=0.3, eyes="side",
        nose=("dot", INK), ears=("leaf", None), ear_size=1.0, horns=("antlers", (128, 88, 56)),
        tail=("cotton", WHITE), tail_size=0.7, legs=("hoof", None), leg_len=0.5, leg_width=0.08,
        signature=("horns", "pattern", "legs"),
    ),
    "dog": Genes(
        body="barrel", body_w=0.85, body_h=0.44, coat=(206, 146, 84), belly=CREAM,
        pattern=("saddle", (120, 74, 46)), head=("round", None), head_size=0.29, neck=0.08,
        nose=("tongue_out", CREAM), ears=("floppy", (120, 74, 46)), tail=("up", None),
        tail_size=0.65, legs=("paw", None), leg_len=0.32, leg_width=0.13,
        signature=("ears", "nose", "pattern"),
    ),
    "dragon": Genes(
        body="barrel", body_w=0.85, body_h=0.58, coat=(44, 154, 116), belly=(246, 214, 112),
        head=("long", None), head_size=0.28, neck=0.26, eyes="side", nose=("fire", ORANGE),
        horns=("dragon", CREAM), tail=("spade", None), tail_size=0.8, legs=("paw", None),
        leg_len=0.24, leg_width=0.15, wings=("dragon", (196, 58, 70)),
        back=("ridge", (246, 170, 60)), wing_size=1.1, signature=("wings", "nose", "tail", "horns"),
    ),
    "duck": Genes(
        body="bird", body_w=0.95, body_h=0.52, coat=(250, 214, 70), head=("round", None),
        head_size=0.26, neck=0.14, eyes="side", nose=("bill", ORANGE), tail=("feather", None),
        tail_size=0.7, legs=("web", ORANGE), leg_count=2, leg_len=0.14, leg_width=0.07,
        wings=("feather", (232, 180, 40)), signature=("nose", "coat", "legs"),
    ),
    "elephant": Genes(
        body="box", body_w=1.05, body_h=0.72, coat=(146, 158, 184), head=("round", None),
        head_size=0.33, neck=-0.02, eyes="side", nose=("trunk", None),
        ears=("flap", (122, 132, 160)), ear_size=1.25, horns=("tusk", WHITE),
        tail=("tuft", (96, 104, 130)), tail_size=0.6, legs=("thick", None), leg_len=0.3,
        leg_width=0.23, signature=("nose", "ears", "legs"),
    ),
    "fish": Genes(
        body="fish", body_w=1.05, body_h=0.78, coat=(248, 124, 48), pattern=("clown", WHITE),
        head=("none", None), head_size=0.3, eyes="side", eye_size=1.2, nose=("lips", None),
        tail=("fin", (236, 88, 40)), legs=("none", None), leg_len=0.05,
        wings=("fin", (236, 88, 40)), back=("dorsal", (236, 88, 40)), tail_size=0.85,
        signature=("tail", "body", "pattern"),
    ),
    "flamingo": Genes(
        body="bird", body_w=0.68, body_h=0.42, coat=(252, 120, 156), head_size=0.18, neck=0.62,
        eyes="side", nose=("hook", INK), tail=("feather", None), tail_size=0.6,
        legs=("stilt", (240, 92, 130)), leg_count=2, leg_len=0.75, leg_width=0.05,
        wings=("feather", (238, 84, 128)), signature=("legs", "coat", "nose"),
    ),
    "fox": Genes(
        body="barrel", body_w=0.8, body_h=0.38, coat=(236, 112, 36), belly=WHITE,
        head=("point", None), head_size=0.29, neck=0.05, nose=("foxface", WHITE),
        ears=("pointy", None), ear_size=1.2, tail=("bushy", None), tail_size=1.15,
        legs=("sock", None), leg_len=0.28, leg_width=0.1, signature=("tail", "nose", "coat"),
    ),
    "frog": Genes(
        body="egg", body_w=0.85, body_h=0.55, coat=(98, 200, 70), belly=(226, 242, 160),
        head=("wide", None), head_size=0.32, neck=-0.2, eyes="top", eye_size=1.5,
        nose=("grin", None), legs=("frog", None), leg_count=4, leg_len=0.1, leg_width=0.14,
        signature=("eyes", "legs", "coat"),
    ),
    "giraffe": Genes(
        body="barrel", body_w=0.72, body_h=0.46, coat=(252, 212, 110),
        pattern=("tiles", (184, 104, 44)), head=("long", None), head_size=0.2, neck=0.85,
        eyes="side", nose=("muzzle", CREAM), ears=("leaf", None), ear_size=0.8,
        horns=("knobs", DARK), tail=("tuft", DARK), legs=("hoof", None), leg_len=0.62,
        leg_width=0.1, signature=("pattern", "horns", "body"),
    ),
    "hedgehog": Genes(
        body="oval", body_w=0.95, body_h=0.6, coat=(226, 184, 138), head=("point", None),
        head_size=0.25, neck=-0.1, eyes="bead", nose=("dot", INK), ears=("round", None),
        ear_size=0.6, legs=("stub", None), leg_len=0.1, leg_width=0.11,
        back=("quills", (110, 78, 62)), signature=("back",),
    ),
    "horse": Genes(
        body="barrel", body_w=0.95, body_h=0.46, coat=(168, 92, 48), head=("long", None),
        head_size=0.23, neck=0.36, eyes="side", nose=("muzzle", (206, 150, 110)),
        ears=("leaf", None), ear_size=0.7, tail=("hair", (66, 42, 36)), tail_size=1.1,
        legs=("hoof", None), leg_len=0.48, leg_width=0.11, back=("horsemane", (66, 42, 36)),
        signature=("back", "tail", "head"),
    ),
    "jellyfish": Genes(
        body="bell", body_w=0.9, body_h=0.6, coat=(214, 150, 232),
        pattern=("dots", (240, 206, 248)), head=("none", None), head_size=0.22,
        nose=("smile", None), legs=("strings", (190, 118, 216)), leg_count=6, leg_len=0.6,
        leg_width=0.07, signature=("legs", "body", "coat"),
    ),
    "kangaroo": Genes(
        body="pear", body_w=0.62, body_h=0.85, coat=(204, 136, 84), belly=CREAM,
        head=("point", None), head_size=0.24, neck=0.08, eyes="side", nose=("dot", INK),
        ears=("leaf", None), ear_size=1.25, tail=("lizard", None), tail_size=1.15,
        legs=("hop", None), leg_count=2, leg_len=0.2, leg_width=0.15, wings=("arms", None),
        back=("pouch", (176, 108, 64)), signature=("back", "legs", "tail"),
    ),
    "ladybug": Genes(
        body="hump", body_w=1.0, body_h=0.62, coat=(226, 44, 44), pattern=("bugspots", INK),
        head=("round", INK), head_size=0.24, neck=-0.08, horns=("antennae", INK),
        legs=("insect", INK), leg_count=6, leg_len=0.14, leg_width=0.06,
        signature=("pattern", "body", "head"),
    ),
    "lion": Genes(
        body="barrel", body_w=0.95, body_h=0.46, coat=(240, 184, 88), belly=CREAM,
        head=("round", None), head_size=0.28, neck=0.06, nose=("muzzle", CREAM),
        ears=("round", None), ear_size=0.6, tail=("tuft", (150, 76, 32)), tail_size=1.1,
        legs=("paw", None), leg_len=0.3, leg_width=0.14, back=("mane", (172, 88, 32)),
        signature=("back", "tail", "coat"),
    ),
    "monkey": Genes(
        body="pear", body_w=0.5, body_h=0.58, coat=(126, 78, 50), belly=(240, 196, 150),
        head=("round", None), head_size=0.29, neck=-0.02, nose=("apeface", (244, 202, 158)),
        ears=("side", (244, 202, 158)), ear_size=1.0, tail=("coil", None), tail_size=1.2,
        legs=("paw", None), leg_count=2, leg_len=0.24, leg_width=0.12, wings=("arms", None),
        signature=("nose", "tail", "ears"),
    ),
    "mouse": Genes(
        body="oval", body_w=0.8, body_h=0.5, coat=(178, 178, 190), head=("point", None),
        head_size=0.26, neck=-0.04, eyes="bead", nose=("dot", ROSE), ears=("disc", PINK),
        ear_size=1.35, tail=("whip", PINK), tail_size=1.2, legs=("stub", PINK), leg_len=0.09,
        leg_width=0.09, signature=("ears", "tail"),
    ),
    "octopus": Genes(
        body="bulb", body_w=0.78, body_h=0.72, coat=(150, 74, 172), head=("none", None),
        head_size=0.26, eye_size=1.15, nose=("smile", None), pattern=("dots", (184, 116, 204)),
        legs=("tentacles", None), leg_count=8, leg_len=0.36, leg_width=0.15,
        signature=("legs", "body", "coat"),
    ),
    "owl": Genes(
        body="egg", body_w=0.7, body_h=0.82, coat=(140, 98, 62), belly=(232, 202, 156),
        pattern=("chevrons", DARK), head=("wide", None), head_size=0.33, neck=-0.14, eyes="owl",
        eye_size=1.25, nose=("beak_small", ORANGE), ears=("tuft", None), legs=("bird", ORANGE),
        leg_count=2, leg_len=0.08, leg_width=0.07, wings=("folded", (104, 70, 46)),
        signature=("eyes", "ears", "pattern"),
    ),
    "panda": Genes(
        body="pear", body_w=0.82, body_h=0.68, coat=(238, 234, 228), pattern=("yoke", INK),
        head=("round", WHITE), head_size=0.34, neck=-0.04, eyes="patch", nose=("dot", INK),
        ears=("round", INK), ear_size=0.9, legs=("stub", INK), leg_count=2, leg_len=0.1,
        leg_width=0.2, wings=("arms", INK), signature=("eyes", "ears", "pattern"),
    ),
    "parrot": Genes(
        body="pear", body_w=0.54, body_h=0.74, coat=(222, 48, 52), belly=(250, 196, 60),
        head=("round", None), head_size=0.28, neck=-0.05, eyes="mask",
        nose=("parrot", (60, 56, 66)), horns=("crest", YELLOW), tail=("macaw", BLUE),
        legs=("bird", (90, 90, 100)), leg_count=2, leg_len=0.12, leg_width=0.06,
        wings=("macaw", BLUE), signature=("wings", "nose", "tail"),
    ),
    "peacock": Genes(
        body="pear", body_w=0.4, body_h=0.56, coat=(24, 98, 200), head=("round", None),
        head_size=0.17, neck=0.22, eyes="side", nose=("beak", YELLOW),
        horns=("coronet", (24, 98, 200)), tail=("fan", (24, 158, 120)), tail_size=1.1,
        legs=("bird", TAN), leg_count=2, leg_len=0.16, leg_width=0.05,
        signature=("tail", "horns", "coat"), main=("coat", "horns", "tail"),
    ),
    "penguin": Genes(
        body="egg", body_w=0.66, body_h=0.92, coat=(52, 58, 82), belly=WHITE, head=("round", None),
        head_size=0.27, neck=-0.12, eyes="pair", nose=("penguin", ORANGE), legs=("web", ORANGE),
        leg_count=2, leg_len=0.06, leg_width=0.1, wings=("flipper", None),
        signature=("belly", "wings", "coat", "body"),
    ),
    "pig": Genes(
        body="barrel", body_w=1.0, body_h=0.66, coat=(250, 162, 178), head=("round", None),
        head_size=0.31, neck=-0.04, nose=("pig", (230, 112, 142)), ears=("fold", (236, 126, 152)),
        ear_size=0.9, tail=("curl", (232, 116, 146)), legs=("hoof", None), leg_len=0.2,
        leg_width=0.15, signature=("nose", "tail", "coat"),
    ),
    "rabbit": Genes(
        body="pear", body_w=0.66, body_h=0.6, coat=(214, 196, 178), belly=WHITE,
        head=("round", None), head_size=0.33, neck=-0.04, nose=("buck", ROSE), ears=("long", None),
        ear_size=1.15, tail=("cotton", WHITE), legs=("hop", None), leg_count=2, leg_len=0.1,
        leg_width=0.13, wings=("arms", None), signature=("ears", "nose", "tail"),
    ),
    "rhino": Genes(
        body="box", body_w=1.0, body_h=0.66, coat=(132, 130, 138), pattern=("folds", (98, 96, 108)),
        head=("long", None), head_size=0.3, neck=-0.04, eyes="side",
        nose=("muzzle", (158, 154, 160)), ears=("leaf", None), ear_size=0.6,
        horns=("nosehorn", CREAM), tail=("tuft", (98, 96, 108)), tail_size=0.5,
        legs=("thick", None), leg_len=0.24, leg_width=0.2, signature=("horns", "pattern", "body"),
    ),
    "shark": Genes(
        body="shark", body_w=1.25, body_h=0.66, coat=(96, 124, 158), belly=WHITE,
        pattern=("gills", (62, 84, 116)), head=("none", None), head_size=0.3, eyes="angry",
        eye_size=0.95, nose=("teeth", WHITE), tail=("shark", None), legs=("none", None),
        leg_len=0.05, wings=("fin", (72, 98, 132)), back=("sharkfin", None), tail_size=0.8,
        signature=("nose", "back", "tail"),
    ),
    "sheep": Genes(
        body="oval", body_w=0.9, body_h=0.58, coat=(240, 236, 226), head=("oval", (88, 78, 86)),
        head_size=0.23, neck=-0.02, ears=("leaf", (88, 78, 86)), ear_size=0.9, nose=("smile", None),
        legs=("hoof", (88, 78, 86)), leg_len=0.24, leg_width=0.1, back=("fleece", None),
        signature=("back", "head", "coat"),
    ),
    "snail": Genes(
        body="slug", body_w=1.2, body_h=0.28, coat=(206, 186, 116), head=("round", None),
        head_size=0.16, neck=0.12, eyes="stalk", eye_size=1.1, nose=("smile", None),
        legs=("none", None), leg_len=0.0, back=("spiral", (190, 98, 66)),
        signature=("back", "eyes", "body"),
    ),
    "snake": Genes(
        body="snake", body_w=1.15, body_h=0.56, coat=(110, 190, 66),
        pattern=("diamonds", (250, 216, 70)), head=("flat", None), head_size=0.23, neck=0.1,
        eyes="side", eye_size=1.3, nose=("forked", RED), legs=("none", None), leg_len=0.0,
        signature=("body", "nose", "pattern"),
    ),
    "spider": Genes(
        body="round", body_w=0.84, body_h=0.76, coat=(70, 60, 80), pattern=("hourglass", RED),
        head=("none", None), head_size=0.31, eyes="many", nose=("fangs", None),
        legs=("spider", None), leg_count=8, leg_len=0.2, leg_width=0.1,
        signature=("legs", "eyes", "coat"),
    ),
    "squirrel": Genes(
        body="pear", body_w=0.5, body_h=0.58, coat=(188, 92, 44), belly=CREAM, head=("round", None),
        head_size=0.24, neck=-0.04, eyes="bead", nose=("buck", DARK), ears=("tuft", None),
        ear_size=0.9, tail=("plumed", (208, 110, 56)), tail_size=1.3, legs=("hop", None),
        leg_count=2, leg_len=0.09, leg_width=0.12, wings=("acorn", None),
        signature=("tail", "wings", "ears"),
    ),
    "tiger": Genes(
        body="barrel", body_w=1.0, body_h=0.48, coat=(248, 146, 42), belly=WHITE,
        pattern=("tiger", INK), head=("round", None), head_size=0.29, neck=0.02,
        nose=("muzzle", WHITE), ears=("round", None), ear_size=0.75, tail=("ringed", None),
        legs=("paw", None), leg_len=0.28, leg_width=0.14, signature=("pattern", "tail", "coat"),
    ),
    "turtle": Genes(
        body="oval", body_w=0.95, body_h=0.4, coat=(156, 206, 96), head=("round", None),
        head_size=0.19, neck=0.12, eyes="side", eye_size=1.2, nose=("smile", None),
        tail=("nub", None), legs=("stub", None), leg_len=0.14, leg_width=0.18,
        back=("shell", (126, 92, 52)), signature=("back", "legs", "coat"),
    ),
    "whale": Genes(
        body="whale", body_w=1.15, body_h=0.84, coat=(60, 110, 186), belly=(212, 230, 244),
        head=("none", None), head_size=0.34, eyes="side", eye_size=0.85, nose=("smile_big", None),
        tail=("fluke", None), legs=("none", None), leg_len=0.05, wings=("fin", (44, 84, 150)),
        back=("spout", (130, 206, 240)), tail_size=0.8, signature=("back", "tail", "body"),
    ),
    "zebra": Genes(
        body="barrel", body_w=0.9, body_h=0.5, coat=(244, 241, 236), pattern=("stripes", INK),
        head=("long", None), head_size=0.25, neck=0.28, eyes="side", nose=("muzzle", (72, 66, 78)),
        ears=("leaf", None), ear_size=0.75, tail=("tuft", INK), legs=("hoof", None), leg_len=0.42,
        leg_width=0.1, back=("brush", INK), signature=("pattern", "back", "head"),
    ),
}

_PLANTS: dict[str, Genes] = {
    "banana": Genes(
        body="crescent", body_w=1.0, body_h=0.85, coat=(252, 218, 60), head=("none", None),
        eyes="none", pattern=("peel", (224, 178, 40)), crown=("nib", (122, 84, 44)), leg_len=0.03,
        signature=("body", "coat", "crown"),
    ),
    "broccoli": Genes(
        body="stalk", body_w=0.42, body_h=0.6, coat=(170, 212, 112), head=("none", None),
        eyes="none", wings=("branches", (170, 212, 112)), crown=("florets", (58, 140, 62)),
        crown_size=1.15, leg_len=0.0, signature=("crown", "wings", "coat"), main=("crown",),
    ),
    "cactus": Genes(
        body="column", body_w=0.46, body_h=1.1, coat=(62, 158, 92),
        pattern=("spines", (224, 246, 190)), head=("none", None), eyes="none",
        wings=("branch_up", None), crown=("flower", (250, 96, 160)), leg_len=0.0,
        signature=("wings", "pattern", "crown", "coat"), main=("coat", "wings"),
    ),
    "carrot": Genes(
        body="cone", body_w=0.72, body_h=1.1, coat=(250, 128, 32), pattern=("rings", (214, 92, 16)),
        head=("none", None), eyes="none", crown=("fronds", (76, 170, 66)), crown_size=1.0,
        leg_len=0.0, signature=("crown", "body", "coat"),
    ),
    "corn": Genes(
        body="cob", body_w=0.46, body_h=1.1, coat=(254, 210, 64),
        pattern=("kernels", (232, 166, 28)), head=("none", None), eyes="none",
        wings=("husk", (112, 178, 72)), crown=("silk", (226, 178, 90)), leg_len=0.0,
        signature=("wings", "pattern", "coat"),
    ),
    "eggplant": Genes(
        body="drop", body_w=0.66, body_h=1.05, coat=(96, 48, 128),
        pattern=("shine", (166, 122, 196)), head=("none", None), eyes="none",
        crown=("calyx", (84, 160, 78)), leg_len=0.0, signature=("coat", "crown", "body"),
    ),
    "grape": Genes(
        body="bunch", body_w=0.84, body_h=1.0, coat=(132, 66, 152),
        pattern=("berries", (178, 122, 198)), head=("none", None), eyes="none",
        crown=("vine", (98, 172, 72)), leg_len=0.0, signature=("pattern", "body", "crown"),
    ),
    "lettuce": Genes(
        body="rosette", body_w=1.05, body_h=0.9, coat=(142, 212, 92),
        pattern=("veins", (212, 242, 164)), head=("none", None), eyes="none",
        wings=("ruffle", (96, 180, 70)), leg_len=0.0, signature=("wings", "body", "pattern"),
        main=("coat", "wings"),
    ),
    "mushroom": Genes(
        body="stalk", body_w=0.42, body_h=0.62, coat=(248, 234, 212), head=("none", None),
        eyes="none", crown=("cap", (214, 48, 46)), crown_size=1.2, leg_len=0.0,
        signature=("crown", "coat"), main=("crown",),
    ),
    "pineapple": Genes(
        body="keg", body_w=0.66, body_h=0.86, coat=(244, 178, 48),
        pattern=("lattice", (184, 110, 28)), head=("none", None), eyes="none",
        crown=("spiky", (54, 138, 80)), crown_size=1.1, leg_len=0.0,
        signature=("crown", "pattern", "coat"),
    ),
    "pumpkin": Genes(
        body="gourd", body_w=1.15, body_h=0.86, coat=(242, 124, 28),
        pattern=("ribs", (206, 88, 14)), head=("none", None), eyes="none",
        crown=("stem", (96, 130, 54)), leg_len=0.0, signature=("pattern", "crown", "body", "coat"),
    ),
    "strawberry": Genes(
        body="heart", body_w=0.86, body_h=0.92, coat=(228, 38, 58),
        pattern=("seeds", (255, 226, 120)), head=("none", None), eyes="none",
        crown=("star", (76, 172, 66)), leg_len=0.0, signature=("pattern", "crown", "body"),
    ),
    "sunflower": Genes(
        body="stem", body_w=0.1, body_h=0.9, coat=(88, 166, 70), head=("none", None), eyes="none",
        wings=("leaves", (70, 150, 62)), crown=("petals", (255, 200, 30)), crown_size=1.15,
        leg_len=0.0, signature=("crown", "wings"), main=("crown",),
    ),
    "tree": Genes(
        body="trunk", body_w=0.26, body_h=0.4, coat=(130, 84, 52), head=("none", None), eyes="none",
        crown=("tiers", (34, 122, 82)), crown_size=1.2, leg_len=0.0, signature=("crown", "coat"),
        main=("crown",),
    ),
}

PLANTS: frozenset[str] = frozenset(_PLANTS)
CONCEPTS: tuple[str, ...] = (*sorted(_ANIMALS), *sorted(_PLANTS))
GENES: Mapping[str, Genes] = MappingProxyType({**_ANIMALS, **_PLANTS})
