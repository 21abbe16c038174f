"""The checkers of lessons 09 to 12, one module per lesson."""
