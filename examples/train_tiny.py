"""Train a small model on one-sentence stories for a few steps, then let it write.

With `steps=1500`, a few minutes on a laptop, it writes sentences.
"""

import sys

from diffuapriel import pipeline
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
config = TrainConfig(preset="nano", corpus="tales:1", length=32, batch_size=16, steps=steps, folder="runs/tiny")
result = train(config)
print(f"{result.tokens:,} tokens, held-out NELBO {result.validation.nats_per_token:.2f} nats/token")
print(pipeline(result.checkpoint)(length=32, seed=1))
