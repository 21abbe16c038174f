"""The head of the model and the scores of its logits, without a tensor of all logits."""
