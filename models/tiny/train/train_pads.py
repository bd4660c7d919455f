"""Give the padding tokens of the T5 encoder prompt-independent, distinct outputs.

    python train_pads.py SECONDS IN OUT

Flux has no absolute positions: an image token learns where it is from its rotary attention to the text tokens, which all sit at
the origin. Padding tokens of a plain T5 are all alike; here the n-th padding token after </s> is trained to a fixed random
vector for n (as far as the relative position buckets tell n apart), while all other tokens keep their outputs (distillation).
The image tokens thus find the same basis of position features for every prompt.
"""
import copy
import os
import shutil
import sys
import time

import numpy as np
import torch

from common import TEXT_TOKENS, Text
from muon import Muon
from scenes import caption, scene


def classes(ids):
    """Per token: 0 for words, else 1..7, 8 (8-11), 9 (12-15), 10 (16-22), 11 (23+) tokens after </s>."""
    n = torch.arange(ids.shape[1])[None] - ((ids != 0).sum(1, keepdim=True) - 1)
    c = n.clamp(0, 8)
    for first, k in ((12, 9), (16, 10), (23, 11)):
        c = torch.where(n >= first, k, c)
    return c


def main(seconds, source, out):
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    rng, text = np.random.default_rng(11), Text(source)
    t5, teacher = text.t5, copy.deepcopy(text.t5).eval()
    signature = torch.nn.functional.normalize(torch.linalg.qr(torch.randn(96, 12))[0].T, dim=1) * 96 ** .5 * .8
    signature[0] = 0
    # the bias must be able to tell neighbours apart from the start
    bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    with torch.no_grad():
        bias += torch.randn_like(bias) * .5
    named = dict(t5.named_parameters())
    m = [p for k, p in named.items() if p.ndim == 2 and "shared" not in k and "relative" not in k]
    ids_ = {id(p) for p in m}
    opt = Muon(m, [p for p in {id(p): p for p in named.values()}.values() if id(p) not in ids_], lr=.02, adam_lr=6e-3)
    t0, it = time.time(), 0
    while time.time() - t0 < seconds:
        texts = [caption(rng, scene(rng)) for _ in range(96)]
        ids = text.tok2(texts, padding="max_length", truncation=True, max_length=TEXT_TOKENS, return_tensors="pt").input_ids
        c = classes(ids)
        with torch.no_grad():
            target = torch.where((c == 0)[..., None], teacher(ids).last_hidden_state, signature[c])
        got = t5(ids).last_hidden_state
        e = (got - target).square().mean(-1)
        words, pads = e[c == 0].mean(), e[(c > 0) & (c < 10)].mean()
        loss = words + pads + .2 * e[c >= 10].mean()
        opt.zero_grad()
        loss.backward()
        opt.step(min(1, (it + 1) / 20) * min(1, (1 - (time.time() - t0) / seconds) * 1.6 + .003))
        it += 1
        if it % 50 == 0:
            print(it, f"{time.time() - t0:.0f}s words {words.item():.4f} pads {pads.item():.4f} power {target.square().mean().item():.3f}", flush=True)
    for name in ("transformer", "text_encoder"):
        shutil.copytree(os.path.join(source, name), os.path.join(out, name), dirs_exist_ok=True)
    t5.save_pretrained(os.path.join(out, "text_encoder_2"))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
