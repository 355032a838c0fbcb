"""Outputs of hardware and drivers, recorded or written from documentation; README.md says which is which."""
