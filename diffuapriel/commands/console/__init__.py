"""What the commands share: writing figures to files, and what a terminal can show."""
