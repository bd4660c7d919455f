"""Train the AutoencoderKL whose latents are the fields of fields.py.

    python train_vae.py decoder SECONDS OUT     # from the formula (decoder.py), or from what OUT has with FROM=OUT
    python train_vae.py encoder SECONDS OUT     # goes on from what OUT has

The decoder starts as the formula and is then fine-tuned by gradient descent: fields with noise and with errors that are
constant over a token, as a sampler leaves them, against the clean picture. It is only replaced where that made it better,
measured in the stored precision (bfloat16).

The encoder learns to find the fields in a picture of the grammar (distances weigh less where they saturate, a colour less
where it cannot be seen), and that the fields it finds mean the picture it was given. In a tenth of the pictures, clutter
outside the grammar, both colours are to be the local one, so that the decoder shows a coarse copy.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import decoder
from fields import DISTANCE_CHANNELS, distance_field, latents
from muon import Muon
from scenes import SHAPES, render, scene

torch.set_num_threads(int(os.environ.get("THREADS", "1")))


def build():
    vae = AutoencoderKL(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                        block_out_channels=(16, 16, 32, 32), layers_per_block=1, latent_channels=16, norm_num_groups=2, sample_size=1024,
                        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1., shift_factor=0.)
    decoder.write(vae.decoder)
    with torch.no_grad():
        vae.encoder.conv_out.weight[16:] = 0
        vae.encoder.conv_out.bias[16:] = -8   # log-variance: latents are hardly noisy
    return vae


def picture(s, width, height, guidance):
    return torch.from_numpy(render(s, width, height, guidance)).permute(2, 0, 1)


def contrast_setting(rng):
    return float(rng.uniform(0, 3)) if rng.random() < .2 else 5.


@torch.no_grad()
def measure(vae, what):
    """Mean PSNR (dB of the range -1..1) in bfloat16 weights: of the decoder at three noise levels, or of the round trip."""
    rng, g = np.random.default_rng(3), torch.Generator().manual_seed(3)
    kept = {k: v.clone() for k, v in vae.state_dict().items()}
    vae.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in kept.items()})
    out = {}
    for width, height in ((256, 256), (512, 512)) + (((672, 384),) if what == "encoder" else ()):
        scenes = [dict(scene(rng), shape=shape) for shape in SHAPES]
        for noise in (0, .03, .06) if what == "decoder" else (None,):
            e = []
            for s in scenes:
                x = picture(s, width, height, 5)[None]
                z = vae.encode(x).latent_dist.mean if noise is None else latents(s, width, height, 5)[None]
                y = vae.decode(z + (noise or 0) * torch.randn(z.shape, generator=g)).sample
                e.append(-10 * np.log10(float((y - x).square().mean()) / 4))
            out[f"{width}x{height}" + ("" if noise is None else f" noise {noise}")] = round(float(np.mean(e)), 1)
            if noise is None:
                out[f"{width}x{height} worst"] = round(float(min(e)), 1)
    vae.load_state_dict(kept)
    return out


def decoder_batch(rng, side, count):
    x, z = [], []
    for _ in range(count):
        s, g = scene(rng), contrast_setting(rng)
        x.append(picture(s, side, side, g))
        f = latents(s, side, side, g)
        cells = torch.randn(16, side // 16, side // 16).repeat_interleave(2, 1).repeat_interleave(2, 2)
        z.append(f + rng.uniform(0, .06) * torch.randn_like(f) + rng.uniform(0, .06) * cells)
    return torch.stack(x), torch.stack(z)


def train_decoder(vae, seconds, rng):
    """Adam on the convolutions. The constants that hold the group norms still (see decoder.py) are not trained."""
    best, score = {k: v.clone() for k, v in vae.decoder.state_dict().items()}, measure(vae, "decoder")
    print("formula", score, flush=True)
    rate = {"conv_in.weight": 4e-4, "conv_in.bias": 4e-4}
    for n, p in vae.decoder.named_parameters():
        if "upsamplers" in n and n.endswith("weight") and "up_blocks.2" not in n:
            rate[n] = 1e-4
    params = {n: p for n, p in vae.decoder.named_parameters() if n in rate}
    for p in vae.parameters():
        p.requires_grad_(False)
    groups = [dict(params=[p.requires_grad_(True)], lr=rate[n], base=rate[n]) for n, p in params.items()]
    opt = torch.optim.Adam(groups, betas=(.9, .98))
    t0, it, log, checked = time.time(), 0, [], 0
    while (done := (time.time() - t0) / seconds) < 1:
        x, z = decoder_batch(rng, *[(128, 8), (256, 3), (384, 1)][rng.integers(3)])
        y = vae.decode(z.contiguous(memory_format=torch.channels_last)).sample
        loss = (y - x).square().mean() + .05 * (y - x).abs().mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(params.values()), .05)
        for g in opt.param_groups:
            g["lr"] = g["base"] * min(1, (it + 1) / 20) * min(1, (1 - done) / .6 + .01)
        opt.step()
        it += 1
        log.append(loss.item())
        if it % 25 == 0:
            print(it, f"{time.time() - t0:.0f}s loss {np.mean(log[-25:]):.5f}", flush=True)
        if done > .4 + .2 * checked:
            checked += 1
            new = measure(vae, "decoder")
            print("trained", new, flush=True)
            if sum(new.values()) > sum(score.values()):
                best, score = {k: v.clone() for k, v in vae.decoder.state_dict().items()}, new
    new = measure(vae, "decoder")
    print("trained", new, flush=True)
    if sum(new.values()) < sum(score.values()):
        vae.decoder.load_state_dict(best)


def encoder_batch(rng, side, count):
    """-> pictures, fields, weights"""
    x, z, w = [], [], []
    for _ in range(count):
        if rng.random() < .1:
            k = int(rng.integers(2, 10))
            p = F.interpolate(torch.from_numpy(rng.uniform(-1, 1, (1, 3, k, k)).astype(np.float32)), size=(side, side), mode="bicubic")[0].clamp(-1, 1)
            c, t, m = F.avg_pool2d(p, 8), torch.zeros(16, side // 8, side // 8), torch.zeros(16, 1, 1)
            t[4:7], t[7:10], m[4:10] = c, c, .5
            m = m.expand_as(t)
        else:
            s, g = scene(rng), contrast_setting(rng)
            p, t = picture(s, side, side, g), latents(s, side, side, g)
            d = torch.from_numpy(distance_field(s, side, side))
            m = torch.ones_like(t)
            for ch in DISTANCE_CHANNELS:
                m[ch] = .3 + (t[ch].abs() < .97)
            m[4:7], m[7:10] = .2 + (d < .08).float(), .2 + (d > -.08).float()
        x.append(p), z.append(t), w.append(m)
    return torch.stack(x), torch.stack(z), torch.stack(w)


def meaning(z):
    """The picture that fields mean, at half its size: what the decoder draws, with a softer edge."""
    up = lambda v: F.interpolate(v, scale_factor=4, mode="bilinear")
    inside = torch.sigmoid(12 * up(z[:, list(DISTANCE_CHANNELS)].mean(1, True)))
    return up(z[:, 4:7]) * inside + up(z[:, 7:10]) * (1 - inside)


def train_encoder(vae, seconds, rng, save):
    for p in vae.decoder.parameters():
        p.requires_grad_(False)
    named = list(vae.encoder.named_parameters())
    m = [p for n, p in named if p.ndim == 4 and "conv_out" not in n and "conv_in" not in n]
    flat = {id(p) for p in m}
    lr = float(os.environ.get("LR", ".015"))
    opt = Muon(m, [p for _, p in named if id(p) not in flat], lr=lr, adam_lr=lr * .13)
    t0, it, log = time.time(), 0, []
    saved = t0
    while (done := (time.time() - t0) / seconds) < 1:
        x, z, w = encoder_batch(rng, *[(128, 12), (256, 4), (256, 4), (512, 1)][rng.integers(4)])
        mean = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        field = ((mean - z).square() * w).sum() / w.sum()
        pixel = (meaning(mean) - F.avg_pool2d(x, 2)).square().mean()
        opt.zero_grad()
        (field + 2 * pixel).backward()
        for p in (vae.encoder.conv_out.weight, vae.encoder.conv_out.bias):
            p.grad[16:] = 0
        opt.step(min(1, (it + 1) / 30) * min(1, (1 - done) / .7 + .003))
        it += 1
        log.append((field.item(), pixel.item()))
        if it % 50 == 0:
            print(it, f"{time.time() - t0:.0f}s fields %.4f picture %.4f" % tuple(np.mean(log[-100:], 0)), flush=True)
        if time.time() - saved > 60:
            save()
            saved = time.time()


def main(part, seconds, out):
    torch.manual_seed(0)
    rng, vae = np.random.default_rng(int(time.time())), build()
    if os.path.exists(os.path.join(out, "config.json")):
        old = AutoencoderKL.from_pretrained(out, torch_dtype=torch.float32)
        vae.encoder.load_state_dict(old.encoder.state_dict())
        if part == "encoder" or os.environ.get("FROM"):
            vae.decoder.load_state_dict(old.decoder.state_dict())
    vae = vae.to(memory_format=torch.channels_last)
    save = lambda: vae.save_pretrained(out)
    train_decoder(vae, seconds, rng) if part == "decoder" else train_encoder(vae, seconds, rng, save)
    save()
    print(part, measure(vae, part))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
