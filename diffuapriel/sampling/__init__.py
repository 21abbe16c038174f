"""Sampling: from a canvas with holes to text, step by step.

canvas.py       what is given and what is to be filled
options.py      SamplerConfig, checked
strategies.py   which holes to fill now: eight strategies, of the whole canvas or block by block
draw.py         which token goes in: filters and exact float64 draws
noise.py        the random numbers of a step
state.py        the state between two steps
sampler.py      the loop
device.py       the same on a GPU, without waiting for it (plan.py, feed.py, graph.py, head_scores.py, head_kernel.py)
frames.py       a step as plain values, for every screen
steering.py     a run in a person's hands: edits between steps, branches
trace.py        a recorded run: JSON, HTML, GIF (schema.py, gif.py)
"""

from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.frames import StepFrame, frame_to_dict
from diffuapriel.sampling.noise import Noise
from diffuapriel.sampling.options import STRATEGIES, SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.state import State
from diffuapriel.sampling.steering import Steered
from diffuapriel.sampling.trace import Trace

__all__ = [
    "STRATEGIES",
    "Canvas",
    "Noise",
    "Sampler",
    "SamplerConfig",
    "State",
    "Steered",
    "StepFrame",
    "Trace",
    "frame_to_dict",
]
