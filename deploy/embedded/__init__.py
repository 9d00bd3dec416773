"""Embedded servers and their supervision: a whole Tidegate from wheels, without Docker or root."""
