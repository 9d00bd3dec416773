"""Use cases: gather, decide, apply."""
