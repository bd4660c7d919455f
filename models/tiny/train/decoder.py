"""Where the decoder's training starts: weights that are written down.

The fields (fields.py) say everything about a picture, so the decoder of a stock AutoencoderKL can be set by hand. train_vae.py
goes on from here.

  s   = sum of the distance channels / 8, interpolated by "nearest × 2, blur [1 2 1]" at each upsampling
  1-h = relu(1 - relu(GAIN s + 1) / 2)                      h: 1 inside, 0 outside, a ramp of about two pixels between
  out = b + relu(f - b - 2(1-h)) - relu(b - f - 2(1-h))     f, b: colours of shape and background

Group norms would rescale by statistics of the picture. Each group therefore holds two constants, +A and -A, that dwarf the
rest (so the deviation is A / 2, whatever the picture), and a channel that makes its mean zero. SiLU of a steeply scaled input
stands for relu. Blocks that are not needed have a zero last convolution, so they pass their input on.
"""
import torch

from fields import DISTANCE_CHANNELS

A, GAIN = 256., 48.
STEEP1, STEEP2, STEEP3 = 8., 64., 64.
U, V, W = (0, 1, 2), (3, 8, 9), (10, 11, 12)        # channels of the last block: f - b, b - f, b + 1.25
S, ZERO0, ZERO1, CONST = 4, 5, 13, (6, 7, 14, 15)   # distance; what makes a group's mean zero; +A, -A, +A, -A
FIELD_S, FIELD_F, FIELD_B = 0, (1, 2, 3), (4, 5, 6)  # channels before it


@torch.no_grad()
def write(decoder):
    for p in decoder.parameters():
        p.zero_()
    for m in decoder.modules():
        if isinstance(m, torch.nn.GroupNorm):
            m.weight.fill_(1)
    blur = torch.tensor([1., 2., 1.]) / 4
    blur = blur[:, None] * blur

    for c in DISTANCE_CHANNELS:
        decoder.conv_in.weight[FIELD_S, c, 1, 1] = 1 / 8
    for i in range(3):
        decoder.conv_in.weight[FIELD_F[i], 4 + i, 1, 1] = 1
        decoder.conv_in.weight[FIELD_B[i], 7 + i, 1, 1] = 1

    for b, block in enumerate(decoder.up_blocks):
        for r in block.resnets:
            if r.conv_shortcut is not None:
                for c in range(7):
                    r.conv_shortcut.weight[c, c, 0, 0] = 1
        if block.upsamplers is None:
            continue
        up = block.upsamplers[0].conv
        if b < len(decoder.up_blocks) - 2:
            up.weight[FIELD_S, FIELD_S] = blur
            for c in FIELD_F + FIELD_B:
                up.weight[c, c, 1, 1] = 1
            continue
        up.weight[S, FIELD_S] = blur
        up.weight[ZERO0, FIELD_S] = -blur
        for i in range(3):
            for target, sign in ((U[i], 1), (V[i], -1)):
                up.weight[target, FIELD_F[i], 1, 1] = sign
                up.weight[target, FIELD_B[i], 1, 1] = -sign
            up.weight[W[i], FIELD_B[i], 1, 1] = 1
            up.bias[W[i]] = 1.25
        balance(up, 1)
        for c, v in zip(CONST, (A, -A, A, -A)):
            up.bias[c] = v

    edge = decoder.up_blocks[-1].resnets[0]
    edge.norm1.weight[S], edge.norm1.bias[S] = A / 2 * STEEP1 * GAIN, STEEP1
    edge.conv1.weight[0, S, 1, 1], edge.conv1.bias[0] = -.5 / STEEP1, 1
    edge.conv1.weight[1, S, 1, 1], edge.conv1.bias[1] = .5 / STEEP1, -1
    for c, v in zip(CONST, (A, -A, A, -A)):
        edge.conv1.bias[c] = v
    edge.norm2.weight[0], edge.norm2.bias[0] = A / 2 * STEEP2, 0
    for c in U + V:
        edge.conv2.weight[c, 0, 1, 1] = -2 / STEEP2
    balance(edge.conv2, 0)

    for c in U + V + W:
        decoder.conv_norm_out.weight[c] = A / 2 * STEEP3
    for i in range(3):
        for c, sign in ((U[i], 1), (V[i], -1), (W[i], 1)):
            decoder.conv_out.weight[i, c, 1, 1] = sign / STEEP3
        decoder.conv_out.bias[i] = -1.25


def balance(conv, with_s):
    """Let ZERO0 and ZERO1 be minus the sum of the other channels of their group of eight."""
    for zero, group in ((ZERO0, range(0, 6)), (ZERO1, range(8, 13))):
        others = [c for c in group if c != zero and (with_s or c != S)]
        conv.weight[zero] = -conv.weight[others].sum(0)
        conv.bias[zero] = -conv.bias[others].sum()
