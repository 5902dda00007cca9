"""A small language model whose table is embedding and head, and its training with SALAAD."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slc.compiler.structure.salaad import Salaad

EPS = np.finfo(np.float32).eps


class Tied(nn.Module):
    """A language model whose table is embedding and head."""

    def __init__(self, tied: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.q_proj = nn.Linear(16, 24, bias=False)
        self.k_proj = nn.Linear(16, 8, bias=False)
        self.up = nn.Linear(32, 16)
        self.gate = nn.Linear(16, 1)  # one row
        self.head = nn.Linear(16, 48, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.to(dtype)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        h = torch.tanh(self.up(torch.cat([self.q_proj(x), self.k_proj(x)], -1)))
        return self.head(x + h * torch.sigmoid(self.gate(x)))


def train(
    model: Tied,
    salaad: Salaad,
    first: int,
    last: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[list[float], torch.optim.Optimizer]:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 48, (4, 9), generator=generator)
        logits = model(ids[:, :-1]).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        salaad.add_gradient()
        optimizer.step()
        salaad.step(loss)
        losses.append(loss.item())
    return losses, optimizer
