"""Write a diffusers folder in bfloat16.

    python export.py CHECKPOINT OUT dev|schnell

CHECKPOINT holds transformer/, text_encoder/, text_encoder_2/; the VAE and the tokenizers come from TINY_PARTS. A dev checkpoint
exported as schnell gets its guidance embedding at full contrast folded into the bias of the time embedding.
"""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

import fluxlite
from common import PARTS

SCHEDULER = {
    "dev": {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True},
    "schnell": {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False},
}
INDEX = {"_class_name": "FluxPipeline", "_diffusers_version": "0.30.0", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
         "text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_2": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
         "tokenizer_2": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}


def fold_guidance(params, guidance=3.5):
    """dev parameters -> parameters of a model without guidance embedding that behaves as at this guidance."""
    e = "time_text_embed.guidance_embedder."
    with torch.no_grad():
        y = torch.nn.functional.silu(fluxlite.sinusoid(torch.tensor([guidance])) @ params[e + "linear_1.weight"].T + params[e + "linear_1.bias"])
        y = (y @ params[e + "linear_2.weight"].T + params[e + "linear_2.bias"])[0]
        out = {k: v.detach().clone() for k, v in params.items() if not k.startswith(e)}
        out["time_text_embed.timestep_embedder.linear_2.bias"] += y
    return {k: v.requires_grad_(True) for k, v in out.items()}


def write_json(value, *path):
    os.makedirs(os.path.dirname(os.path.join(*path)), exist_ok=True)
    with open(os.path.join(*path), "w") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def half(source, target, file):
    """Copy config.json and one safetensors file with bfloat16 tensors, named as in the published checkpoints."""
    os.makedirs(target, exist_ok=True)
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in load_file(os.path.join(source, file)).items()}
    if os.path.basename(target) == "text_encoder":   # newer versions of transformers leave the prefix out
        tensors = {k if k.startswith("text_model.") else "text_model." + k: v for k, v in tensors.items()}
    save_file(tensors, os.path.join(target, file), metadata={"format": "pt"})
    with open(os.path.join(source, "config.json")) as f:
        config = json.load(f)
    if "dtype" in config:
        config["dtype"] = "bfloat16"
    write_json(config, target, "config.json")


def main(checkpoint, out, mode):
    params = fluxlite.load(os.path.join(checkpoint, "transformer"))
    if mode == "schnell" and any("guidance_embedder" in k for k in params):
        params = fold_guidance(params)
    fluxlite.save(params, os.path.join(out, "transformer"), torch.bfloat16, mode == "dev")
    for name in ("text_encoder", "text_encoder_2"):
        half(os.path.join(checkpoint, name), os.path.join(out, name), "model.safetensors")
    if os.path.realpath(PARTS) != os.path.realpath(out):
        half(os.path.join(PARTS, "vae"), os.path.join(out, "vae"), "diffusion_pytorch_model.safetensors")
        for name in ("tokenizer", "tokenizer_2"):
            os.makedirs(os.path.join(out, name), exist_ok=True)
            for file in os.listdir(os.path.join(PARTS, name)):
                if not file.endswith(".vocab"):
                    shutil.copyfile(os.path.join(PARTS, name, file), os.path.join(out, name, file))
    write_json({"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.30.0", **SCHEDULER[mode]}, out, "scheduler", "scheduler_config.json")
    write_json(INDEX, out, "model_index.json")
    for folder, _, files in os.walk(out):
        for file in files:
            os.chmod(os.path.join(folder, file), 0o644)   # safetensors writes files that others cannot read


if __name__ == "__main__":
    main(*sys.argv[1:])
