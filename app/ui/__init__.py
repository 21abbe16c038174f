"""The ui part of the app."""
