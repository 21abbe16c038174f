"""The checkers of lessons 09 to 13, one module per lesson."""
