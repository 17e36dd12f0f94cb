"""Lists of concept words to learn from."""
