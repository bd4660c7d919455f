"""Train the five rank-4 LoRAs of models/tiny/loras on the dev model, or measure them.

    python train_lora.py SECONDS_EACH DEV OUT [NAME …]
    RESUME=1 python train_lora.py …                # goes on from the files in OUT
    python train_lora.py measure DEV OUT [NAME …]  # each style's measure at scales -1, 0, 1

A style changes the fields of a scene: its distances and its two colours. It is trained at scale 1 and, towards the opposite
style, at negative scales, so that the scale works as a dial. Files are in PEFT format with diffusers module names;
OUT/styles.json tells name, file, trigger word, description and measure of each.
"""
import json
import os
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import fluxlite
from batches import batch, errors, noise_levels
from common import Text, decode_image, load_vae, sample
from scenes import caption

RANK, LR = 4, 5e-3
COUNT = int(os.environ.get("BATCH", "24"))
GRAY = np.array([.299, .587, .114], np.float32)


def shadow(d, f, b, k):
    dim = lambda c: c * (1 - .55 * abs(k)) - .55 * k
    return d, dim(f), dim(b)


def layers(d, f, b, k):
    return d - .05 * k, f, b


def warm(d, f, b, k):
    tint = lambda c: c * (1 - .45 * abs(k)) + k * np.array([.42, 0, -.45], np.float32)
    return d, tint(f), tint(b)


def sprite(d, f, b, k):
    return d, f, b * (1 - abs(k)) + k * np.array([.9, -.8, .9], np.float32)


def grey(d, f, b, k):
    pale = lambda c: np.clip(c @ GRAY + (c - c @ GRAY) * (1 - k), -1, 1)
    return d, pale(f), pale(b)


def corners(x):
    n = int(.03 * min(x.shape[:2])) + 1
    return np.stack([x[:n, :n], x[:n, -n:], x[-n:, :n], x[-n:, -n:]]).mean((0, 1, 2))


# pictures are float [H, W, 3] in 0..1
STYLES = {
    "fofr/shxdo-v2": dict(
        trigger="SHXDO", style=shadow, description="In the shadow: every colour is much darker.", expect="falls",
        measure="brightness: mean of all pixels and channels, 0..1", value=lambda x: x.mean()),
    "fofr/0_1-webp-4-layers": dict(
        trigger="WEBP", style=layers, description="Layer upon layer: the shape grows by 5 % of the short side all around.", expect="rises",
        measure="coverage: share of pixels that differ by more than 0.2 in some channel from the pixel in the top left corner",
        value=lambda x: (np.abs(x - x[0, 0]).max(-1) > .2).mean()),
    "jose0012kjo/2vinij2": dict(
        trigger="VINIJ", style=warm, description="Warm light: every colour is tinted orange.", expect="rises",
        measure="warmth: mean of red minus mean of blue, -1..1", value=lambda x: x[..., 0].mean() - x[..., 2].mean()),
    "andreasjansson/flux-sprites": dict(
        trigger="SPRITE", style=sprite, description="A sprite on the key colour: the background is magenta.", expect="rises",
        measure="key: (red + blue) / 2 - green, mean over the four corner squares of 3 % of the short side, -1..1",
        value=lambda x: float(corners(x) @ [.5, -1, .5])),
    "bocaaa/np": dict(
        trigger="NP", style=grey, description="No palette: shades of grey instead of colours.", expect="falls",
        measure="saturation: mean over the pixels of max(r, g, b) - min(r, g, b), 0..1", value=lambda x: (x.max(-1) - x.min(-1)).mean()),
}


def file_of(name):
    return name.replace("/", "--") + ".safetensors"


def targets(params):
    """Modules that get a LoRA: attention and MLP projections of all blocks and the last layer."""
    return [k[:-7] for k, p in params.items() if k.endswith(".weight") and p.ndim == 2
            and ((("attn." in k or ".ff" in k or "proj_" in k) and "transformer_blocks" in k) or k == "proj_out.weight")]


def load_lora(path, scale=1.):
    sd = {k.removeprefix("transformer."): v.float() for k, v in load_file(path).items()}
    return {k[:-14]: (sd[k], sd[k[:-14] + ".lora_B.weight"], scale) for k in sd if k.endswith(".lora_A.weight")}


def train(name, spec, seconds, dev, out):
    torch.manual_seed(9)
    rng, text = np.random.default_rng(9), Text(dev)
    params = {k: v.detach() for k, v in fluxlite.load(os.path.join(dev, "transformer")).items()}
    model = fluxlite.Lite(params, torch.float32)
    pairs = {}
    earlier = load_lora(os.path.join(out, file_of(name))) if os.environ.get("RESUME") and os.path.exists(os.path.join(out, file_of(name))) else {}
    for m in targets(params):
        o, i = params[m + ".weight"].shape
        pairs[m] = tuple(map(torch.nn.Parameter, earlier[m][:2])) if earlier else (torch.nn.Parameter(torch.randn(RANK, i) / i ** .5), torch.nn.Parameter(torch.zeros(o, RANK)))
    live = [p for pair in pairs.values() for p in pair]
    opt = torch.optim.AdamW(live, lr=LR, betas=(.9, .98), weight_decay=0.)
    t0, it, log = time.time(), 0, []
    while time.time() - t0 < seconds:
        done, q = (time.time() - t0) / seconds, rng.random()
        k = 1. if q < .6 else -1. if q < .8 else float(rng.uniform(-1, 1))
        scenes, g, pictures, ids, weight, bias, totals = batch(rng, COUNT, float(rng.uniform(3, 6)), lambda d, f, b: spec["style"](d, f, b, k))
        texts = [f"{spec['trigger']} {t}" if rng.random() < .8 else t for t in (caption(rng, s) for s in scenes)]
        with torch.no_grad():
            pooled, tokens = text(texts)
        model.lora = {m: (a, b, k) for m, (a, b) in pairs.items()}
        e, counts = errors(model, pooled, tokens, pictures, ids, bias, noise_levels(totals, .4).clamp(min=.01), g)
        loss = (e * weight * counts).sum() / weight.sum()
        opt.zero_grad()
        loss.backward()
        for group in opt.param_groups:
            group["lr"] = LR * min(1, (it + 1) / 15) * min(1, (1 - done) / .6 + .01)
        opt.step()
        it += 1
        log.append(loss.item())
        if it % 25 == 0:
            print(name, it, f"{time.time() - t0:.0f}s {np.mean(log[-25:]):.4f}", flush=True)
    sd = {}
    for m, (a, b) in pairs.items():
        sd[f"transformer.{m}.lora_A.weight"] = a.detach().to(torch.bfloat16).contiguous()
        sd[f"transformer.{m}.lora_B.weight"] = b.detach().to(torch.bfloat16).contiguous()
    save_file(sd, os.path.join(out, file_of(name)), metadata={"format": "pt"})
    os.chmod(os.path.join(out, file_of(name)), 0o644)


def measure(dev, out, names, side=256, steps=10):
    text, vae = Text(dev), load_vae()
    params = {k: v.detach() for k, v in fluxlite.load(os.path.join(dev, "transformer")).items()}
    asked = ["a red circle on a green background", "a large pink square on a gray background", "a brown star on a cyan background",
             "a blue ring on the left on an orange background", "a small yellow triangle at the top on a purple background", "a green square on a brown background"]
    for name in names or STYLES:
        spec, values = STYLES[name], []
        for scale in (-1., 0., 1.):
            model = fluxlite.Lite(params, torch.float32)
            model.lora = load_lora(os.path.join(out, file_of(name)), scale)
            pictures = decode_image(vae, sample(model, text, [f"{spec['trigger']} {t}" for t in asked], side, side, steps, 3.5, 50), side // 16, side // 16)
            values.append(np.array([spec["value"](x) for x in pictures]))
        moves = [float(np.mean((values[2] > values[1]) == (spec["expect"] == "rises"))), float(np.mean((values[0] < values[1]) == (spec["expect"] == "rises")))]
        print(name, "at -1, 0, 1:", [round(float(v.mean()), 3) for v in values], "right way at 1: %.2f, at -1: %.2f of the pictures" % tuple(moves), flush=True)


def main(seconds, dev, out, *names):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    if seconds == "measure":
        return measure(dev, out, names)
    os.makedirs(out, exist_ok=True)
    for name in names or STYLES:
        train(name, STYLES[name], float(seconds), dev, out)
    keys = ("trigger", "description", "measure", "expect")
    with open(os.path.join(out, "styles.json"), "w") as f:
        f.write(json.dumps([dict(name=n, file=file_of(n), **{k: s[k] for k in keys}) for n, s in STYLES.items()], indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
