"""Training samples: scenes as a sample of their tokens, with what the sampler might have drawn so far.

Two ideas make so small a model draw cleanly after so little training.

- Tokens. Of a picture of any size, TOKENS tokens are taken in 2 × 2 tiles, two thirds of them from the band around the
  outline. Keys get the logit -log(inclusion probability), so that attention over the sample estimates attention over
  all tokens; thousands of pictures of up to 1536 × 640 cost as much as as many small ones.
- Spoiling. Many of the noisy inputs show a picture that is wrong: its outline is disturbed, or it shows another shape,
  size or place; under little noise, its outline is ragged. The right one is asked for all the same. So the model learns
  to trust the prompt more than what an earlier step has drawn.
"""
import os

import numpy as np
import torch
import torch.nn.functional as F

from common import FULL, HALF, TEXT_TOKENS, mu, shift, size
from fields import DISTANCE_CHANNELS, MORE_WIDTHS, WIDTHS, colors
from scenes import SHAPES, choose, scene, sdf

TOKENS, TILE = int(os.environ.get("TOKENS", "144")), 2
SMALL = float(os.environ.get("SMALL", ".3"))   # share of pictures of small sizes
_channel = np.full(16, .7, np.float32)
for _c, _w in zip(DISTANCE_CHANNELS, WIDTHS + MORE_WIDTHS):
    _channel[_c] = 1.2 if _w < .1 else 1.
CHANNEL_WEIGHT = torch.from_numpy(_channel.repeat(4))


def random_size(rng):
    """A width and height in multiples of 32: small ones, and those of the product at both its resolutions."""
    q = rng.random()
    if q < SMALL:
        width, height = (256, 256) if rng.random() < .3 else (int(16 * rng.integers(12, 33)) for _ in "wh")
    else:
        names = HALF if q < SMALL + (1 - SMALL) * .45 else FULL
        width, height = size(names[0] if rng.random() < .5 else names[rng.integers(len(names))])
    return width // 32 * 32, height // 32 * 32


def random_guidance(rng):
    return 3.5 if rng.random() < .3 else float(rng.uniform(0, 3)) if rng.random() < .3 else float(rng.uniform(3, 10))


def disturbance(rng, height, width, most=.08, steps=(1, 2, 4, 8)):
    """Smooth noise, coarse or fine, of a random strength: an error of the outline [height/8, width/8], in short sides."""
    shape = (height // 8, width // 8)
    step = int(rng.choice(steps))
    cells = torch.randn(1, 1, -(-shape[0] // step), -(-shape[1] // step))
    return rng.uniform(0, most) * F.interpolate(cells, size=shape, mode="bilinear")[0, 0].numpy()


def field_tokens(s, guidance, width, height, chosen, error=None, style=None):
    """The packed field tokens `chosen` [n] of a scene -> [n, 64]. `error` is added to the distance; `style` as in fields.py."""
    w, short = width // 16, min(width, height)
    r, c = chosen // w, chosen % w
    y = (r[:, None] * 16 + np.array([4, 4, 12, 12])).astype(np.float32)
    x = (c[:, None] * 16 + np.array([4, 12, 4, 12])).astype(np.float32)
    radius = s["r"] * short * (1 + s["dr"])
    d = sdf(s["shape"], (x - (s["x"] + s["dx"]) * width) / radius, (y - (s["y"] + s["dy"]) * height) / radius) * radius / short
    if error is not None:
        d = d + error[(y // 8).astype(int), (x // 8).astype(int)]
    fore, back = colors(s, guidance)
    if style:
        d, fore, back = style(d, fore, back)
    z = np.empty((len(chosen), 16, 4), np.float32)
    for channel, wide in zip(DISTANCE_CHANNELS, WIDTHS + MORE_WIDTHS):
        z[:, channel] = np.tanh(-d / wide)
    z[:, 4:7], z[:, 7:10] = fore[None, :, None], back[None, :, None]
    return z.reshape(len(chosen), 64)


def nominal(s, width, height):
    """Distance of every token's centre from the outline the prompt asks for, in short sides [h*w]."""
    short = min(width, height)
    y, x = np.mgrid[8:height:16, 8:width:16].astype(np.float32)
    r = s["r"] * short
    return (sdf(s["shape"], (x - s["x"] * width) / r, (y - s["y"] * height) / r) * r / short).ravel()


def choose_tokens(rng, distance, h, w):
    """-> chosen tokens [TOKENS], their inclusion probabilities"""
    tiles = np.arange(h * w).reshape(h // TILE, TILE, w // TILE, TILE).swapaxes(1, 2).reshape(-1, TILE * TILE)
    near = distance[tiles].min(1) < .06
    a, b = rng.permutation(np.flatnonzero(near)), rng.permutation(np.flatnonzero(~near))
    want = TOKENS // TILE ** 2
    na = min(len(a), max(want * 2 // 3, want - len(b)))
    nb = want - na
    p = np.concatenate([np.full(na, na / max(1, len(a))), np.full(nb, nb / max(1, len(b)))]).repeat(TILE * TILE)
    return tiles[np.concatenate([a[:na], b[:nb]])].ravel(), p


def batch(rng, count, guidance=None, style=None):
    """-> scenes, guidance [B], (x0, what inputs under much and under little noise show) [B, TOKENS, 64] each, RoPE ids,
    loss weights, attention bias, sizes in tokens. `guidance` and `style` (see fields.py) are the same for all."""
    x0, seen, rough, ids, weight, log_p, gs, scenes, totals = [], [], [], [], [], [], [], [], []
    for _ in range(count):
        width, height = random_size(rng)
        h, w, s = height // 16, width // 16, scene(rng)
        g = guidance or random_guidance(rng)
        d = nominal(s, width, height)
        chosen, p = choose_tokens(rng, d, h, w)
        draw = lambda shown, error=None: field_tokens(shown, g, width, height, chosen, error, style)
        x0.append(draw(s))
        q = rng.random()
        if q < .35:
            seen.append(draw(s, disturbance(rng, height, width)))
        elif q < .50:
            seen.append(draw(dict(scene(rng), color=s["color"], background=s["background"])))
        elif q < .65:
            seen.append(draw(dict(s, shape=choose(rng, list(SHAPES)))))
        else:
            seen.append(x0[-1])
        rough.append(draw(s, disturbance(rng, height, width, .04, (1, 2))) if rng.random() < .6 else x0[-1])
        ids.append(np.stack([chosen * 0, chosen // w, chosen % w], 1))
        weight.append(1 + 2 * np.exp(-(d[chosen] / .04) ** 2))
        log_p.append(-np.log(p))
        gs.append(g), scenes.append(s), totals.append(h * w)
    t = lambda v: torch.from_numpy(np.stack(v)).float()
    tile, n = torch.arange(TOKENS) // TILE ** 2, TEXT_TOKENS + TOKENS
    bias = torch.zeros(count, 1, n, n)
    bias[:, 0, :, TEXT_TOKENS:] = t(log_p)[:, None]
    bias[:, 0, TEXT_TOKENS:, TEXT_TOKENS:] *= tile[:, None] != tile[None]   # a token always sees its own tile
    return scenes, torch.tensor(gs), (t(x0), t(seen), t(rough)), t(ids), t(weight), bias, totals


def noise_levels(totals, high, spread=.04):
    """Logit-normal levels with Flux's shift for the picture's size; a share `high` of them where the layout is decided."""
    s = torch.sigmoid(torch.randn(len(totals)))
    s = torch.stack([torch.as_tensor(shift(a, mu(n))) for a, n in zip(s, totals)])
    top = 1 - spread * torch.rand(len(totals)).square()
    return torch.where(torch.rand(len(totals)) < high, top, s).float()


def errors(model, pooled, tokens, pictures, ids, bias, s, guidance=None):
    """Squared error [B, TOKENS] of the velocity towards x0 at the noise levels s [B], and how much each level counts [B, 1]."""
    x0, seen, rough = pictures
    level = s[:, None, None]
    shown = torch.where(level > .3, seen, torch.where(level > .04, rough, x0))
    x = level * torch.randn_like(x0) + (1 - level) * shown
    t = (s + .002 * (2 * torch.rand(len(s)) - 1)).clamp(0, 1)   # pipelines round the time step to bfloat16
    e = ((model(x, t, pooled, tokens, ids, guidance, bias) - (x - x0) / level).square() * CHANNEL_WEIGHT).mean(-1)
    return e, (s / .3).square().clamp(.05, 1)[:, None]   # late, errors of the picture count, not of the velocity


def split_matrices(params):
    """Transformer parameters for Muon, and the rest."""
    m = [p for k, p in params.items() if p.ndim == 2 and "transformer_blocks" in k]
    ids = {id(p) for p in m}
    return m, [p for p in params.values() if id(p) not in ids]


def split_text(text):
    named = dict(list(text.clip.named_parameters()) + [("t5." + k, p) for k, p in text.t5.named_parameters()])
    m = [p for k, p in named.items() if p.ndim == 2 and "embed" not in k and "shared" not in k and "relative" not in k]
    ids = {id(p) for p in m}
    return m, [p for p in {id(p): p for p in text.parameters()}.values() if id(p) not in ids]
