"""The embedded language models: one that reads from the left, one that uncovers masked words."""
