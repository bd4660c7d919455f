"""Fine-tune the four-step model without guidance embedding (schnell) from dev.

    python train_schnell.py SECONDS DEV OUT

Guidance at full contrast is folded into the bias of the time embedding; then flow matching on the noise levels that one to four
steps visit. The grammar decides a picture almost completely, so no distillation from dev's trajectories is needed.
"""
import os
import shutil
import sys
import time

import numpy as np
import torch

import fluxlite
from common import Text, pack, size
from export import fold_guidance
from fields import latents
from muon import Muon
from scenes import caption, scene
from train_dev import cost, random_size, sample_bias, split_matrices

LR = float(os.environ.get("LR", ".006"))
SAMPLE = int(os.environ.get("SAMPLE", "288"))
WHOLE = float(os.environ.get("WHOLE", ".15"))
LEVELS = torch.tensor([1., .75, .5, .25, 2 / 3, 1 / 3])
SHARES = torch.tensor([.34, .22, .16, .20, .04, .04])


def batch(rng, budget, style=None):
    """Scenes at full contrast, a sample of the tokens of large pictures: scenes, x0, ids, tokens of the whole picture."""
    width, height = random_size(rng, 1.)
    h, w = height // 16, width // 16
    total = h * w
    n = total if total <= SAMPLE or rng.random() < WHOLE else SAMPLE
    scenes = [scene(rng) for _ in range(int(np.clip(round(budget / cost(n)), 1, 64)))]
    x0, ids = pack(torch.stack([latents(s, width, height, 10., style) for s in scenes])), fluxlite.image_ids(h, w)
    if n < total:
        keep = torch.from_numpy(rng.permutation(total)[:n])
        x0, ids = x0[:, keep], ids[keep]
    return scenes, x0, ids, total


def main(seconds, dev, out):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    torch.manual_seed(5)
    rng, text = np.random.default_rng(5), Text(dev)
    params = fold_guidance(fluxlite.load(os.path.join(dev, "transformer")))
    model = fluxlite.Lite(params, torch.float32)
    opt = Muon(*split_matrices(params), lr=LR, adam_lr=LR * .12)
    average = [p.detach().clone() for p in params.values()]
    t0, it, log = time.time(), 0, {}
    while time.time() - t0 < seconds:
        done = (time.time() - t0) / seconds
        scenes, x0, ids, total = batch(rng, 500.)
        with torch.no_grad():
            pooled, tokens = text([caption(rng, s) for s in scenes])
        s = LEVELS[torch.multinomial(SHARES, len(scenes), True)]
        t = (s + .002 * (2 * torch.rand(len(s)) - 1)).clamp(0, 1)   # pipelines round the time step to bfloat16
        noise = torch.randn_like(x0)
        x = s[:, None, None] * noise + (1 - s[:, None, None]) * x0
        e = (model(x, t, pooled, tokens, ids, None, sample_bias(tokens.shape[1], len(ids), total) if len(ids) < total else None) - (noise - x0)).square().mean((1, 2))
        opt.zero_grad()
        e.mean().backward()
        opt.step(min(1, (it + 1) / 20) * min(1, (1 - done) / .7 + .003))
        it += 1
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.data for p in params.values()], 1 - min(.99, (1 + it) / (10 + it)))
        for a, b in zip(s.tolist(), e.tolist()):
            log.setdefault(round(a, 2), []).append(b)
        if it % 25 == 0:
            print(it, f"{time.time() - t0:.0f}s", {k: round(float(np.mean(v[-100:])), 4) for k, v in sorted(log.items())}, flush=True)
    for p, a in zip(params.values(), average):
        p.data.copy_(a)
    fluxlite.save(params, os.path.join(out, "transformer"), guidance=False)
    for name in ("text_encoder", "text_encoder_2"):
        shutil.copytree(os.path.join(dev, name), os.path.join(out, name), dirs_exist_ok=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:4])
