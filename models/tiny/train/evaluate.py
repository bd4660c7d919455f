"""Sample prompts of the grammar and judge the pictures by program.

    python evaluate.py FOLDER dev|schnell STEPS SIZE[:COUNT] … [--guidance G] [--seed S] [--lora FILE --trigger WORD --scale X] [--out DIR]

FOLDER holds transformer/, text_encoder/, text_encoder_2/. Prints one line of scores per size (see README.md, "How good it is")
and writes a contact sheet DIR/grid-dev-512x512.png with the prompts and scores beside it (.txt); DIR is FOLDER unless given.
"""
import argparse
import os
import time

import numpy as np
import torch
from PIL import Image

import fluxlite
from common import Text, decode_image, load_vae, sample, size
from scenes import COLORS, SHAPES, caption, contrast, distance, scene, sdf

NAMES, PALETTE = list(COLORS), np.array([c for c, _ in COLORS.values()])


def prompts(count, seed):
    """Scenes with a named background, shapes in turn, and one caption each."""
    rng, out = np.random.default_rng(seed), []
    while len(out) < count:
        s = scene(rng)
        if s["named"]:
            s["shape"] = list(SHAPES)[len(out) % len(SHAPES)]
            out.append((s, caption(rng, s)))
    return out


def nearest(rgb):
    return NAMES[int(np.argmin(((PALETTE - rgb) ** 2).sum(1)))]


def judge(picture, s, guidance=10.):
    """picture float [H, W, 3] in 0..1 -> dict of scores"""
    H, W, _ = picture.shape
    m = min(W, H)
    x = np.clip((picture - .5) / contrast(guidance) + .5, 0, 1)
    d = distance(s, W, H)
    fore, back = (np.array(COLORS[s[k]][0]) for k in ("color", "background"))
    core = d < .5 * d.min()
    color = nearest(np.median(x[core], 0)) == s["color"]
    background = nearest(np.median(x[d > .1 * m], 0)) == s["background"]
    mask = ((x - fore) ** 2).sum(-1) < ((x - back) ** 2).sum(-1)
    r = dict(color=color, background=background, position=False, shape=False, iou=0., offset=1., speckle=1.)
    if mask.sum() >= 20:
        Y, X = np.mgrid[0:H, 0:W] + .5
        cx, cy, ideal = X[mask].mean(), Y[mask].mean(), d < 0
        r["offset"] = float(np.hypot(cx - X[ideal].mean(), cy - Y[ideal].mean()) / m)
        r["position"] = r["offset"] < .08
        r["iou"] = float((mask & ideal).sum() / (mask | ideal).sum())
        best = {}
        for shape in SHAPES:   # every class with the same centroid and area
            g = np.mgrid[-1.5:1.5:.02, -1.5:1.5:.02]
            inside = sdf(shape, g[1], g[0]) < 0
            radius = np.sqrt(mask.sum() / (inside.sum() * .02 ** 2))
            ox, oy = g[1][inside].mean() * radius, g[0][inside].mean() * radius
            z = sdf(shape, (X - cx + ox) / radius, (Y - cy + oy) / radius) < 0
            best[shape] = (z & mask).sum() / (z | mask).sum()
        r["shape"] = max(best, key=best.get) == s["shape"]
        r["speckle"] = float((mask & (d > .05 * m)).sum() / ideal.sum())
    return r


def sheet(pictures, path, side=160):
    h, w = pictures[0].shape[:2]
    thumbs = [np.asarray(Image.fromarray((p * 255).round().astype(np.uint8)).resize((side * w // max(h, w), side * h // max(h, w)), Image.LANCZOS)) for p in pictures]
    columns = min(len(thumbs), 8)
    thumbs += [thumbs[0] * 0] * (-len(thumbs) % columns)
    Image.fromarray(np.concatenate([np.concatenate(thumbs[i:i + columns], 1) for i in range(0, len(thumbs), columns)])).save(path)


def load_model(folder, lora=None, scale=1.):
    params = {k: v.detach() for k, v in fluxlite.load(os.path.join(folder, "transformer")).items()}
    model = fluxlite.Lite(params, torch.float32)
    if lora:
        from train_lora import load_lora
        model.lora = load_lora(lora, scale)
    return model


def main():
    a = argparse.ArgumentParser()
    a.add_argument("folder"), a.add_argument("mode"), a.add_argument("steps", type=int), a.add_argument("sizes", nargs="+")
    a.add_argument("--guidance", type=float, default=3.5), a.add_argument("--seed", type=int, default=123)
    a.add_argument("--lora"), a.add_argument("--trigger", default=""), a.add_argument("--scale", type=float, default=1.)
    a.add_argument("--out")
    a = a.parse_args()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    text, vae, model = Text(a.folder), load_vae(), load_model(a.folder, a.lora, a.scale)
    for spec in a.sizes:
        name, _, count = spec.partition(":")
        (width, height), t0 = size(name), time.time()
        asked, pictures = prompts(int(count or 16), a.seed), []
        batch = max(1, 4 * 512 * 512 // (width * height))
        for i in range(0, len(asked), batch):
            texts = [f"{a.trigger} {t}" if a.trigger else t for _, t in asked[i:i + batch]]
            z = sample(model, text, texts, width, height, a.steps, a.guidance, 1000 + i, a.mode == "dev")
            pictures += list(decode_image(vae, z, height // 16, width // 16))
        scores = [judge(p, s, a.guidance if a.mode == "dev" else 10) for p, (s, _) in zip(pictures, asked)]
        mean = {k: round(float(np.mean([r[k] for r in scores])), 3) for k in scores[0]}
        print(name, a.mode, a.steps, "n", len(asked), mean, f"{(time.time() - t0) / len(asked):.1f} s each", flush=True)
        out = a.out or a.folder
        sheet(pictures, os.path.join(out, f"grid-{a.mode}-{name}.png"))
        with open(os.path.join(out, f"grid-{a.mode}-{name}.txt"), "w") as f:
            f.writelines(f"{t} | {r}\n" for (_, t), r in zip(asked, scores))


if __name__ == "__main__":
    main()
