"""The operators' console: one page, what it shows once a second, and the levers behind it."""
