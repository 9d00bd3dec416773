"""Runbooks: one page for each alert, `ALERT.md`, and what runs the first look of one."""
