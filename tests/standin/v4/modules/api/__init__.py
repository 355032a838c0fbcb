"""The API of v4.7.3."""
