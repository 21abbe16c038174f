"""What the denoiser does at one step, read from the running model by hooks: `diffuapriel.model` knows nothing of it.

A text is looked at as the sampler presents it: ids (length,) with [MASK]s, and the noise level sigma = -log alpha.
"""
