"""The dashboards, a table of panels each."""
