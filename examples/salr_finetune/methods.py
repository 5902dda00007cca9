"""The methods that are compared: each prepares a fresh MiniLM for the same training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from slc.compiler.structure.salr_peft import Salr

TARGETS = r"encoder\..*\.(query|key|value|dense)"  # all 36 projections, not the unused pooler


@dataclasses.dataclass(frozen=True)
class Method:
    """What is done to the base, and what is trained beside the head."""

    title: str
    density: float | None = None  # None: the base stays dense
    lora_rank: int | None = 16  # None: only the head is trained
    residual_rank: int = 0
    train_residual: bool = True


METHODS = {
    "untuned": Method("untuned, head only", lora_rank=None),
    "lora": Method("LoRA on the dense base"),
    "salr": Method("SALR: masked base, trained residual, LoRA", 0.5, 16, 64),
    "frozen": Method("SALR with the residual frozen", 0.5, 16, 64, train_residual=False),
    "pruned": Method("masked base, LoRA, no residual", 0.5, 16),
    "pruned80": Method("masked base, LoRA of rank 16 + 64, no residual", 0.5, 80),
}


def prepare(method: Method, folder: Path, lr: float) -> tuple[Any, Salr | None, list[Any]]:
    """(model, its Salr if masked, parameter groups) of a method; LoRA's alpha is twice its rank."""
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    if method.lora_rank is None:
        return base.requires_grad_(False), None, []
    config = LoraConfig(r=method.lora_rank, lora_alpha=2 * method.lora_rank, target_modules=TARGETS)
    model = get_peft_model(base, config)
    if method.density is None:
        params = [p for p in model.parameters() if p.requires_grad]
        return model, None, [{"params": params, "lr": lr, "weight_decay": 0.0}]
    salr = Salr(
        model, density=method.density, rank=method.residual_rank,
        train_residual=method.train_residual,
    )  # fmt: skip
    # A step of AdamW moves B·A by about its size times the rank: alike for residual and LoRA.
    residual_lr = lr * method.lora_rank / max(1, method.residual_rank)
    return model, salr, salr.parameter_groups(lr, residual_lr=residual_lr)
