"""Studies of vision transformers."""
