"""Where the user's own files lie."""

from pathlib import Path


def resolve_user_data_dir():
    return Path("user_data")
