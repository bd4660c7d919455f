"""Flux.1's transformer in PyTorch: the peer that speed is compared with, and a reference at full size.

    torch_peer.py OUT.json                              time dev (28 steps) and schnell (4) at 1024x1024, eager and compiled
    torch_peer.py --reference CHECKPOINT OUT.safetensors   one step of a BFL file: its inputs and the velocity
    torch_peer.py --check FIXTURES                      compare with the golden values of test/fixtures, on the CPU

Random weights, batch 1, bf16, one card; nothing is downloaded. A picture is its denoising steps; text encoders and decoder
are not run. Modules are named as in BFL's file. Needs PyTorch alone (`--reference` and `--check` also safetensors).
"""

import argparse
import datetime
import json
import math
import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    guidance: bool
    hidden: int = 3072
    heads: int = 24
    double_blocks: int = 19
    single_blocks: int = 38
    axes: tuple = (16, 56, 56)
    channels: int = 64
    txt_dim: int = 4096
    vec_dim: int = 768


VARIANTS = {
    "dev": {"config": Config(guidance=True), "steps": 28, "txt_tokens": 512},
    "schnell": {"config": Config(guidance=False), "steps": 4, "txt_tokens": 256},
}


def sinusoid(t):
    """Embeds t [B] of 0..1 (and guidance) as [B, 256]: cosines first."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=t.device, dtype=torch.float32) / 128)
    angles = 1000 * t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def rope_tables(txt_tokens, rows, cols, axes, device):
    """cos and sin [tokens, head_dim / 2] in float32 from angles in float64; text tokens have position 0."""
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    image = torch.stack([torch.zeros_like(row), row, col], -1).reshape(-1, 3)
    positions = torch.cat([torch.zeros(txt_tokens, 3, dtype=image.dtype), image]).double()
    angles = torch.cat(
        [positions[:, [a]] * 10000.0 ** (-torch.arange(0, dim, 2).double() / dim) for a, dim in enumerate(axes)], -1
    )
    return angles.cos().float().to(device), angles.sin().float().to(device)


def rotate(x, tables):
    """Rotates the interleaved pairs of x [B, H, N, d] in float32."""
    cos, sin = tables
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(x.dtype)


def modulate(x, shift, scale):
    return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + shift


class Embedder(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(size, hidden), nn.Linear(hidden, hidden)

    def forward(self, x):
        return self.out_layer(F.silu(self.in_layer(x)))


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
        return normed.to(x.dtype) * self.scale


class QKNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.query_norm, self.key_norm = Scale(dim), Scale(dim)


class Modulation(nn.Module):
    def __init__(self, hidden, count):
        super().__init__()
        self.lin, self.count = nn.Linear(hidden, count * hidden), count

    def forward(self, vec):
        return self.lin(F.silu(vec))[:, None].chunk(self.count, -1)


def heads_of(qkv, heads, norm):
    """qkv [B, N, 3D] as q, k (normed), v, each [B, H, N, d]."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return norm.query_norm(q), norm.key_norm(k), v


def attend(q, k, v, tables):
    mixed = F.scaled_dot_product_attention(rotate(q, tables), rotate(k, tables), v)
    return mixed.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.qkv, self.proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.norm = QKNorm(hidden // heads)


class DoubleBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.heads
        for stream in ("img", "txt"):
            setattr(self, f"{stream}_mod", Modulation(c.hidden, 6))
            setattr(self, f"{stream}_attn", Attention(c.hidden, c.heads))
            mlp = nn.Sequential(nn.Linear(c.hidden, 4 * c.hidden), nn.GELU("tanh"), nn.Linear(4 * c.hidden, c.hidden))
            setattr(self, f"{stream}_mlp", mlp)

    def forward(self, img, txt, vec, tables):
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        img_qkv = heads_of(self.img_attn.qkv(modulate(img, *img_mod[:2])), self.heads, self.img_attn.norm)
        txt_qkv = heads_of(self.txt_attn.qkv(modulate(txt, *txt_mod[:2])), self.heads, self.txt_attn.norm)
        q, k, v = (torch.cat(parts, 2) for parts in zip(txt_qkv, img_qkv))
        txt_mixed, img_mixed = attend(q, k, v, tables).split([txt.shape[1], img.shape[1]], 1)
        img = img + img_mod[2] * self.img_attn.proj(img_mixed)
        img = img + img_mod[5] * self.img_mlp(modulate(img, *img_mod[3:5]))
        txt = txt + txt_mod[2] * self.txt_attn.proj(txt_mixed)
        txt = txt + txt_mod[5] * self.txt_mlp(modulate(txt, *txt_mod[3:5]))
        return img, txt


class SingleBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.hidden = c.heads, c.hidden
        self.modulation = Modulation(c.hidden, 3)
        self.linear1 = nn.Linear(c.hidden, 7 * c.hidden)
        self.linear2 = nn.Linear(5 * c.hidden, c.hidden)
        self.norm = QKNorm(c.hidden // c.heads)

    def forward(self, x, vec, tables):
        shift, scale, gate = self.modulation(vec)
        qkv, mlp = self.linear1(modulate(x, shift, scale)).split([3 * self.hidden, 4 * self.hidden], -1)
        mixed = attend(*heads_of(qkv, self.heads, self.norm), tables)
        return x + gate * self.linear2(torch.cat([mixed, F.gelu(mlp, approximate="tanh")], -1))


class FinalLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.linear = nn.Linear(c.hidden, c.channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c.hidden, 2 * c.hidden))

    def forward(self, x, vec):
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, -1)
        return self.linear(modulate(x, shift, scale))


class Flux(nn.Module):
    """img [B, N, 64], txt [B, L, 4096], vec [B, 768], t and guidance [B] -> velocity [B, N, 64]."""

    def __init__(self, c):
        super().__init__()
        self.img_in, self.txt_in = nn.Linear(c.channels, c.hidden), nn.Linear(c.txt_dim, c.hidden)
        self.time_in, self.vector_in = Embedder(256, c.hidden), Embedder(c.vec_dim, c.hidden)
        if c.guidance:
            self.guidance_in = Embedder(256, c.hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(c) for _ in range(c.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(c) for _ in range(c.single_blocks))
        self.final_layer = FinalLayer(c)

    def forward(self, img, txt, vec, t, guidance, tables):
        emb = self.time_in(sinusoid(t).to(img.dtype))
        if hasattr(self, "guidance_in"):
            emb = emb + self.guidance_in(sinusoid(guidance).to(img.dtype))
        emb = emb + self.vector_in(vec)
        img, txt = self.img_in(img), self.txt_in(txt)
        for block in self.double_blocks:
            img, txt = block(img, txt, emb, tables)
        x = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            x = block(x, emb, tables)
        return self.final_layer(x[:, txt.shape[1] :], emb)


def build(config, device, dtype):
    """A model with random weights of unit gain, made on the device."""
    with torch.device("meta"):
        model = Flux(config)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    for name, weight in model.named_parameters():
        if name.endswith("scale"):
            weight.fill_(1)
        else:
            weight.normal_(0, 0.02 if weight.dim() == 1 else weight.shape[1] ** -0.5)
    return model


def step_inputs(config, txt_tokens, rows, cols, device, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator).to(device, dtype)
    return {
        "img": random(1, rows * cols, config.channels),
        "txt": random(1, txt_tokens, config.txt_dim) * 0.2,
        "vec": random(1, config.vec_dim),
        "t": torch.full((1,), 0.731, device=device),
        "guidance": torch.full((1,), 3.5, device=device),
    }


def time_steps(step, steps):
    """Milliseconds of each of `steps` calls, between events, after three more."""
    for _ in range(3):
        step()
    times = []
    for _ in range(steps):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return times


@torch.inference_mode()
def measure(variant, mode, size):
    setting = VARIANTS[variant]
    config, side = setting["config"], size // 16
    model = build(config, "cuda", torch.bfloat16)
    inputs = step_inputs(config, setting["txt_tokens"], side, side, "cuda", torch.bfloat16)
    tables = rope_tables(setting["txt_tokens"], side, side, config.axes, "cuda")
    run = torch.compile(model, fullgraph=True) if mode == "compile" else model
    torch.cuda.reset_peak_memory_stats()
    times = time_steps(lambda: run(**inputs, tables=tables), setting["steps"])
    result = {
        "model": variant,
        "mode": mode,
        "width": size,
        "height": size,
        "steps": setting["steps"],
        "step_ms": statistics.median(times),
        "picture_ms": sum(times),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }
    print(json.dumps(result), flush=True)
    del model, run
    torch.cuda.empty_cache()
    return result


def benchmark(path, variants, modes, size):
    report = {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "results": [],
    }
    for variant in variants:
        for mode in modes:
            report["results"].append(measure(variant, mode, size))
            # After each, because compiling may outlast the time one has.
            with open(path, "w") as file:
                json.dump(report, file, indent=2)


def config_of(tensors, axes=(16, 56, 56)):
    """The dimensions of a BFL file, from its tensors."""
    shape = lambda name: tensors[name].shape
    count = lambda kind: 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith(kind))
    hidden, channels = shape("img_in.weight")
    return Config(
        guidance="guidance_in.in_layer.weight" in tensors,
        hidden=hidden,
        heads=hidden // sum(axes),
        double_blocks=count("double_blocks"),
        single_blocks=count("single_blocks"),
        axes=axes,
        channels=channels,
        txt_dim=shape("txt_in.weight")[1],
        vec_dim=shape("vector_in.in_layer.weight")[1],
    )


def load(tensors, config, device, dtype):
    model = build(config, device, dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()})
    return model


@torch.inference_mode()
def write_reference(checkpoint, path, size, dtype):
    """One step of `checkpoint` on seeded inputs; both in a safetensors file, in float32."""
    from safetensors.torch import load_file, save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors, side = load_file(checkpoint), size // 16
    config = config_of(tensors)
    txt_tokens = VARIANTS["dev" if config.guidance else "schnell"]["txt_tokens"]
    inputs = step_inputs(config, txt_tokens, side, side, device, dtype)
    tables = rope_tables(txt_tokens, side, side, config.axes, device)
    velocity = load(tensors, config, device, dtype)(**inputs, tables=tables)
    save_file({name: x.float().cpu().contiguous() for name, x in {**inputs, "velocity": velocity}.items()}, path)


@torch.inference_mode()
def check(fixtures):
    """The largest difference from the golden velocities of the tiny dev model; fails beyond their tolerance."""
    from safetensors.torch import load_file

    manifest = json.load(open(f"{fixtures}/manifest.json"))
    axes = tuple(manifest["models"]["tiny-dev"]["axes_dims_rope"])
    tensors = load_file(f"{fixtures}/tiny-dev-bfl/flux1-dev.safetensors")
    model = load(tensors, config_of(tensors, axes), "cpu", torch.float32)
    cases = [c for c in manifest["cases"] if c["kind"] == "transformer" and c["model"] == "tiny-dev"]
    for case in cases:
        params, golden = case["params"], load_file(f"{fixtures}/{case['file']}")
        if params.get("timestep_rounding", "none") != "none":
            continue
        txt = golden[case["inputs"]["encoder_hidden_states"]["key"]]
        velocity = model(
            img=golden[case["inputs"]["hidden_states"]["key"]],
            txt=txt,
            vec=golden[case["inputs"]["pooled"]["key"]],
            t=torch.tensor([params["sigma"]]),
            guidance=torch.tensor([float(params["guidance"])]),
            tables=rope_tables(txt.shape[1], params["grid_rows"], params["grid_cols"], axes, "cpu"),
        )
        want = case["outputs"]["out"]
        difference = (velocity - golden[want["key"]]).abs().max().item()
        print(f"{case['id']}: {difference:.1e}, tolerance {want['atol']:.1e}")
        assert difference <= want["atol"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--check", metavar="FIXTURES")
    parser.add_argument("--reference", metavar="CHECKPOINT")
    parser.add_argument("--models", default="dev,schnell")
    parser.add_argument("--modes", default="eager,compile")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--float32", action="store_true", help="of --reference: not bf16")
    given = parser.parse_args()
    if given.check:
        return check(given.check)
    if len(given.paths) != 1:
        parser.error("expected one output file")
    if given.reference:
        dtype = torch.float32 if given.float32 else torch.bfloat16
        return write_reference(given.reference, given.paths[0], given.size, dtype)
    benchmark(given.paths[0], given.models.split(","), given.modes.split(","), given.size)


if __name__ == "__main__":
    main()
