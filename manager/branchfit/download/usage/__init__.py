"""What takes how much disk, and what earlier clients left behind."""
