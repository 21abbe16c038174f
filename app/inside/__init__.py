"""The inside part of the app."""
