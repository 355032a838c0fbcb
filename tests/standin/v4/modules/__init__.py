"""The v4.7.3 host's own code, in its shape."""
