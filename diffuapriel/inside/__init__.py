"""What the denoiser does at one step: noise level, memory, influence, attention, modulation.

Everything is read off the running model by hooks; nothing in `diffuapriel.model` knows of it. A text is looked at as
the sampler would ask for it: ids (length,) with [MASK]s among them, told the noise level sigma = -log alpha.
"""

from diffuapriel.inside.attention_maps import attention_map
from diffuapriel.inside.influence import Influence, gradient_influence, occlusion_influence
from diffuapriel.inside.level import open_gates, time_of_text
from diffuapriel.inside.memory import LayerMemory, head_memory
from diffuapriel.inside.modulation import modulation_over_time

__all__ = [
    "Influence",
    "LayerMemory",
    "attention_map",
    "gradient_influence",
    "head_memory",
    "modulation_over_time",
    "occlusion_influence",
    "open_gates",
    "time_of_text",
]
