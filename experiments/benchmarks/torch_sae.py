"""The rival: a TopK SAE trainer in torch, as a careful engineer would write it for a CPU.

Gradients by hand, every large array made once, Adam fused. `dense` multiplies the latents out as
most trainers do; `sparse` lets a token touch its own rows alone, through torch's embedding bag and
its compressed sparse columns.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


class TorchSae:
    """One dictionary in training; the same loss, start and normalisation as selfx's."""

    def __init__(self, enc: torch.Tensor, k: int, batch: int, rate: float, sparse: bool):
        n, d = enc.shape
        self.k, self.sparse = k, sparse
        self.enc, self.dec = enc.clone(), enc.clone()
        self.b_enc, self.b_dec = torch.zeros(n), torch.zeros(d)
        self.parameters = [self.enc, self.b_enc, self.dec, self.b_dec]
        for parameter in self.parameters:
            parameter.requires_grad_()
            parameter.grad = torch.zeros_like(parameter)
        self.adam = torch.optim.Adam(self.parameters, lr=rate, eps=6.25e-10, fused=True)
        self.quiet = torch.zeros(n, dtype=torch.long)
        self.pre, self.full = torch.empty(batch, n), torch.zeros(batch, n)
        self.starts = torch.arange(0, batch * k + 1, k)

    @torch.no_grad()
    def step(self, x: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a step on `x` `[b, d]`; the error and the variance."""
        torch.addmm(self.b_enc, x, self.enc.T, out=self.pre)
        values, index = torch.topk(self.pre, self.k, sorted=False)
        values.relu_()
        backward = self._sparse if self.sparse else self._dense
        error, slopes = backward(x, values, index)
        slopes.mul_(values > 0)
        flat = index.reshape(-1)
        self.b_enc.grad.zero_().index_add_(0, flat, slopes.reshape(-1))
        along = (self.dec.grad * self.dec).sum(1, keepdim=True)
        self.dec.grad.addcmul_(along, self.dec, value=-1)
        for group in self.adam.param_groups:
            group["lr"] = factor
        self.adam.step()
        self.dec.div_(self.dec.norm(dim=1, keepdim=True))
        self.quiet += len(x)
        self.quiet[flat[values.reshape(-1) > 0]] = 0
        return error.square().sum(), (x - x.mean(0)).square().sum()

    def _dense(self, x, values, index):
        self.full.zero_().scatter_(1, index, values)
        error = torch.addmm(self.b_dec, self.full, self.dec).sub_(x)
        slope = error * (2 / x.numel())
        torch.mm(self.full.T, slope, out=self.dec.grad)
        torch.sum(slope, 0, out=self.b_dec.grad)
        slopes = torch.mm(slope, self.dec.T, out=self.pre).gather(1, index)
        self.full.zero_().scatter_(1, index, slopes * (values > 0))
        torch.mm(self.full.T, x, out=self.enc.grad)
        return error, slopes

    def _sparse(self, x, values, index):
        with torch.enable_grad():
            values.requires_grad_()
            bag = F.embedding_bag(index, self.dec, per_sample_weights=values, mode="sum")
        error = (bag.detach() + self.b_dec).sub_(x)
        slope = error * (2 / x.numel())
        slopes, dec = torch.autograd.grad(bag, (values, self.dec), slope)
        self.dec.grad.copy_(dec)
        torch.sum(slope, 0, out=self.b_dec.grad)
        flat = (slopes * (values > 0)).reshape(-1)
        shape = (len(self.enc), len(x))
        rows = torch.sparse_csc_tensor(self.starts, index.reshape(-1), flat, shape)
        self.enc.grad.copy_(rows @ x)
        return error, slopes
