"""Sampled batches that look where the outline is: see batch()."""
import math
import os
import sys
import time

import numpy as np
import torch

import fluxlite
import train_dev as T
from common import TEXT_TOKENS, Text
from fields import DISTANCE_CHANNELS, MORE_WIDTHS, WIDTHS, colors
from muon import Muon
from scenes import caption, scene, sdf

TOKENS, TILE = int(os.environ.get("TOKENS", "144")), 2
_CHANNEL_WEIGHT = np.full(16, .7, np.float32)
for _c, _w in zip(DISTANCE_CHANNELS, WIDTHS + MORE_WIDTHS):
    _CHANNEL_WEIGHT[_c] = {.04: 1.2, .08: 1.2, .16: 1.}[_w]
CHANNEL_WEIGHT = torch.from_numpy(_CHANNEL_WEIGHT.repeat(4))


def spoiler(rng, height, width):
    """Smooth noise, coarse or fine, of a random strength: an error of the outline [height/8, width/8], in short sides."""
    shape = (height // 8, width // 8)
    step = int(rng.choice([1, 2, 4, 8]))
    cells = torch.randn(1, 1, -(-shape[0] // step), -(-shape[1] // step))
    return rng.uniform(0, .08) * torch.nn.functional.interpolate(cells, size=shape, mode="bilinear")[0, 0].numpy()


def field_tokens(s, g, width, height, sel, error=None):
    """The packed field tokens `sel` [n] of a scene -> [n, 64]; `error` is added to the distance."""
    w, short = width // 16, min(width, height)
    r, c = sel // w, sel % w
    y = (r[:, None] * 16 + np.array([4, 4, 12, 12])).astype(np.float32)
    x = (c[:, None] * 16 + np.array([4, 12, 4, 12])).astype(np.float32)
    radius = s["r"] * short * (1 + s["dr"])
    d = sdf(s["shape"], (x - (s["x"] + s["dx"]) * width) / radius, (y - (s["y"] + s["dy"]) * height) / radius) * radius / short
    if error is not None:
        d = d + error[(y // 8).astype(int), (x // 8).astype(int)]
    z = np.empty((len(sel), 16, 4), np.float32)
    for ch, wd in zip(DISTANCE_CHANNELS, WIDTHS + MORE_WIDTHS):
        z[:, ch] = np.tanh(-d / wd)
    fore, back = colors(s, g)
    z[:, 4:7], z[:, 7:10] = fore[None, :, None], back[None, :, None]
    return z.reshape(len(sel), 64)


def nominal(s, width, height):
    """Distance of every token centre from the outline the prompt asks for, in short sides [h*w]."""
    short = min(width, height)
    y, x = np.mgrid[8:height:16, 8:width:16].astype(np.float32)
    r = s["r"] * short
    return (sdf(s["shape"], (x - s["x"] * width) / r, (y - s["y"] * height) / r) * r / short).ravel()


def batch(rng, done, count):
    """Pictures of mixed sizes, TOKENS tokens of each in 2 × 2 tiles: two thirds from the band around the outline and the inside.

    Keys get the logit -log(inclusion probability), so attention over the sample estimates attention over all tokens.
    """
    x0, seen, ids, weight, log_p, tile_of, gs, scenes, totals = [], [], [], [], [], [], [], [], []
    for _ in range(count):
        width, height = T.random_size(rng, done)
        width, height = width // 32 * 32, height // 32 * 32
        h, w, s = height // 16, width // 16, scene(rng)
        g = 3.5 if rng.random() < .3 else float(rng.uniform(0, 3)) if rng.random() < .3 else float(rng.uniform(3, 10))
        d = nominal(s, width, height)
        tiles = np.arange(h * w).reshape(h // TILE, TILE, w // TILE, TILE).swapaxes(1, 2).reshape(-1, TILE * TILE)
        near = d[tiles].min(1) < .06
        a, b = rng.permutation(np.flatnonzero(near)), rng.permutation(np.flatnonzero(~near))
        want = TOKENS // TILE ** 2
        na = min(len(a), max(want * 2 // 3, want - len(b)))
        nb = want - na
        sel = tiles[np.concatenate([a[:na], b[:nb]])].ravel()
        p = np.concatenate([np.full(na, na / max(1, len(a))), np.full(nb, nb / max(1, len(b)))]).repeat(TILE * TILE)
        x0.append(field_tokens(s, g, width, height, sel))
        seen.append(field_tokens(s, g, width, height, sel, spoiler(rng, height, width)) if rng.random() < .4 else x0[-1])
        ids.append(np.stack([sel * 0, sel // w, sel % w], 1))
        weight.append(1 + 2 * np.exp(-(d[sel] / .04) ** 2))
        log_p.append(-np.log(p))
        tile_of.append(np.arange(want).repeat(TILE * TILE))
        gs.append(g), scenes.append(s), totals.append(h * w)
    t = lambda v: torch.from_numpy(np.stack(v)).float()
    tile_of, L = torch.from_numpy(np.stack(tile_of)), TEXT_TOKENS
    bias = torch.zeros(count, 1, L + TOKENS, L + TOKENS)
    bias[:, 0, :, L:] = t(log_p)[:, None]
    bias[:, 0, L:, L:] *= tile_of[:, :, None] != tile_of[:, None]
    return scenes, torch.tensor(gs), t(x0), t(seen), t(ids), t(weight), bias, totals


def noise_levels(totals, high):
    s = torch.sigmoid(torch.randn(len(totals)))
    s = torch.stack([torch.as_tensor(T.shift(a, T.mu(n))) for a, n in zip(s, totals)])
    top = 1 - .15 * torch.rand(len(totals)).square()
    return torch.where(torch.rand(len(totals)) < high, top, s).float()


def main(seconds, out, init):
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    seed = int(time.time())
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    params, text = fluxlite.load(os.path.join(init, "transformer")), Text(init)
    model = fluxlite.Lite(params, torch.float32)
    lr, count, high = float(os.environ.get("LR", ".02")), int(os.environ.get("BATCH", "40")), float(os.environ.get("HIGH", ".6"))
    hold = float(os.environ.get("HOLD", ".35"))
    opt = Muon(*T.split_matrices(params), lr=lr, adam_lr=lr * .12)
    opt_text = Muon(*T.split_text(text), lr=lr * .15, adam_lr=lr * .018)
    live = list(params.values()) + text.parameters()
    state = os.path.join(init, "state.pt")
    if os.path.exists(state):
        saved = torch.load(state, weights_only=False)
        for p, q in zip(live, saved["live"]):
            p.data.copy_(q)
        opt.load_state_dict(saved["opt"]), opt_text.load_state_dict(saved["opt_text"])
    average = [p.detach().clone() for p in live]
    T.SMALL = float(os.environ.get("SMALL", ".3"))

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

    t0 = saved_at = time.time()
    it, tops, rests = 0, [], []
    while time.time() - t0 < seconds:
        done = (time.time() - t0) / seconds
        train_text = done < .6
        scenes, g, x0, seen, ids, weight, bias, totals = batch(rng, 1., count)
        with torch.set_grad_enabled(train_text):
            pooled, tokens = text([caption(rng, s) for s in scenes])
        s = noise_levels(totals, high).clamp(min=.01)
        level = s[:, None, None]
        # little noise hides nothing: there the picture is what it is
        x = level * torch.randn_like(x0) + (1 - level) * torch.where(level > .3, seen, x0)
        t = (s + .002 * (2 * torch.rand(count) - 1)).clamp(0, 1)
        e = ((model(x, t, pooled, tokens, ids, g, bias) - (x - x0) / level).square() * CHANNEL_WEIGHT).mean(-1)
        loss = (e * weight).sum() / weight.sum()
        opt.zero_grad(), opt_text.zero_grad()
        loss.backward()
        f = min(1, (it + 1) / 30) * min(1, (1 - done) / (1 - hold) + .003)
        opt.step(f)
        if train_text:
            opt_text.step(f)
        it += 1
        d = min(.99, (1 + it) / (10 + it))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.data for p in live], 1 - d)
        top = s > .9
        tops += e.detach().mean(1)[top].tolist()
        rests += e.detach().mean(1)[~top].tolist()
        if it % 25 == 0:
            print(it, f"{time.time() - t0:.0f}s done={done:.3f} focused error: sigma>.9 {np.mean(tops[-1000:]):.4f} rest {np.mean(rests[-1000:]):.4f}", flush=True)
        if time.time() - saved_at > 90:
            save()
            saved_at = time.time()
    save()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
