"""State-space duality: the Mamba-2 scan behind one function, `ssd`, and its bidirectional form."""

from diffuapriel.ssd.dispatch import BACKENDS, choose_backend, ssd, ssd_bidirectional
from diffuapriel.ssd.segments import document_segments

__all__ = ["BACKENDS", "choose_backend", "document_segments", "ssd", "ssd_bidirectional"]
