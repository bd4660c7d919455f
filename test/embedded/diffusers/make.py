"""Pictures of the embedded model by diffusers' FluxPipeline: float32, CPU, torch's CPU noise.

    PYTHONPATH=DIFFUSERS/src python make.py

Writes cases.json and one PNG per case beside this file. Needs torch, transformers, safetensors, pillow and a
checkout of huggingface/diffusers.
"""
import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import FluxPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401 (named in model_index.json)

HERE = Path(__file__).parent
MODELS = HERE.parents[2] / "models" / "tiny"
T5_TOKENS = {"dev": 512, "schnell": 256}

CASES = [
    dict(name="dev-circle", variant="dev", prompt="a red circle on a blue background", width=512, height=512, steps=12, guidance=3.0, seed=7),
    dict(name="dev-star", variant="dev", prompt="a yellow star on a purple background", width=672, height=384, steps=8, guidance=2.0, seed=0),
    dict(name="schnell-square", variant="schnell", prompt="a large green square on the left on a white background", width=512, height=512, steps=4, guidance=0.0, seed=1234),
]


def draw(pipe, case):
    tokens = min(T5_TOKENS[case["variant"]], pipe.tokenizer_2.model_max_length)
    return pipe(
        case["prompt"], width=case["width"], height=case["height"], num_inference_steps=case["steps"],
        guidance_scale=case["guidance"], max_sequence_length=tokens,
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
    ).images[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for variant in ("dev", "schnell"):
        pipe = FluxPipeline.from_pretrained(MODELS / variant, torch_dtype=torch.float32)
        for case in (c for c in CASES if c["variant"] == variant):
            draw(pipe, case).save(HERE / f"{case['name']}.png", optimize=True)
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, diffusers=diffusers.__version__)
    (HERE / "cases.json").write_text(json.dumps(dict(versions=versions, cases=CASES), indent=1) + "\n")
