"""The texts of the page, by language."""
