"""Settings, logging and failpoints. A leaf: imports nothing else of Tidegate."""
