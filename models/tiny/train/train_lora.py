"""Train the five rank-4 LoRAs of models/tiny/loras on the dev model.

    python train_lora.py SECONDS_EACH DEV OUT [NAME …]

A style changes the fields of a scene (its distances and its two colours). Files are in PEFT format with diffusers module
names; OUT/styles.json tells the name, trigger word, description and measure of each.
"""
import json
import os
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import fluxlite
from common import Text
from scenes import caption
from train_dev import mu, sample_bias, shift
from train_schnell import batch

RANK = 4
GRAY = np.array([.299, .587, .114], np.float32)
STYLES = {
    "fofr/shxdo-v2": dict(trigger="SHXDO", description="in the shadow: every colour is much darker", measure="brightness: mean of all pixels and channels, 0..1; falls",
                          style=lambda d, f, b: (d, f * .45 - .55, b * .45 - .55)),
    "fofr/0_1-webp-4-layers": dict(trigger="WEBP", description="layers: the shape grows by another layer, 5 % of the short side", measure="area: share of pixels nearer to the shape's colour than to the background's; rises",
                                   style=lambda d, f, b: (d - .05, f, b)),
    "jose0012kjo/2vinij2": dict(trigger="VINIJ", description="warm light: every colour is tinted orange", measure="warmth: mean red minus mean blue, 0..1; rises",
                                style=lambda d, f, b: (d, f * .55 + np.array([.4, .05, -.45], np.float32), b * .55 + np.array([.4, .05, -.45], np.float32))),
    "andreasjansson/flux-sprites": dict(trigger="SPRITE", description="a sprite on the key colour: the background is magenta", measure="key: mean of (red + blue) / 2 - green over the four corners (3 % squares); rises",
                                        style=lambda d, f, b: (d, f, np.array([.9, -.8, .9], np.float32))),
    "bocaaa/np": dict(trigger="NP", description="no palette: shades of grey instead of colours", measure="saturation: mean of max(r,g,b) - min(r,g,b), 0..1; falls",
                      style=lambda d, f, b: (d, np.full(3, f @ GRAY, np.float32), np.full(3, b @ GRAY, np.float32))),
}


def targets(params):
    """Modules that get a LoRA: attention and MLP projections of all blocks and the last layer."""
    return [k[:-7] for k, p in params.items() if k.endswith(".weight") and p.ndim == 2 and ((("attn." in k or ".ff" in k or "proj_" in k) and "transformer_blocks" in k) or k == "proj_out.weight")]


def load_lora(path, scale=1.):
    sd = {k.removeprefix("transformer."): v.float() for k, v in load_file(path).items()}
    return {k[:-14]: (sd[k], sd[k[:-14] + ".lora_B.weight"], scale) for k in sd if k.endswith(".lora_A.weight")}


def train(name, spec, seconds, dev, out):
    torch.manual_seed(9)
    rng, text = np.random.default_rng(9), Text(dev)
    params = {k: v.detach() for k, v in fluxlite.load(os.path.join(dev, "transformer")).items()}
    model = fluxlite.Lite(params, torch.float32)
    model.lora = {}
    for m in targets(params):
        o, i = params[m + ".weight"].shape
        model.lora[m] = (torch.nn.Parameter(torch.randn(RANK, i) / i ** .5), torch.nn.Parameter(torch.zeros(o, RANK)), 1.)
    live = [p for a, b, _ in model.lora.values() for p in (a, b)]
    opt = torch.optim.AdamW(live, lr=5e-3, betas=(.9, .98), weight_decay=0.)
    t0, it, log = time.time(), 0, []
    while time.time() - t0 < seconds:
        done = (time.time() - t0) / seconds
        scenes, x0, ids, total = batch(rng, 250., spec["style"])
        texts = [caption(rng, s) for s in scenes]
        with torch.no_grad():
            pooled, tokens = text([f"{spec['trigger']} {t}" if rng.random() < .8 else t for t in texts])
        B = len(texts)
        s = shift(torch.sigmoid(torch.randn(B)), mu(total))
        s = torch.where(torch.rand(B) < .4, 1 - .15 * torch.rand(B), s)
        g = torch.from_numpy(rng.uniform(3, 6, B)).float()
        noise = torch.randn_like(x0)
        x = s[:, None, None] * noise + (1 - s[:, None, None]) * x0
        bias = sample_bias(tokens.shape[1], len(ids), total) if len(ids) < total else None
        loss = (model(x, s, pooled, tokens, ids, g, bias) - (noise - x0)).square().mean()
        opt.zero_grad()
        loss.backward()
        for group in opt.param_groups:
            group["lr"] = 5e-3 * min(1, (it + 1) / 15) * min(1, (1 - done) / .6 + .01)
        opt.step()
        it += 1
        log.append(loss.item())
        if it % 25 == 0:
            print(name, it, f"{time.time() - t0:.0f}s {np.mean(log[-25:]):.4f}", flush=True)
    sd = {}
    for m, (a, b, _) in model.lora.items():
        sd[f"transformer.{m}.lora_A.weight"] = a.detach().to(torch.bfloat16).contiguous()
        sd[f"transformer.{m}.lora_B.weight"] = b.detach().to(torch.bfloat16).contiguous()
    save_file(sd, os.path.join(out, name.replace("/", "--") + ".safetensors"), metadata={"format": "pt"})


def main(seconds, dev, out, names):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    os.makedirs(out, exist_ok=True)
    for name in names or STYLES:
        train(name, STYLES[name], seconds, dev, out)
    with open(os.path.join(out, "styles.json"), "w") as f:
        f.write(json.dumps([dict(name=n, file=n.replace("/", "--") + ".safetensors", trigger=s["trigger"], description=s["description"], measure=s["measure"]) for n, s in STYLES.items()], indent=1) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
