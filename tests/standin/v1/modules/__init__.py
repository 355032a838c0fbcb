"""The v1.7 host's own code, in its shape."""
