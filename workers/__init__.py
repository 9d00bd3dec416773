"""The truth: rules, what crosses processes, PostgreSQL, use cases, entry points."""
