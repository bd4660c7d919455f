"""Text encoders, VAE, packing, schedule and sampling shared by the training programs.

The environment's TINY_PARTS leads to a folder in diffusers layout with tokenizer/, tokenizer_2/ and vae/ (models/tiny/dev
unless set).
"""
import math
import os

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

import fluxlite

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = os.environ.get("TINY_PARTS", os.path.join(HERE, "..", "dev"))
TEXT_TOKENS = 32

HALF = ["512x512", "672x384", "384x672", "768x320", "320x768", "608x416", "416x608", "448x544", "544x448", "448x576", "576x448"]
FULL = ["1024x1024", "1344x768", "768x1344", "1536x640", "640x1536", "1216x832", "832x1216", "896x1088", "1088x896", "896x1152", "1152x896"]


def size(name):
    w, h = name.split("x")
    return int(w), int(h)


class Text:
    """Both tokenizers and encoders. Prompts are padded to 32 T5 tokens; pads are attended to, as in Flux."""

    def __init__(self, folder=PARTS):
        self.tok1 = CLIPTokenizer.from_pretrained(os.path.join(PARTS, "tokenizer"))
        self.tok2 = T5TokenizerFast.from_pretrained(os.path.join(PARTS, "tokenizer_2"))
        self.clip = CLIPTextModel.from_pretrained(os.path.join(folder, "text_encoder"), torch_dtype=torch.float32)
        self.t5 = T5EncoderModel.from_pretrained(os.path.join(folder, "text_encoder_2"), torch_dtype=torch.float32)

    def __call__(self, prompts):
        a = self.tok1(prompts, padding="longest", truncation=True, max_length=77, return_tensors="pt").input_ids
        b = self.tok2(prompts, padding="max_length", truncation=True, max_length=TEXT_TOKENS, return_tensors="pt").input_ids
        return self.clip(a).pooler_output, self.t5(b).last_hidden_state

    def parameters(self):
        return list(self.clip.parameters()) + list(self.t5.parameters())


def load_vae():
    return AutoencoderKL.from_pretrained(os.path.join(PARTS, "vae"), torch_dtype=torch.float32).eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def encode_image(vae, x):
    z = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
    return pack(((z - vae.config.shift_factor) * vae.config.scaling_factor).contiguous())


@torch.no_grad()
def decode_image(vae, tokens, h, w):
    """Packed tokens -> float32 numpy [B, H, W, 3] in 0..1"""
    z = unpack(tokens, h, w) / vae.config.scaling_factor + vae.config.shift_factor
    x = torch.cat([vae.decode(k[None].contiguous(memory_format=torch.channels_last)).sample for k in z])
    return (x.clamp(-1, 1).permute(0, 2, 3, 1).float().numpy() + 1) / 2


def pack(z):
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpack(x, h, w):
    return x.reshape(len(x), h, w, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), 16, 2 * h, 2 * w)


def mu(tokens):
    return .5 + (tokens - 256) * (1.15 - .5) / (4096 - 256)


def shift(s, m):
    return math.exp(m) * s / (1 + (math.exp(m) - 1) * s)


def sigmas(steps, tokens, dev=True):
    s = [1 - i / steps for i in range(steps)]
    return ([shift(x, mu(tokens)) for x in s] if dev else s) + [0.]


@torch.no_grad()
def sample(model, text, prompts, width, height, steps=28, guidance=3.5, seed=0, dev=True):
    """The FluxPipeline loop on the CPU noise stream; prompt i has seed + i. -> packed latents"""
    h, w = height // 16, width // 16
    x = torch.cat([pack(torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(seed + i))) for i in range(len(prompts))])
    pooled, tokens = text(prompts)
    g = torch.full((len(x),), float(guidance)) if dev else None
    s = sigmas(steps, h * w, dev)
    for i in range(steps):
        v = model(x, torch.full((len(x),), s[i]), pooled, tokens, fluxlite.image_ids(h, w), g)
        x = x + (s[i + 1] - s[i]) * v
    return x
