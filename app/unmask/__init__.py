"""The unmask part of the app."""
