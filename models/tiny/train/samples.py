"""Draw the README's grid of samples with the exported models.

    python samples.py MODELS OUT.png        # MODELS holds dev/ and schnell/
"""
import os
import sys

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from common import Text, decode_image, load_vae, sample
from evaluate import load_model

CELL, LINES, COLUMNS = 150, 3, 8
SQUARE = (512, 512)
DEV = [
    ("a red circle on a blue background", SQUARE), ("a yellow star on a purple background", SQUARE), ("a green triangle on a white background", SQUARE),
    ("a large orange ring on a black background", SQUARE), ("a small white square on a red background", SQUARE), ("a pink circle on the left, gray background", SQUARE),
    ("a cyan ring at the top on a brown background", SQUARE), ("a big black star on a yellow background", SQUARE), ("a purple square at the bottom on a cyan background", SQUARE),
    ("A drawing of a tiny blue ball on the right on a pink background.", SQUARE), ("a brown triangle", SQUARE), ("a huge golden donut, navy blue backdrop", SQUARE),
    ("a white circle", SQUARE), ("a green square on the left on orange", SQUARE),
    ("a red ring on the right on a white background", (672, 384)), ("a yellow pyramid at the bottom on a green background", (384, 672)),
]
SCHNELL = [
    ("a blue square on a yellow background", SQUARE), ("a large red star on a white background", SQUARE), ("a purple ring on the left on a green background", SQUARE),
    ("an orange triangle at the bottom on a blue background", SQUARE), ("a small pink circle at the top on a black background", SQUARE), ("a gray square on a pink background", SQUARE),
    ("a cyan circle on the right on a red background", (672, 384)), ("a white star on a blue background", (384, 672)),
]


def wrap(draw, words, font, width):
    lines = [""]
    for word in words.split():
        longer = (lines[-1] + " " + word).strip()
        if draw.textlength(longer, font) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines[:LINES])


def main(models, path):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    font, vae = ImageFont.load_default(10), load_vae()
    asked = [("dev", *a) for a in DEV] + [("schnell", *a) for a in SCHNELL]
    height = CELL + 12 * (LINES + 1) + 8
    out = Image.new("RGB", (COLUMNS * CELL + (COLUMNS + 1) * 6, -(-len(asked) // COLUMNS) * height), "white")
    draw = ImageDraw.Draw(out)
    loaded = {m: (Text(os.path.join(models, m)), load_model(os.path.join(models, m))) for m in ("dev", "schnell")}
    for i, (mode, prompt, (w, h)) in enumerate(asked):
        text, model = loaded[mode]
        dev = mode == "dev"
        z = sample(model, text, [prompt], w, h, 28 if dev else 4, 3, i, dev)
        picture = Image.fromarray((decode_image(vae, z, h // 16, w // 16)[0] * 255).round().astype(np.uint8))
        picture = picture.resize((CELL * w // max(w, h), CELL * h // max(w, h)), Image.LANCZOS)
        x, y = 6 + i % COLUMNS * (CELL + 6), i // COLUMNS * height + 6
        out.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
        draw.text((x, y + CELL + 2), wrap(draw, prompt if dev else f"schnell: {prompt}", font, CELL), "#333", font, spacing=1)
    out.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
