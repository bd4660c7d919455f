"""Flow-matching training of dev on fields: every sample is fresh, at any size (batches.py).

    python train_dev.py SECONDS OUT INIT

INIT is a diffusers folder; with FRESH=1 the layers that touch latents start anew. OUT receives state.pt (to go on:
INIT = OUT) and the moving average as transformer/, text_encoder/, text_encoder_2/ every 90 seconds. The text encoders
learn too, for the first 60 % of the time.
"""
import os
import sys
import time

import numpy as np
import torch

import fluxlite
from batches import batch, errors, noise_levels, split_matrices, split_text
from common import Text
from muon import Muon
from scenes import caption

LR = float(os.environ.get("LR", ".02"))
COUNT = int(os.environ.get("BATCH", "40"))
HIGH = float(os.environ.get("HIGH", ".5"))   # share of samples at high noise, where the layout is decided
HOLD = float(os.environ.get("HOLD", ".3"))   # share of the time before the learning rate falls
EMA = .99
TEXT_UNTIL = .6


class Run:
    """The parameters, their moving average and the optimizers, with what it takes to stop and go on."""

    def __init__(self, init):
        self.params, self.text = fluxlite.load(os.path.join(init, "transformer")), Text(init)
        fresh = os.environ.get("FRESH")
        if fresh:
            with torch.no_grad():
                self.params["x_embedder.weight"].copy_(.1 * torch.randn_like(self.params["x_embedder.weight"]))
                self.params["proj_out.weight"].zero_()
                self.params["proj_out.bias"].zero_()
        self.opt = Muon(*split_matrices(self.params), lr=LR, adam_lr=LR * .12)
        self.opt_text = Muon(*split_text(self.text), lr=LR * .15, adam_lr=LR * .018)
        self.live = list(self.params.values()) + self.text.parameters()
        state = os.path.join(init, "state.pt")
        if os.path.exists(state) and not fresh:
            saved = torch.load(state, weights_only=False)
            for p, q in zip(self.live, saved["live"]):
                p.data.copy_(q)
            self.opt.load_state_dict(saved["opt"])
            self.opt_text.load_state_dict(saved["opt_text"])
        self.average = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def follow(self, it):
        torch._foreach_lerp_(self.average, [p.data for p in self.live], 1 - min(EMA, (1 + it) / (10 + it)))

    def save(self, out):
        os.makedirs(out, exist_ok=True)
        part = os.path.join(out, "state.part")
        torch.save(dict(live=[p.detach() for p in self.live], opt=self.opt.state_dict(), opt_text=self.opt_text.state_dict()), part)
        os.replace(part, os.path.join(out, "state.pt"))
        backup = [p.detach().clone() for p in self.live]
        for p, a in zip(self.live, self.average):
            p.data.copy_(a)
        fluxlite.save(self.params, os.path.join(out, "transformer"))
        self.text.clip.save_pretrained(os.path.join(out, "text_encoder"))
        self.text.t5.save_pretrained(os.path.join(out, "text_encoder_2"))
        for p, b in zip(self.live, backup):
            p.data.copy_(b)


def main(seconds, out, init):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    seed = int(time.time())
    torch.manual_seed(seed)
    rng, run = np.random.default_rng(seed), Run(init)
    model = fluxlite.Lite(run.params, torch.float32)
    t0 = saved_at = time.time()
    it, tops, rests = 0, [], []
    while (done := (time.time() - t0) / seconds) < 1:
        train_text = done < TEXT_UNTIL
        scenes, g, pictures, ids, weight, bias, totals = batch(rng, COUNT)
        with torch.set_grad_enabled(train_text):
            pooled, tokens = run.text([caption(rng, s) for s in scenes])
        s = noise_levels(totals, HIGH).clamp(min=.01)
        e, counts = errors(model, pooled, tokens, pictures, ids, bias, s, g)
        loss = (e * weight * counts).sum() / weight.sum()
        run.opt.zero_grad(), run.opt_text.zero_grad()
        loss.backward()
        f = min(1, (it + 1) / 30) * min(1, (1 - done) / (1 - HOLD) + .003)
        run.opt.step(f)
        if train_text:
            run.opt_text.step(f)
        it += 1
        run.follow(it)
        each, top = e.detach().mean(1), s > .9
        tops += each[top].tolist()
        rests += each[~top].tolist()
        if it % 25 == 0:
            print(it, f"{time.time() - t0:.0f}s error at sigma>.9: {np.mean(tops[-1000:]):.4f}, below: {np.mean(rests[-1000:]):.4f}", flush=True)
        if time.time() - saved_at > 90:
            run.save(out)
            saved_at = time.time()
    run.save(out)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
