"""State-space duality: the Mamba-2 scan behind one function, `ssd`, and its bidirectional form."""

from diffuapriel.ssd.dispatch import BACKENDS, choose_backend, ssd, ssd_bidirectional

__all__ = ["BACKENDS", "choose_backend", "ssd", "ssd_bidirectional"]
