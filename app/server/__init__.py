"""The server side that the tabs share: models, limits, cancellation, error handling."""
