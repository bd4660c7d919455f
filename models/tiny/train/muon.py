"""Muon (momentum, orthogonalised by Newton-Schulz) for matrices, AdamW for everything else."""
import torch


def orthogonalise(g, steps=5):
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Matrices of one shape are updated together. step(f) scales every learning rate by f."""

    def __init__(self, matrices, rest, lr=.02, adam_lr=2.4e-3, momentum=.95, decay=.01):
        self.lr, self.adam_lr, self.momentum, self.decay = lr, adam_lr, momentum, decay
        self.groups = {}
        for p in matrices:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {k: torch.zeros(len(v), *k) for k, v in self.groups.items()}
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(.9, .99), weight_decay=0.)
        self.params = list(matrices) + list(rest)

    @torch.no_grad()
    def step(self, f=1.):
        for k, ps in self.groups.items():
            g = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in ps])
            b = self.buffers[k]
            b.lerp_(g, 1 - self.momentum)
            u = orthogonalise(g.lerp(b, self.momentum)) * (max(1, k[0] / k[1]) ** .5 * self.lr * f)
            for p, d in zip(ps, u):
                p.mul_(1 - self.lr * f * self.decay).sub_(d)
        for g in self.adam.param_groups:
            g["lr"] = self.adam_lr * f
        self.adam.step()

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def state_dict(self):
        return dict(buffers=self.buffers, adam=self.adam.state_dict())

    def load_state_dict(self, s):
        self.buffers = s["buffers"]
        self.adam.load_state_dict(s["adam"])
