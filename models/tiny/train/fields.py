"""The embedded model's latents: sixteen smooth fields over the picture instead of free-form codes.

Channel by channel, at one value per 8 × 8 pixels: the signed distance to the shape's edge, squashed by tanh at three
widths (fractions of the short side), the shape's colour and the background's colour. A prompt decides them almost
completely, they vary slowly, and they look alike at every picture size, which is what lets so small a transformer
learn them. The decoder turns them into sharp edges; the encoder is trained to find them in a picture.
"""
import numpy as np
import torch

from scenes import COLORS, contrast, sdf

WIDTHS = (.04, .08, .08, .16)                 # channels 0–3
MORE_WIDTHS = (.04, .04, .08, .08, .16, .16)  # channels 10–15
DISTANCE_CHANNELS = (0, 1, 2, 3, 10, 11, 12, 13, 14, 15)


def distance_field(s, width, height):
    """Signed distance over the short side [height/8, width/8], negative inside, at the centres of 8 × 8 pixels."""
    y, x = np.mgrid[4:height:8, 4:width:8].astype(np.float32)
    short = min(width, height)
    r = s["r"] * short * (1 + s["dr"])
    return sdf(s["shape"], (x - (s["x"] + s["dx"]) * width) / r, (y - (s["y"] + s["dy"]) * height) / r) * r / short


def colors(s, guidance):
    """Shape's and background's colour in −1..1, with the contrast that `guidance` means."""
    return [contrast(guidance) * (2 * np.array(COLORS[s[k]][0], np.float32) - 1) for k in ("color", "background")]


def latents(s, width, height, guidance=10., style=None):
    """-> float32 [16, height/8, width/8]. `style(distance, shape colour, background colour)` may change the fields (LoRAs)."""
    d = distance_field(s, width, height)
    fore, back = colors(s, guidance)
    if style:
        d, fore, back = style(d, fore, back)
    z = np.empty((16, *d.shape), np.float32)
    for channel, w in zip(DISTANCE_CHANNELS, WIDTHS + MORE_WIDTHS):
        z[channel] = np.tanh(-d / w)
    z[4:7], z[7:10] = np.reshape(fore, (3, 1, 1)), np.reshape(back, (3, 1, 1))
    return torch.from_numpy(z)
