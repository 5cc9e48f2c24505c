"""The guide's import paths."""
