"""The forward process and the objective of masked diffusion."""
