"""Render scenes, encode them with the VAE and store packed latents, one file per picture size.

    python latents.py small 1        # sizes for the first phase (about 2 min on two cores)
    python latents.py half 1         # the 0.25 MP sizes
    python latents.py full 1         # the 1 MP sizes
The second argument is the seed; a second run with another seed adds to the cache.
"""
import os
import sys
import time

import numpy as np
import torch

from common import FULL, HALF, WORK, encode_image, load_vae, size
from scenes import render, scene

SPEC = {
    "small": {"256x256": 1500, "384x384": 300, "192x384": 150, "384x192": 150, "256x448": 150, "448x256": 150,
              "1024x192": 100, "192x1024": 100, "1536x192": 60, "192x1536": 60, "768x256": 100, "256x768": 100},
    "half": {k: 600 if k == "512x512" else 64 for k in HALF},
    "full": {k: 260 if k == "1024x1024" else 24 for k in FULL},
}


def guidance(rng):
    """A third of the pictures are rendered with the reduced contrast that a low guidance asks for."""
    return float(rng.uniform(0, 3)) if rng.random() < .3 else float(rng.uniform(3, 8) if rng.random() < .8 else rng.uniform(8, 10))


def main(group, seed):
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    rng, vae = np.random.default_rng([seed, len(group)]), load_vae()
    os.makedirs(WORK, exist_ok=True)
    for name, count in SPEC[group].items():
        width, height = size(name)
        batch, t0, out = max(1, 8 * 256 * 256 // (width * height)), time.time(), dict(z=[], scenes=[], g=[])
        for _ in range(0, count, batch):
            scenes, g = [scene(rng) for _ in range(batch)], [guidance(rng) for _ in range(batch)]
            x = np.stack([render(s, width, height, q) for s, q in zip(scenes, g)])
            out["z"].append(encode_image(vae, torch.from_numpy(x).permute(0, 3, 1, 2)).half())
            out["scenes"] += scenes
            out["g"] += g
        out["z"], out["g"] = torch.cat(out["z"]), torch.tensor(out["g"])
        path = os.path.join(WORK, f"latents-{name}-{seed}.pt")
        torch.save(out, path + ".part")
        os.replace(path + ".part", path)
        print(name, count, f"{time.time() - t0:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
