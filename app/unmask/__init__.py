"""The Unmask tab."""
