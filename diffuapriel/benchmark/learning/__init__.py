"""Which backbone learns better? Equal parameters and tokens, a tuned learning rate each, several seeds."""
