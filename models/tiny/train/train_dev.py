"""Flow-matching training of the guidance-distilled model (dev) with its text encoders.

    python train_dev.py SECONDS OUT [INIT]

INIT is a diffusers folder to start from (default: resume OUT/state.pt). New files of the latent cache are picked up while
it runs; OUT receives state.pt (to resume) and transformer/, text_encoder/, text_encoder_2/ (moving average) every 3 minutes.
"""
import glob
import os
import sys
import time

import numpy as np
import torch

import fluxlite
from common import FULL, HALF, WORK, Text, mu, shift, size
from muon import Muon
from scenes import caption, distance

LR = float(os.environ.get("LR", ".015"))
EMA = float(os.environ.get("EMA", ".998"))
START = float(os.environ.get("START", "0"))   # enter the curriculum at this fraction
# until this fraction of the time: share of time for (small sizes, 0.25 MP, 1 MP in tiles, 1 MP whole), share of high noise
CURRICULUM = [(.10, (.75, .25, 0, 0), .55), (.35, (.25, .45, .25, .05), .40), (.55, (.15, .40, .15, .30), .30), (1.01, (.10, .38, .02, .50), .25)]


class Cache:
    def __init__(self):
        self.files, self.data = set(), {}

    def refresh(self):
        for path in sorted(glob.glob(os.path.join(WORK, "latents-*.pt"))):
            if path in self.files:
                continue
            self.files.add(path)
            new, name = torch.load(path, weights_only=False), os.path.basename(path).split("-")[1]
            old = self.data.get(name)
            self.data[name] = new if old is None else dict(z=torch.cat([old["z"], new["z"]]), scenes=old["scenes"] + new["scenes"], g=torch.cat([old["g"], new["g"]]))

    def names(self, group):
        known = dict(half=HALF, full=FULL)
        names = [n for n in self.data if (n in known[group] if group in known else n not in HALF + FULL)]
        square = {"256x256": .5, "512x512": .45, "1024x1024": .5}   # share of the square size in its group
        p = np.array([square.get(n, 0) for n in names])
        rest = np.array([n not in square for n in names], float)
        return names, (p + rest * (1 - p.sum()) / max(1, rest.sum())) / (1 if rest.sum() else p.sum())


def cost(tokens):
    """Milliseconds of forward and backward pass per sample on two cores."""
    return .05 * tokens * (1 + tokens / 2600)


def tiles(h, w, rng, side=8):
    """A quarter of the tokens of a grid: one 8 × 8 tile out of each 2 × 2 group of tiles."""
    keep = np.zeros((h, w), bool)
    for r in range(0, h, 2 * side):
        for c in range(0, w, 2 * side):
            a, b = r + side * rng.integers(2), c + side * rng.integers(2)
            keep[a:a + side, b:b + side] = True
    return torch.from_numpy(np.flatnonzero(keep.ravel()))


def token_weights(scenes, width, height):
    """Weight of each token's error. It depends on what the prompt says and not on the picture, so it does not bias the mean."""
    w = []
    for s in scenes:
        d = distance(s, width, height, step=16).ravel() / 16   # in tokens
        w.append(1 + 5 * np.exp(-(d / 1.5) ** 2) + 1.5 * (d < 0))
    return torch.from_numpy(np.stack(w)).float()


def noise_levels(batch, tokens, high):
    s = torch.where(torch.rand(batch) < .25, torch.rand(batch), torch.sigmoid(torch.randn(batch)))
    s = shift(s, mu(tokens))
    top = 1 - .15 * torch.rand(batch) * (torch.rand(batch) < .6)
    return torch.where(torch.rand(batch) < high, top, s)


def batch_loss(model, text, data, name, rng, high, tiled=False, budget=450., train_text=True):
    width, height = size(name)
    h, w = height // 16, width // 16
    sel = tiles(h, w, rng) if tiled else None
    n = len(sel) if tiled else h * w
    B = int(np.clip(round(budget / cost(n)), 1, 40))
    j = rng.integers(0, len(data["scenes"]), B)
    scenes = [data["scenes"][i] for i in j]
    ids, x0, weight = fluxlite.image_ids(h, w), data["z"][j].float(), token_weights(scenes, width, height)
    if tiled:
        ids, x0, weight = ids[sel], x0[:, sel], weight[:, sel]
    with torch.set_grad_enabled(train_text):
        pooled, tokens = text([caption(rng, s) for s in scenes])
    s = noise_levels(B, h * w, high)
    noise = torch.randn_like(x0)
    x = s[:, None, None] * noise + (1 - s[:, None, None]) * x0
    t = (s + .002 * (2 * torch.rand(B) - 1)).clamp(0, 1)   # pipelines round the time step to bfloat16
    v = model(x, t, pooled, tokens, ids, data["g"][j])
    e = (v - (noise - x0)).square().mean(-1)
    return (e * weight).sum() / weight.sum(), float(e.detach().mean())


def matrices(params):
    return [k for k, p in params.items() if p.ndim == 2 and "transformer_blocks" in k]


def text_optimizer(text, lr):
    ps = list({id(p): p for p in text.parameters()}.values())
    named = dict(list(text.clip.named_parameters()) + [("t5." + k, p) for k, p in text.t5.named_parameters()])
    m = [p for k, p in named.items() if p.ndim == 2 and "embed" not in k and "shared" not in k and "relative" not in k]
    ids = {id(p) for p in m}
    return Muon(m, [p for p in ps if id(p) not in ids], lr=lr, adam_lr=lr * .12)


def main(seconds, out, init=None):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    resume = None if init else torch.load(os.path.join(out, "state.pt"), weights_only=False)
    seed = int(time.time())
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    params = fluxlite.load(os.path.join(init or out, "transformer"))
    text = Text(init or out)
    model = fluxlite.Lite(params, torch.float32)
    m = matrices(params)
    opt = Muon([params[k] for k in m], [p for k, p in params.items() if k not in m], lr=LR, adam_lr=LR * .12)
    opt_text = text_optimizer(text, LR * .15)
    live = list(params.values()) + text.parameters()
    if resume:
        for p, q in zip(live, resume["live"]):
            p.data.copy_(q)
        opt.load_state_dict(resume["opt"])
        opt_text.load_state_dict(resume["opt_text"])
    average = [p.detach().clone() for p in (resume["average"] if resume else live)]
    cache, t0, it, log = Cache(), time.time(), 0, {}
    saved = t0

    def save():
        os.makedirs(out, exist_ok=True)
        torch.save(dict(live=[p.detach() for p in live], average=average, opt=opt.state_dict(), opt_text=opt_text.state_dict()), os.path.join(out, "state.part"))
        os.replace(os.path.join(out, "state.part"), os.path.join(out, "state.pt"))
        backup = [p.detach().clone() for p in live]
        for p, a in zip(live, average):
            p.data.copy_(a)
        fluxlite.save(params, os.path.join(out, "transformer"))
        text.clip.save_pretrained(os.path.join(out, "text_encoder"))
        text.t5.save_pretrained(os.path.join(out, "text_encoder_2"))
        for p, b in zip(live, backup):
            p.data.copy_(b)

    while time.time() - t0 < seconds:
        if it % 40 == 0:
            cache.refresh()
        done = START + (1 - START) * (time.time() - t0) / seconds
        _, shares, high = next(c for c in CURRICULUM if done < c[0])
        train_text = done < .7
        # two micro-batches from different groups per update
        parts = [("small", False), ("half", False), ("full", True), ("full", False)]
        ok = np.array([s if cache.names(g)[0] else 0 for s, (g, _) in zip(shares, parts)])
        opt.zero_grad()
        opt_text.zero_grad()
        picks = rng.choice(4, size=min(2, int((ok > 0).sum())), replace=False, p=ok / ok.sum())
        for i in picks:
            group, tiled = parts[i]
            names, p = cache.names(group)
            name = names[rng.choice(len(names), p=p)]
            loss, plain = batch_loss(model, text, cache.data[name], name, rng, high, tiled, train_text=train_text)
            (loss / len(picks)).backward()
            log.setdefault(group + ("/tiles" if tiled else ""), []).append(plain)
        f = min(1, (it + 1) / 50) * min(1, (1 - done) / .5 + .003)
        opt.step(f)
        if train_text:
            opt_text.step(f)
        it += 1
        d = min(EMA, (1 + it) / (10 + it)) if not resume else EMA
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.data for p in live], 1 - d)
        if it % 50 == 0:
            print(it, f"{time.time() - t0:.0f}s done={done:.3f}", {k: round(float(np.mean(v[-60:])), 4) for k, v in log.items()}, flush=True)
        if time.time() - saved > 180:
            save()
            saved = time.time()
    save()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
