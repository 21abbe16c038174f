"""The race part of the app."""
