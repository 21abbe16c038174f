"""`diffuapriel bench --gpu`: every part measured against its strongest peer on one NVIDIA GPU."""
