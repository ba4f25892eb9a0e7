"""Mixtures of experts that compute only the chosen experts, in the ways people write them in torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch_vits import CLASSES, DIM, Block, Mlp, ViT

EXPERTS, CHOSEN, HIDDEN = 4, 2, 8


class Sparse(nn.Module):
    """A mixture whose routing is that of M3ViT, or of Mixtral with `divide`; `mix` is what the styles differ in."""

    def __init__(self, k=CHOSEN, divide=False):
        super().__init__()
        self.k, self.divide = k, divide
        self.gate = nn.Linear(DIM, EXPERTS)

    def forward(self, x):
        flat = x.reshape(-1, DIM)
        weight, index = self.gate(flat).softmax(-1).topk(self.k, -1)
        if self.divide:
            weight = weight / weight.sum(-1, keepdim=True)
        return self.mix(flat, weight, index).reshape(x.shape)


class Modules(Sparse):
    """Each expert a module."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.experts = nn.ModuleList(Mlp(nn.SiLU(), HIDDEN) for _ in range(EXPERTS))


class Stacked(Sparse):
    """The experts' weights stacked."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.w1 = nn.Parameter(torch.zeros(EXPERTS, HIDDEN, DIM))
        self.b1 = nn.Parameter(torch.zeros(EXPERTS, HIDDEN))
        self.w2 = nn.Parameter(torch.zeros(EXPERTS, DIM, HIDDEN))
        self.b2 = nn.Parameter(torch.zeros(EXPERTS, DIM))


class Accumulate(Modules):
    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            y[row] += weight[row, place, None] * expert(x[row])
        return y


class IndexAdd(Modules):
    """transformers' Mixtral."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        mask = functional.one_hot(index, EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            place, row = torch.where(mask[number])
            y.index_add_(0, row, expert(x[None, row].reshape(-1, DIM)) * weight[row, place, None])
        return y


class Images(Modules):
    """Without flattening images and tokens."""

    def forward(self, x):
        weight, index = self.gate(x).softmax(-1).topk(self.k, -1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            image, token, place = torch.where(index == number)
            y[image, token] += expert(x[image, token]) * weight[image, token, place].unsqueeze(-1)
        return y


class Repeated(Modules):
    """DeepSeek: a row for every choice, split by a mask."""

    def mix(self, x, weight, index):
        flat = index.reshape(-1)
        x = x.repeat_interleave(self.k, dim=0)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            y[flat == number] = expert(x[flat == number])
        return (y.view(-1, self.k, DIM) * weight.unsqueeze(-1)).sum(1)


class Divided(Modules):
    """The rows of the chosen by division of flat places."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            flat = torch.nonzero(index.reshape(-1) == number).squeeze(1)
            row = flat // self.k
            y = y.index_add(0, row, expert(x[row]) * weight.reshape(-1)[flat].unsqueeze(1))
        return y


class Onto(Modules):
    """Added onto the residual stream itself."""

    def forward(self, x, residual):
        weight, index = self.gate(x).softmax(-1).topk(self.k, -1)
        for number, expert in enumerate(self.experts):
            image, token, place = torch.where(index == number)
            part = expert(x[image, token]) * weight[image, token, place].unsqueeze(-1)
            residual = residual.index_put((image, token), part, accumulate=True)
        return residual


class One(Modules):
    """Switch: one expert for each token, put in its place."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row = torch.nonzero(index[:, 0] == number)[:, 0]
            y[row] = expert(x[row]) * weight[row]
        return y


class Largest(Modules):
    """Switch: one expert for each token, by the maximum."""

    def forward(self, x):
        weight, index = self.gate(x).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            image, token = torch.where(index == number)
            y[image, token] = expert(x[image, token]) * weight[image, token].unsqueeze(-1)
        return y


class GatheredEinsum(Stacked):
    def mix(self, x, weight, index):
        h = torch.einsum("rd,rkhd->rkh", x, self.w1[index]) + self.b1[index]
        y = torch.einsum("rkh,rkdh->rkd", functional.silu(h), self.w2[index]) + self.b2[index]
        return torch.einsum("rkd,rk->rd", y, weight)


class GatheredMatmul(Stacked):
    def mix(self, x, weight, index):
        h = (self.w1[index] @ x[:, None, :, None]).squeeze(-1) + self.b1[index]
        y = (functional.silu(h).unsqueeze(-2) @ self.w2[index].transpose(-1, -2)).squeeze(-2) + self.b2[index]
        return (y * weight.unsqueeze(-1)).sum(dim=1)


class GatheredInPlaces(Stacked):
    """The weights of one place of the choice after the other."""

    def mix(self, x, weight, index):
        y = 0
        for place in range(self.k):
            chosen = index[:, place]
            h = torch.bmm(self.w1[chosen], x.unsqueeze(-1)).squeeze(-1) + self.b1[chosen]
            one = torch.bmm(self.w2[chosen], functional.silu(h).unsqueeze(-1)).squeeze(-1) + self.b2[chosen]
            y = y + one * weight[:, place, None]
        return y


class DenseEinsum(Stacked):
    def mix(self, x, weight, index):
        gates = torch.zeros(x.shape[0], EXPERTS).scatter(-1, index, weight)
        h = torch.einsum("rd,ehd->reh", x, self.w1) + self.b1
        y = torch.einsum("reh,edh->red", functional.silu(h), self.w2) + self.b2
        return torch.einsum("red,re->rd", y, gates)


class DenseMatmul(Stacked):
    """Experts first, as torch.bmm wants them."""

    def mix(self, x, weight, index):
        gates = torch.zeros(x.shape[0], EXPERTS).scatter(-1, index, weight)
        h = torch.bmm(x.expand(EXPERTS, -1, -1), self.w1.transpose(1, 2)) + self.b1.unsqueeze(1)
        y = torch.baddbmm(self.b2.unsqueeze(1), functional.silu(h), self.w2.transpose(1, 2))
        return (y * gates.t().unsqueeze(-1)).sum(0)


class DenseStack(Modules):
    """The results of all experts stacked."""

    def mix(self, x, weight, index):
        gates = torch.zeros(x.shape[0], EXPERTS).scatter(-1, index, weight)
        y = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (y * gates.unsqueeze(-1)).sum(1)


class SparseViT(ViT):
    """A block with attention, then a mixture on the residual stream."""

    def __init__(self, mixture):
        super().__init__(Block(mlp=Mlp(nn.SiLU())), pool="features")
        self.moe_norm, self.moe = nn.LayerNorm(DIM), mixture
        self.last = nn.Linear(DIM, CLASSES)

    def forward(self, image):
        x = self.tokens(image)
        x = self.blocks(torch.cat((self.extra[0].expand(x.shape[0], -1, -1), x), 1))
        y = self.moe_norm(x)
        x = self.moe(y, x) if isinstance(self.moe, Onto) else x + self.moe(y)
        return self.last(self.norm(x)[:, 0])


class AnyPlace(Modules):
    """The rows without their places; the weight as a masked sum."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = index == number
            row = chosen.any(-1).nonzero().squeeze(-1)
            y[row] += (weight * chosen).sum(-1)[row, None] * expert(x[row])
        return y


class Positive(Modules):
    """The rows whose weight is more than zero."""

    def mix(self, x, weight, index):
        gates = torch.zeros(x.shape[0], EXPERTS).scatter(-1, index, weight)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row = (gates[:, number] > 0).nonzero().squeeze(-1)
            y[row] += gates[row, number, None] * expert(x[row])
        return y


class MaskedSum(Modules):
    """All experts on all tokens, the weights as masked sums."""

    def mix(self, x, weight, index):
        return sum(
            (weight * (index == number)).sum(-1, keepdim=True) * expert(x)
            for number, expert in enumerate(self.experts)
        )


class OneHot(Modules):
    """The weights of all experts by one-hot vectors, as in GShard."""

    def mix(self, x, weight, index):
        gates = (functional.one_hot(index, EXPERTS) * weight.unsqueeze(-1)).sum(1)
        return sum(gates[:, number, None] * expert(x) for number, expert in enumerate(self.experts))


class ProbabilityMask(Modules):
    """Probabilities of all experts times ones scattered to the chosen."""

    def forward(self, x):
        weight = self.gate(x).softmax(-1)
        gates = weight * torch.zeros_like(weight).scatter(-1, weight.topk(self.k, -1)[1], 1.0)
        if self.divide:
            gates = gates / gates.sum(-1, keepdim=True)
        return sum(gates[..., number, None] * expert(x) for number, expert in enumerate(self.experts))


class ResultsOfChosen(Modules):
    """The results of all experts, of which those of the chosen are gathered."""

    def mix(self, x, weight, index):
        y = torch.stack([expert(x) for expert in self.experts], dim=1)
        y = y.gather(1, index.unsqueeze(-1).expand(-1, -1, DIM))
        return (y * weight.unsqueeze(-1)).sum(1)


STYLES = {
    style.__name__: style
    for style in (
        *(Accumulate, IndexAdd, Images, Repeated, Divided, Onto, One, Largest, AnyPlace, Positive),
        *(GatheredEinsum, GatheredMatmul, GatheredInPlaces, DenseEinsum, DenseMatmul, DenseStack),
        *(MaskedSum, OneHot, ProbabilityMask, ResultsOfChosen),
    )
}


# what looks like a mixture and is none: each must be refused


class WithoutWeight(Modules):
    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, _ = torch.where(index == number)
            y = y.index_add(0, row, expert(x[row]))
        return y


class FirstWeight(Modules):
    """The weight of the token's best expert for all of its experts."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, _ = torch.where(index == number)
            y[row] += weight[row, 0, None] * expert(x[row])
        return y


class Overwritten(Modules):
    """The last of a token's experts alone."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            y[row] = weight[row, place, None] * expert(x[row])
        return y


class LastMissing(Modules):
    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number in range(EXPERTS - 1):
            row, place = torch.where(index == number)
            y[row] += weight[row, place, None] * self.experts[number](x[row])
        return y


class Twice(Modules):
    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number in [0, *range(EXPERTS)]:
            row, place = torch.where(index == number)
            y[row] += weight[row, place, None] * self.experts[number](x[row])
        return y


class BestOnly(Modules):
    """Weights of two experts, but only the best is looked for."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            (row,) = torch.where(index[:, 0] == number)
            y[row] += weight[row, 0, None] * expert(x[row])
        return y


class OtherTokens(Modules):
    """What an expert makes of its tokens is added to the opposite tokens."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            y = y.index_add(0, x.shape[0] - 1 - row, weight[row, place, None] * expert(x[row]))
        return y


class Reversed(Modules):
    """In the wrong order among themselves; the second flip hides it where all tokens choose the expert."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            y[row] += (weight[row, place, None] * expert(x[row])).flip(0)
        return y.flip(0)


class Load(Modules):
    """Divided by how many tokens the expert has."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            y[row] += weight[row, place, None] * expert(x[row]) / row.shape[0]
        return y


class AmongTokens(Modules):
    """The tokens of an expert look at each other."""

    def mix(self, x, weight, index):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            z = x[row]
            y[row] += weight[row, place, None] * expert(torch.softmax(z @ z.t(), -1) @ z)
        return y


class OtherBias(Stacked):
    def mix(self, x, weight, index):
        h = torch.einsum("rd,rkhd->rkh", x, self.w1[index]) + self.b1[index.flip(-1)]
        y = torch.einsum("rkh,rkdh->rkd", functional.silu(h), self.w2[index]) + self.b2[index]
        return torch.einsum("rkd,rk->rd", y, weight)


class OtherSecond(Stacked):
    def mix(self, x, weight, index):
        h = torch.einsum("rd,rkhd->rkh", x, self.w1[index]) + self.b1[index]
        y = torch.einsum("rkh,rkdh->rkd", functional.silu(h), self.w2[index.flip(-1)]) + self.b2[index]
        return torch.einsum("rkd,rk->rd", y, weight)


class OtherWeight(Stacked):
    def mix(self, x, weight, index):
        h = torch.einsum("rd,rkhd->rkh", x, self.w1[index]) + self.b1[index]
        y = torch.einsum("rkh,rkdh->rkd", functional.silu(h), self.w2[index]) + self.b2[index]
        return torch.einsum("rkd,rk->rd", y, weight.flip(-1))


class Unweighted(Stacked):
    def mix(self, x, weight, index):
        h = torch.einsum("rd,rkhd->rkh", x, self.w1[index]) + self.b1[index]
        y = torch.einsum("rkh,rkdh->rkd", functional.silu(h), self.w2[index]) + self.b2[index]
        return y.sum(1)


class OtherChoice(Stacked):
    """Weights of the best two, experts of the worst two."""

    def mix(self, x, weight, index):
        index = (-self.gate(x)).topk(self.k, -1)[1]
        h = torch.einsum("rd,rkhd->rkh", x, self.w1[index]) + self.b1[index]
        y = torch.einsum("rkh,rkdh->rkd", functional.silu(h), self.w2[index]) + self.b2[index]
        return torch.einsum("rkd,rk->rd", y, weight)


class DenseOther(Stacked):
    def mix(self, x, weight, index):
        gates = torch.zeros(x.shape[0], EXPERTS).scatter(-1, index, weight)
        h = torch.einsum("rd,ehd->reh", x, self.w1) + self.b1
        y = torch.einsum("reh,edh->red", functional.silu(h), self.w2) + self.b2
        return torch.einsum("red,re->rd", y, gates.flip(-1))


class MaskedOther(Modules):
    def mix(self, x, weight, index):
        return sum(
            (weight.flip(-1) * (index == number)).sum(-1, keepdim=True) * expert(x)
            for number, expert in enumerate(self.experts)
        )


class MaskOfThree(Modules):
    """Weights of two experts among three that are looked for."""

    def mix(self, x, weight, index):
        three = self.gate(x).topk(3, -1)[1]
        gates = torch.zeros(x.shape[0], EXPERTS).scatter(-1, index, weight)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, _ = torch.where(three == number)
            y[row] += gates[row, number, None] * expert(x[row])
        return y


class ResultsOfOther(Modules):
    def mix(self, x, weight, index):
        y = torch.stack([expert(x) for expert in self.experts], dim=1)
        y = y.flip(0).gather(1, index.unsqueeze(-1).expand(-1, -1, DIM))
        return (y * weight.unsqueeze(-1)).sum(1)


class OnePlaceTwice(Stacked):
    """The best expert of the three that are chosen, twice, and the second."""

    def mix(self, x, weight, index):
        y = 0
        for place in (0, 0, 1):
            chosen = index[:, place]
            h = torch.bmm(self.w1[chosen], x.unsqueeze(-1)).squeeze(-1) + self.b1[chosen]
            one = torch.bmm(self.w2[chosen], functional.silu(h).unsqueeze(-1)).squeeze(-1) + self.b2[chosen]
            y = y + one * weight[:, place, None]
        return y


class OnePlaceMissing(Stacked):
    """Two of three places."""

    def mix(self, x, weight, index):
        y = 0
        for place in range(self.k - 1):
            chosen = index[:, place]
            h = torch.bmm(self.w1[chosen], x.unsqueeze(-1)).squeeze(-1) + self.b1[chosen]
            one = torch.bmm(self.w2[chosen], functional.silu(h).unsqueeze(-1)).squeeze(-1) + self.b2[chosen]
            y = y + one * weight[:, place, None]
        return y
