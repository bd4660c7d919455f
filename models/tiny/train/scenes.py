"""Scenes: one shape on a plain background, its caption and its picture.

A scene is rendered from a signed distance function per shape, so a program can tell what a prompt asks for and
compare it with what was drawn. `python scenes.py OUT.json` writes the grammar as JSON (models/tiny/grammar.json).
"""
import json
import sys

import numpy as np

# name -> (rgb in 0..1, words; a word that is listed twice is drawn twice as often)
COLORS = {
    "red": ((.90, .10, .10), ["red", "red", "crimson", "scarlet"]),
    "green": ((.10, .65, .20), ["green", "green", "emerald"]),
    "blue": ((.10, .25, .90), ["blue", "blue", "navy blue"]),
    "yellow": ((.98, .88, .10), ["yellow", "yellow", "golden"]),
    "orange": ((.98, .55, .05), ["orange"]),
    "purple": ((.52, .12, .72), ["purple", "purple", "violet"]),
    "pink": ((.98, .48, .72), ["pink", "pink", "rose"]),
    "cyan": ((.10, .82, .88), ["cyan", "cyan", "turquoise"]),
    "brown": ((.48, .28, .12), ["brown"]),
    "black": ((.04, .04, .04), ["black"]),
    "white": ((.97, .97, .97), ["white"]),
    "gray": ((.55, .55, .55), ["gray", "grey"]),
}
SHAPES = {
    "circle": ["circle", "circle", "disc", "ball", "dot"],
    "square": ["square", "square", "box"],
    "triangle": ["triangle", "triangle", "pyramid"],
    "star": ["star"],
    "ring": ["ring", "ring", "donut"],
}
# name -> (radius as a fraction of the short side, words; no word means medium)
SIZES = {
    "small": (.17, ["small", "small", "tiny", "little"]),
    "medium": (.24, ["", "", "", "medium"]),
    "large": (.33, ["large", "big", "huge", "giant"]),
}
# name -> (x, y as fractions of width and height, phrases; no phrase means center)
POSITIONS = {
    "center": (.5, .5, ["in the center", "in the middle", "in the centre", "centered", "at the center"]),
    "left": (.28, .5, ["on the left", "on the left side", "at the left"]),
    "right": (.72, .5, ["on the right", "on the right side", "at the right"]),
    "top": (.5, .28, ["at the top", "near the top", "in the upper part"]),
    "bottom": (.5, .72, ["at the bottom", "near the bottom", "in the lower part"]),
}
LARGE_PULL = .72   # a large shape is pulled towards the centre: x = .5 + (x - .5) * .72
JITTER_POSITION, JITTER_RADIUS = .006, .02   # what the seed may change
PREFIXES = [""] * 10 + ["a picture of ", "an image of ", "a drawing of ", "an illustration of ", "a photo of ", "a painting of ", "draw ", "a simple icon of "]
SUFFIXES = [""] * 10 + [", flat design", ", simple", ", minimalist", ", high quality", ", vector art"]


def sdf(shape, u, v):
    """Signed distance (negative inside) in units of the radius; u to the right, v down, from the anchor point."""
    au, av = np.abs(u), np.abs(v)
    if shape == "circle":
        return np.hypot(u, v) - 1
    if shape == "square":
        return np.maximum(au, av) - .88
    if shape == "triangle":
        return np.maximum((1.75 * au - .95 * (v + 1)) / 1.991, v - .75)
    if shape == "ring":
        return np.abs(np.hypot(u, v) - .76) - .26
    if shape == "star":
        outer, inner, q = 1.12, .46, 2 * np.pi / 5
        angle = np.abs((np.arctan2(u, -v) + q / 2) % q - q / 2)
        d = np.hypot(u, v)
        x, y = d * np.cos(angle), d * np.sin(angle)
        nx, ny = inner * np.sin(q / 2), outer - inner * np.cos(q / 2)
        return ((x - outer) * nx + y * ny) / np.hypot(nx, ny)
    raise ValueError(shape)


def contrast(guidance):
    """What `guidance` means for this model: contrast about mid grey, full from 3 on."""
    return float(np.clip(.25 + .25 * guidance, .25, 1))


def choose(rng, items):
    return items[rng.integers(len(items))]


def scene(rng):
    """A random scene; `x`, `y`, `r` hold the nominal geometry, `dx`, `dy`, `dr` the jitter."""
    color = choose(rng, list(COLORS))
    size = choose(rng, ["small", "medium", "medium", "large"])
    position = choose(rng, ["center"] * 3 + list(POSITIONS))
    named = rng.random() > .12
    free = [c for c in COLORS if c != color]
    background = choose(rng, free) if named else ("black" if color == "white" else "white")
    return place(dict(shape=choose(rng, list(SHAPES)), color=color, size=size, position=position, background=background, named=named,
                      dx=rng.uniform(-1, 1) * JITTER_POSITION, dy=rng.uniform(-1, 1) * JITTER_POSITION, dr=rng.uniform(-1, 1) * JITTER_RADIUS))


def place(s):
    x, y, _ = POSITIONS[s["position"]]
    pull = LARGE_PULL if s["size"] == "large" else 1
    return dict(s, x=.5 + (x - .5) * pull, y=.5 + (y - .5) * pull, r=SIZES[s["size"]][0])


def distance(s, width, height, jitter=False, step=1):
    """Signed distance in pixels at pixel centres; step 16 gives one value per token."""
    y, x = np.mgrid[0:height:step, 0:width:step].astype(np.float32) + step / 2
    r = s["r"] * min(width, height) * (1 + s.get("dr", 0) * jitter)
    cx, cy = s["x"] + s.get("dx", 0) * jitter, s["y"] + s.get("dy", 0) * jitter
    return sdf(s["shape"], (x - cx * width) / r, (y - cy * height) / r) * r


def render(s, width, height, guidance=10., jitter=True):
    """-> float32 [height, width, 3] in -1..1"""
    alpha = np.clip(.5 - distance(s, width, height, jitter), 0, 1)[..., None]
    back, fore = (np.array(COLORS[s[k]][0], np.float32) for k in ("background", "color"))
    return (2 * contrast(guidance) * (back * (1 - alpha) + fore * alpha - .5)).astype(np.float32)


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(rng, s):
    """One of the ways to ask for scene `s`."""
    words = [choose(rng, SIZES[s["size"]][1]), choose(rng, COLORS[s["color"]][1]), choose(rng, SHAPES[s["shape"]])]
    noun, where = " ".join(w for w in words if w), ""
    if s["position"] != "center" or rng.random() < .3:
        where = " " + choose(rng, POSITIONS[s["position"]][2])
    text = choose(rng, [article(noun)] * 6 + ["one " + noun, "the " + noun]) + where
    if rng.random() < .12:
        text = noun + (where and "," + where)
    if s["named"]:
        color = choose(rng, COLORS[s["background"]][1])
        background = choose(rng, [f"{color} background"] * 4 + [f"{color} backdrop"])
        q = rng.random()
        if q < .55:
            text += " " + choose(rng, ["on", "on", "on", "against", "with", "over"]) + " " + article(background)
        elif q < .7:
            text += f", {background}"
        elif q < .85:
            text = f"{article(background)} with {text}"
        elif q < .95:
            text += f" on {color}"
        else:
            text += f" on {article(background)}"
    text = choose(rng, PREFIXES) + text + choose(rng, SUFFIXES)
    if rng.random() < .3:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < .15 else "")


def grammar():
    unique = lambda words: list(dict.fromkeys(w for w in words if w))
    return {
        "template": "a {size} {color} {shape} {position} on a {background} background",
        "defaults": {"size": "medium", "position": "center", "background": "white (black behind a white shape)"},
        "colors": {k: {"rgb": list(c), "words": unique(w)} for k, (c, w) in COLORS.items()},
        "shapes": {k: {"words": unique(w)} for k, w in SHAPES.items()},
        "sizes": {k: {"radius": r, "words": unique(w)} for k, (r, w) in SIZES.items()},
        "positions": {k: {"x": x, "y": y, "phrases": unique(p)} for k, (x, y, p) in POSITIONS.items()},
        "radiusUnit": "short side of the picture",
        "largePull": LARGE_PULL,
        "jitter": {"position": JITTER_POSITION, "radius": JITTER_RADIUS},
        "contrast": {"formula": "clip(0.25 + 0.25 * guidance, 0.25, 1) about 0.5", "base": .25, "slope": .25, "min": .25, "max": 1, "about": .5},
        "prefixes": unique(PREFIXES), "suffixes": unique(SUFFIXES),
    }


if __name__ == "__main__":
    with open(sys.argv[1], "w") as f:
        f.write(json.dumps(grammar(), indent=1) + "\n")
