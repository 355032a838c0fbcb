"""The v3.23 host's own code, in its shape."""
