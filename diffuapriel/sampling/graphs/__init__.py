"""Generations whose steps never wait for the host."""
