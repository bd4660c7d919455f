"""Write the decoder (decoder.py) and train the encoder of the AutoencoderKL whose latents are the fields of fields.py.

    python train_vae.py SECONDS OUT        # SECONDS 0: the decoder only; if OUT exists, training goes on from it

The encoder learns to find the fields in a picture of the grammar (error of the distances weighs less where they saturate). In a
tenth of the pictures, clutter outside the grammar, both colours are to be the local one, so that the decoder shows a coarse copy.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import decoder
from fields import DISTANCE_CHANNELS, latents
from muon import Muon
from scenes import render, scene


def build():
    vae = AutoencoderKL(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                        block_out_channels=(16, 16, 32, 32), layers_per_block=1, latent_channels=16, norm_num_groups=2, sample_size=1024,
                        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1., shift_factor=0.)
    decoder.write(vae.decoder)
    with torch.no_grad():
        vae.encoder.conv_out.weight[16:] = 0
        vae.encoder.conv_out.bias[16:] = -8   # log-variance: latents are hardly noisy
    return vae


def batch(rng, side, count):
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
            s, g = scene(rng), rng.uniform(0, 3) if rng.random() < .2 else 5
            p = torch.from_numpy(render(s, side, side, g)).permute(2, 0, 1)
            t = latents(s, side, side, g)
            m = torch.ones_like(t)
            for ch in DISTANCE_CHANNELS:
                m[ch] = .3 + (t[ch].abs() < .97)
        x.append(p), z.append(t), w.append(m)
    return torch.stack(x), torch.stack(z), torch.stack(w)


def main(seconds, out):
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    rng, vae = np.random.default_rng(int(time.time())), build()
    if os.path.exists(os.path.join(out, "config.json")):
        vae.encoder.load_state_dict(AutoencoderKL.from_pretrained(out, torch_dtype=torch.float32).encoder.state_dict())
    vae.save_pretrained(out)
    vae = vae.to(memory_format=torch.channels_last)
    named = [(n, p) for n, p in vae.encoder.named_parameters()]
    m = [p for n, p in named if p.ndim == 4 and "conv_out" not in n and "conv_in" not in n]
    flat = {id(p) for p in m}
    opt = Muon(m, [p for _, p in named if id(p) not in flat], lr=.015, adam_lr=2e-3)
    t0, it, log = time.time(), 0, []
    saved = t0
    while time.time() - t0 < seconds:
        done = (time.time() - t0) / seconds
        x, z, w = batch(rng, *[(128, 12), (256, 4), (256, 4), (512, 1)][rng.integers(1 if done < .2 else 4) if done < .2 else rng.integers(1, 4)])
        mean = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        loss = ((mean - z).square() * w).sum() / w.sum()
        opt.zero_grad()
        loss.backward()
        for p in (vae.encoder.conv_out.weight, vae.encoder.conv_out.bias):
            p.grad[16:] = 0
        opt.step(min(1, (it + 1) / 30) * min(1, (1 - done) / .6 + .003))
        it += 1
        log.append(loss.item())
        if it % 50 == 0:
            print(it, f"{time.time() - t0:.0f}s error {np.mean(log[-50:]):.4f}", flush=True)
        if time.time() - saved > 60:
            vae.save_pretrained(out)
            saved = time.time()
    vae.save_pretrained(out)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
