"""Interpretability: what the denoiser does in one step, read from the running model by hooks.

A text is presented as the sampler presents it: ids (length,) with [MASK]s, and the noise level sigma = -log alpha.
`diffuapriel.model` knows nothing of this package.
"""
