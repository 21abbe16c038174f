"""The parts of `diffuapriel bench` for a CPU."""
