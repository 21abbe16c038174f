"""Train a small model of blocks for a few steps, and write with it: block after block, and without end."""

import itertools
import sys

from diffuapriel import pipeline
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
config = TrainConfig(
    preset="nano",
    corpus="tales:1",
    length=32,
    batch_size=16,
    steps=steps,
    block_lengths="1,4,16,0",  # one model: 1 is autoregressive, 0 the whole text at once
    folder="runs/blocks",
)
pipe = pipeline(train(config).checkpoint)
for block_length in (1, 4, 16, 0):
    output = pipe(length=32, block_length=block_length, strategy="threshold", seed=1, return_trace=True)
    print(f"blocks of {block_length or 32}, {output.traces[0].frames[-1].nfe} passes: {output.texts[0].strip()}")
for piece in itertools.islice(pipe.write(block_length=4), 20):
    print(piece, end="", flush=True)  # as long as one likes: the cache has a constant size
print()
