"""Training: the loop (`loop.train`), its options (`config.TrainConfig`) and the recipes of the bundled models."""
