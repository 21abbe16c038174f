"""The log for TensorBoard, beside log.jsonl, which stays the record: `tensorboard --logdir runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = {
    "loss": "training/nats a token",
    "norm": "training/norm of the gradient",
    "learning_rate": "training/learning rate",
    "validation": "held-out text/nats a token",
    "floor": "held-out text/entropy",
    "gap": "held-out text/gap",
    "tokens_per_second": "speed/tokens a second",
    "mfu": "speed/model FLOP utilisation",
}


class Board:
    """Event files in `folder`; opening it at `step` hides what a killed run wrote after that step."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("logs for TensorBoard need tensorboard: pip install tensorboard") from None
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, record: dict[str, Any]) -> None:
        """One curve for every figure of a record {"step": ..., "loss": ..., ...} that is known."""
        for key, name in NAMES.items():
            if record.get(key) is not None:
                self.writer.add_scalar(name, record[key], record["step"])

    def close(self) -> None:
        """Write what is waiting."""
        self.writer.close()
