"""SALAAD in a transformers Trainer.

    salaad = Salaad(model, every=10)
    trainer = Trainer(model, …, callbacks=[SalaadCallback(salaad)])
    trainer.train()                       # and trainer.train(resume_from_checkpoint=True)

A callback can't add to the loss, so the penalty's gradient is added after the loss's gradient was
clipped and before the optimizer's step. The state goes into every checkpoint folder beside the
Trainer's own, as salaad.pt, and is taken up again when training resumes from there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from slc.compiler.errors import ModelError
from slc.compiler.structure.salaad import Salaad

STATE_FILE = "salaad.pt"


class SalaadCallback(TrainerCallback):
    """Runs a `Salaad` along with a Trainer.

    Args:
      salaad: made of the Trainer's model.
      resume_from: the checkpoint folder that `trainer.train(resume_from_checkpoint=…)` is given;
        needed only if it is not the last one of the Trainer's output folder.
    """

    def __init__(self, salaad: Salaad, resume_from: str | Path | None = None) -> None:
        self.salaad = salaad
        self._resume_from = resume_from

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes up the saved state when the Trainer goes on from a checkpoint."""
        if state.global_step == 0 or state.global_step == self.salaad.steps:
            return
        folder = self._resume_from or get_last_checkpoint(args.output_dir)
        file = Path(folder or args.output_dir) / STATE_FILE
        saved = re.fullmatch(r"checkpoint-(\d+)", file.parent.name)
        if not file.is_file() or (saved and int(saved[1]) != state.global_step):
            raise ModelError(
                f"training goes on at step {state.global_step} and {str(file)!r} is not SALAAD's "
                "state of that step: give SalaadCallback the folder as resume_from"
            )
        self.salaad.load_state_dict(torch.load(file, weights_only=True))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds the penalty's gradient."""
        self.salaad.add_gradient()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts the step and does the pass that is due."""
        self.salaad.step()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Refuses a loss that is not finite; adds rank ratio, density and the like, and cost."""
        if logs is None:
            return
        if "loss" in logs:
            self.salaad.check_loss(logs["loss"])
        summary = self.salaad.summary() | {"seconds_per_step": self.salaad.seconds_per_step()}
        figures = {f"salaad_{name}": value for name, value in summary.items()}
        logs.update(figures)
        if state.log_history:  # the Trainer has put its copy there before it calls back
            state.log_history[-1].update(figures)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the state beside the Trainer's checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self.salaad.state_dict(), folder / STATE_FILE)
