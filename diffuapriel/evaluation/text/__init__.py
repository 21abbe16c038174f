"""Free text: how varied and how much its own a model's samples are, and tasks made from held-out text."""
