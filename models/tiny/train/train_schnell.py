"""Fine-tune the four-step model without guidance embedding (schnell) from dev.

    python train_schnell.py SECONDS DEV OUT

Guidance at full contrast is folded into the bias of the time embedding (export.py); then flow matching on the noise levels
that one to four steps visit. The prompt decides a picture almost completely, so no distillation from dev's trajectories is
needed; spoiled inputs (batches.py) stand for what a previous step of this model would have left.
"""
import os
import shutil
import sys
import time

import numpy as np
import torch

import fluxlite
from batches import batch, errors, split_matrices
from common import Text
from export import fold_guidance
from muon import Muon
from scenes import caption

LR = float(os.environ.get("LR", ".01"))
COUNT = int(os.environ.get("BATCH", "40"))
LEVELS = torch.tensor([1., .75, .5, .25, 2 / 3, 1 / 3])
SHARES = torch.tensor([.34, .24, .18, .18, .03, .03])


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
        scenes, _, pictures, ids, weight, bias, _ = batch(rng, COUNT, guidance=3.5)
        with torch.no_grad():
            pooled, tokens = text([caption(rng, s) for s in scenes])
        s = LEVELS[torch.multinomial(SHARES, COUNT, True)]
        e, counts = errors(model, pooled, tokens, pictures, ids, bias, s)
        opt.zero_grad()
        ((e * weight * counts).sum() / weight.sum()).backward()
        opt.step(min(1, (it + 1) / 20) * min(1, (1 - done) / .75 + .003))
        it += 1
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.data for p in params.values()], 1 - min(.98, (1 + it) / (10 + it)))
        for a, b in zip(s.tolist(), e.detach().mean(1).tolist()):
            log.setdefault(round(a, 2), []).append(b)
        if it % 25 == 0:
            print(it, f"{time.time() - t0:.0f}s", {k: round(float(np.mean(v[-300:])), 4) for k, v in sorted(log.items())}, flush=True)
    for p, a in zip(params.values(), average):
        p.data.copy_(a)
    fluxlite.save(params, os.path.join(out, "transformer"), guidance=False)
    for name in ("text_encoder", "text_encoder_2"):
        shutil.copytree(os.path.join(dev, name), os.path.join(out, name), dirs_exist_ok=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:4])
