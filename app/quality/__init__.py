"""The quality part of the app."""
