"""The server part of the app."""
