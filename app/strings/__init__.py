"""The strings part of the app."""
