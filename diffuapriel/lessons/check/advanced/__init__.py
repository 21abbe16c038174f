"""The checkers of lessons 09 to 11, one module per lesson."""
