"""Flow-matching training of dev on fields: every sample is fresh, at any size.

    python train_dev.py SECONDS OUT INIT

INIT is a diffusers folder; with FRESH=1 the layers that touch latents start anew. OUT receives state.pt (to resume:
INIT = OUT) and the moving average as transformer/, text_encoder/, text_encoder_2/ every 2 minutes.

What makes it draw cleanly: half of the noisy inputs show a picture whose outline is wrong (`spoil`), and the model is
asked for the right one all the same. So it learns to trust the prompt more than what an earlier step has drawn.

What makes it fast: a large picture is learned from a random sample of its tokens, whose keys get the logit
log(N / n), so that attention over the sample estimates attention over all tokens without bias.
"""
import math
import os
import sys
import time

import numpy as np
import torch

import fluxlite
from common import FULL, HALF, Text, mu, pack, shift, size
from fields import latents
from muon import Muon
from scenes import caption, scene

LR = float(os.environ.get("LR", ".02"))
HIGH = float(os.environ.get("HIGH", ".6"))   # share of samples at high noise, where the layout is decided
SAMPLE = int(os.environ.get("SAMPLE", "288"))
WHOLE = float(os.environ.get("WHOLE", ".1"))  # share of batches with every token
SMALL = float(os.environ.get("SMALL", ".4"))  # share of batches of small sizes
WARM = float(os.environ.get("WARM", "0"))     # until this fraction only 256 × 256
EMA = .998


def random_size(rng, done):
    if done < WARM:
        return 256, 256
    q = rng.random()
    if q < SMALL:
        if rng.random() < .3:
            return 256, 256
        return tuple(int(16 * rng.integers(12, 33)) for _ in "wh")
    names = HALF if q < SMALL + (1 - SMALL) * .45 else FULL
    return size(names[0] if rng.random() < .5 else names[rng.integers(len(names))])


def cost(tokens):
    return .05 * tokens * (1 + tokens / 2600)


def noise_levels(batch, tokens):
    s = shift(torch.sigmoid(torch.randn(batch)), mu(tokens))
    top = 1 - .2 * torch.rand(batch).square()
    return torch.where(torch.rand(batch) < HIGH, top, s)


def sample_bias(text, chosen, total):
    """[1, 1, 1, text + chosen] logits that make a sample of the image tokens stand for all of them."""
    b = torch.zeros(1, 1, 1, text + chosen)
    b[..., text:] = math.log(total / chosen)
    return b


def spoil(rng):
    """A style (see fields.latents) that shifts the outline by smooth noise, coarse or fine, of a random strength."""
    def style(d, fore, back):
        cells = [max(1, -(-n // int(rng.choice([1, 2, 4, 8])))) for n in d.shape]
        noise = torch.nn.functional.interpolate(torch.randn(1, 1, *cells), size=d.shape, mode="bilinear")[0, 0].numpy()
        return d + rng.uniform(0, .08) * noise, fore, back
    return style


def batch(rng, done, budget):
    width, height = random_size(rng, done)
    h, w = height // 16, width // 16
    whole = h * w <= SAMPLE or rng.random() < WHOLE
    n = h * w if whole else SAMPLE
    B = int(np.clip(round(budget / cost(n)), 1, 64))
    scenes = [scene(rng) for _ in range(B)]
    g = [float(rng.uniform(0, 3)) if rng.random() < .3 else float(rng.uniform(3, 10)) for _ in scenes]
    g = [3.5 if rng.random() < .3 else q for q in g]
    draw = lambda style: pack(torch.stack([latents(s, width, height, q, style) for s, q in zip(scenes, g)]))
    x0 = draw(None)
    seen = draw(spoil(rng)) if rng.random() < .5 else x0
    ids = fluxlite.image_ids(h, w)
    if not whole:
        keep = torch.from_numpy(rng.permutation(h * w)[:n])
        x0, seen, ids = x0[:, keep], seen[:, keep], ids[keep]
    return scenes, torch.tensor(g), x0, seen, ids, h * w


def step_loss(model, text, rng, done, budget, train_text):
    scenes, g, x0, seen, ids, total = batch(rng, done, budget)
    with torch.set_grad_enabled(train_text):
        pooled, tokens = text([caption(rng, s) for s in scenes])
    s = noise_levels(len(scenes), total).clamp(min=.01)
    level = s[:, None, None]
    # little noise hides nothing: there the picture is what it is
    x = level * torch.randn_like(x0) + (1 - level) * torch.where(level > .3, seen, x0)
    bias = None if len(ids) == total else sample_bias(tokens.shape[1], len(ids), total)
    velocity = (x - x0) / level
    e = (model(x, s, pooled, tokens, ids, g, bias) - velocity).square().mean((1, 2))
    top = s > .9
    return e.mean(), float(e[top].mean().detach()) if top.any() else math.nan


def split_matrices(params):
    m = [p for k, p in params.items() if p.ndim == 2 and "transformer_blocks" in k]
    ids = {id(p) for p in m}
    return m, [p for p in params.values() if id(p) not in ids]


def split_text(text):
    named = dict(list(text.clip.named_parameters()) + [("t5." + k, p) for k, p in text.t5.named_parameters()])
    m = [p for k, p in named.items() if p.ndim == 2 and "embed" not in k and "shared" not in k and "relative" not in k]
    ids = {id(p) for p in m}
    return m, [p for p in {id(p): p for p in text.parameters()}.values() if id(p) not in ids]


def main(seconds, out, init):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    seed = int(time.time())
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    params = fluxlite.load(os.path.join(init, "transformer"))
    if os.environ.get("FRESH"):
        with torch.no_grad():
            params["x_embedder.weight"].copy_(.1 * torch.randn_like(params["x_embedder.weight"]))
            params["proj_out.weight"].zero_()
            params["proj_out.bias"].zero_()
    text = Text(init)
    model = fluxlite.Lite(params, torch.float32)
    opt = Muon(*split_matrices(params), lr=LR, adam_lr=LR * .12)
    opt_text = Muon(*split_text(text), lr=LR * .15, adam_lr=LR * .018)
    live = list(params.values()) + text.parameters()
    average = [p.detach().clone() for p in live]
    state = os.path.join(init, "state.pt")
    if os.path.exists(state) and not os.environ.get("FRESH"):
        saved = torch.load(state, weights_only=False)
        for p, q in zip(live, saved["live"]):
            p.data.copy_(q)
        average = saved["average"]
        opt.load_state_dict(saved["opt"])
        opt_text.load_state_dict(saved["opt_text"])

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
    it, losses, tops = 0, [], []
    while time.time() - t0 < seconds:
        done = (time.time() - t0) / seconds
        train_text = done < .6
        opt.zero_grad()
        opt_text.zero_grad()
        loss, top = step_loss(model, text, rng, done, 700., train_text)
        loss.backward()
        f = min(1, (it + 1) / 40) * min(1, (1 - done) / .6 + .003)
        opt.step(f)
        if train_text:
            opt_text.step(f)
        it += 1
        d = min(EMA, (1 + it) / (10 + it))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.data for p in live], 1 - d)
        losses.append(float(loss.detach()))
        tops.append(top)
        if it % 10 == 0 and os.path.exists(os.path.join(out, "threads")):   # how many threads from now on
            torch.set_num_threads(int(open(os.path.join(out, "threads")).read()))
        if it % 25 == 0:
            print(it, f"{time.time() - t0:.0f}s done={done:.3f} loss={np.mean(losses[-100:]):.4f} sigma>.9: {np.nanmean(tops[-100:]):.4f}", flush=True)
        if time.time() - saved_at > 120:
            save()
            saved_at = time.time()
    save()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
