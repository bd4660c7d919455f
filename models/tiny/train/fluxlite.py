"""A lean Flux.1 transformer for training on a CPU.

It computes exactly what diffusers' FluxTransformer2DModel computes and keeps its tensor names, but the
whole forward pass runs in one dtype (bfloat16 on CPUs that have it) with fused q/k/v projections and with
RoPE in the half-split layout (rows of the q and k projections are permuted on the fly, which leaves every
dot product unchanged). `tests` at the bottom compares it with diffusers when run as a program:

    python fluxlite.py TRANSFORMER_DIR          # prints the largest difference and both speeds
"""
import json
import math
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

HEADS, HEAD_DIM, HIDDEN, AXES = 3, 32, 96, (4, 14, 14)
# interleaved pairs (0,1),(2,3),… -> first halves, then second halves, per head
_SPLIT = torch.cat([torch.arange(0, HEAD_DIM, 2), torch.arange(1, HEAD_DIM, 2)])
_ROWS = torch.cat([h * HEAD_DIM + _SPLIT for h in range(HEADS)])


def load(folder):
    """-> dict of float32 parameters (leaves that require grad) by their diffusers names."""
    sd = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    return {k: v.float().clone().requires_grad_(True) for k, v in sd.items()}


def save(params, folder, dtype=torch.float32, guidance=True):
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.detach().to(dtype).contiguous() for k, v in params.items()},
              os.path.join(folder, "diffusion_pytorch_model.safetensors"), metadata={"format": "pt"})
    singles = 1 + max(int(k.split(".")[1]) for k in params if k.startswith("single_"))
    config = {"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0", "attention_head_dim": HEAD_DIM,
              "axes_dims_rope": list(AXES), "guidance_embeds": guidance, "in_channels": 64,
              "joint_attention_dim": HIDDEN, "num_attention_heads": HEADS, "num_layers": 1,
              "num_single_layers": singles, "out_channels": None, "patch_size": 1, "pooled_projection_dim": HIDDEN}
    with open(os.path.join(folder, "config.json"), "w") as f:
        f.write(json.dumps(config, indent=2) + "\n")


def image_ids(h, w):
    """Row-major RoPE positions (0, row, column) of an h × w token grid."""
    r = torch.zeros(h, w, 3)
    r[..., 1] = torch.arange(h)[:, None]
    r[..., 2] = torch.arange(w)[None]
    return r.reshape(-1, 3)


def rope(ids, text):
    """cos, sin [1 or B, 1, text + tokens, 16] for text tokens at the origin followed by image tokens."""
    pos = ids if ids.ndim == 3 else ids[None]
    pos = torch.cat([torch.zeros(len(pos), text, 3), pos], 1).double()
    angles = torch.cat([pos[..., a:a + 1] / 10000 ** (torch.arange(0, d, 2).double() / d) for a, d in enumerate(AXES)], -1)
    return angles.cos().float()[:, None], angles.sin().float()[:, None]


def sinusoid(x):
    f = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    a = 1000 * x[:, None].float() * f
    return torch.cat([a.cos(), a.sin()], 1)


class Lite:
    """Forward pass over a dict of parameters. `lora` maps a module name to (A, B, scale)."""

    def __init__(self, params, dtype=torch.bfloat16):
        self.P, self.dtype, self.lora = params, dtype, None
        self.singles = 1 + max(int(k.split(".")[1]) for k in params if k.startswith("single_"))

    def weight(self, name):
        w = self.P[name + ".weight"]
        if self.lora and name in self.lora:
            a, b, s = self.lora[name]
            w = w + s * (b @ a)
        return w

    def lin(self, x, *names, rows=None):
        ws = [self.weight(n) for n in names]
        bs = [self.P[n + ".bias"] for n in names]
        if rows:   # permute q and k for the half-split RoPE
            ws = [w[_ROWS] if p else w for w, p in zip(ws, rows)]
            bs = [b[_ROWS] if p else b for b, p in zip(bs, rows)]
        w, b = (ws[0], bs[0]) if len(ws) == 1 else (torch.cat(ws), torch.cat(bs))
        return F.linear(x, w.to(x.dtype), b.to(x.dtype))

    def heads(self, qkv, norm_q, norm_k):
        b, n, _ = qkv.shape
        q, k, v = qkv.view(b, n, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q = F.rms_norm(q, (HEAD_DIM,), self.P[norm_q + ".weight"][_SPLIT].to(q.dtype), 1e-6)
        k = F.rms_norm(k, (HEAD_DIM,), self.P[norm_k + ".weight"][_SPLIT].to(q.dtype), 1e-6)
        return q, k, v

    @staticmethod
    def rotate(x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def attend(self, q, k, v, cs, bias):
        q, k = self.rotate(q, *cs), self.rotate(k, *cs)
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)

    @staticmethod
    def modulate(x, shift, scale):
        return torch.addcmul(shift, F.layer_norm(x, (HIDDEN,), eps=1e-6), 1 + scale)

    def __call__(self, x, t, pooled, text, ids, guidance=None, bias=None):
        """x [B,N,64], t [B] in 0..1, pooled [B,96], text [B,L,96], ids [N,3] or [B,N,3], guidance [B] or None -> velocity.

        `bias` [B,1,L+N,L+N] is added to the attention logits (for training on a sample of the tokens)."""
        dt, L = self.dtype, text.shape[1]
        cs = tuple(c.to(dt) for c in rope(ids, L))
        mlp = lambda name, y: self.lin(F.silu(self.lin(y, name + ".linear_1")), name + ".linear_2")
        e = "time_text_embed."
        vec = mlp(e + "timestep_embedder", sinusoid(t)) + mlp(e + "text_embedder", pooled.float())
        if guidance is not None:
            vec = vec + mlp(e + "guidance_embedder", sinusoid(guidance))
        vec = F.silu(vec)
        mod = lambda name, n: [m.to(dt) for m in self.lin(vec, name)[:, None].chunk(n, -1)]
        img, txt = self.lin(x.to(dt), "x_embedder"), self.lin(text.to(dt), "context_embedder")

        p = "transformer_blocks.0."
        a1, s1, g1, a2, s2, g2 = mod(p + "norm1.linear", 6)
        c1, d1, h1, c2, d2, h2 = mod(p + "norm1_context.linear", 6)
        a = p + "attn."
        iq, ik, iv = self.heads(self.lin(self.modulate(img, a1, s1), a + "to_q", a + "to_k", a + "to_v", rows=(1, 1, 0)), a + "norm_q", a + "norm_k")
        tq, tk, tv = self.heads(self.lin(self.modulate(txt, c1, d1), a + "add_q_proj", a + "add_k_proj", a + "add_v_proj", rows=(1, 1, 0)), a + "norm_added_q", a + "norm_added_k")
        o = self.attend(torch.cat([tq, iq], 2), torch.cat([tk, ik], 2), torch.cat([tv, iv], 2), cs, bias)
        img = torch.addcmul(img, g1, self.lin(o[:, L:], a + "to_out.0"))
        txt = torch.addcmul(txt, h1, self.lin(o[:, :L], a + "to_add_out"))
        ff = lambda y, n: self.lin(F.gelu(self.lin(y, p + n + ".net.0.proj"), approximate="tanh"), p + n + ".net.2")
        img = torch.addcmul(img, g2, ff(self.modulate(img, a2, s2), "ff"))
        txt = torch.addcmul(txt, h2, ff(self.modulate(txt, c2, d2), "ff_context"))

        y = torch.cat([txt, img], 1)
        for i in range(self.singles):
            p = f"single_transformer_blocks.{i}."
            a1, s1, g1 = mod(p + "norm.linear", 3)
            z = self.modulate(y, a1, s1)
            z = self.lin(z, p + "attn.to_q", p + "attn.to_k", p + "attn.to_v", p + "proj_mlp", rows=(1, 1, 0, 0))
            q, k, v = self.heads(z[..., :3 * HIDDEN], p + "attn.norm_q", p + "attn.norm_k")
            o = self.attend(q, k, v, cs, bias)
            y = torch.addcmul(y, g1, self.lin(torch.cat([o, F.gelu(z[..., 3 * HIDDEN:], approximate="tanh")], -1), p + "proj_out"))
        scale, shift = mod("norm_out.linear", 2)
        return self.lin(self.modulate(y[:, L:], shift, scale), "proj_out").float()


if __name__ == "__main__":
    import sys
    import time
    from diffusers import FluxTransformer2DModel
    torch.manual_seed(0)
    ref, params = FluxTransformer2DModel.from_pretrained(sys.argv[1]), load(sys.argv[1])
    for h, w, B in ((12, 20, 2), (32, 32, 6), (64, 64, 1)):
        x, t, g = torch.randn(B, h * w, 64), torch.rand(B), torch.full((B,), 3.5)
        y, e = torch.randn(B, 96), torch.randn(B, 32, 96)
        def r(): return ref(hidden_states=x, timestep=t, guidance=g, pooled_projections=y, encoder_hidden_states=e, txt_ids=torch.zeros(32, 3), img_ids=image_ids(h, w), return_dict=False)[0]
        with torch.no_grad():
            a = r()
            print(h, w, "float32 difference", float((a - Lite(params, torch.float32)(x, t, y, e, image_ids(h, w), g)).abs().max()),
                  "bf16", float((a - Lite(params)(x, t, y, e, image_ids(h, w), g)).abs().max()))
        def timed(name, f):
            f().square().mean().backward(); t0 = time.time()
            for _ in range(2): f().square().mean().backward()
            print(f"  {name} {(time.time() - t0) / 2:.3f} s forward+backward, batch {B}", flush=True)
        timed("lite bf16", lambda: Lite(params)(x, t, y, e, image_ids(h, w), g))
        timed("lite f32", lambda: Lite(params, torch.float32)(x, t, y, e, image_ids(h, w), g))
        def auto():
            with torch.autocast("cpu", torch.bfloat16): return r().float()
        timed("diffusers autocast", auto)
