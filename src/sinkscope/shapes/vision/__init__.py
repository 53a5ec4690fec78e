"""The embedded vision transformers, without and with registers."""
