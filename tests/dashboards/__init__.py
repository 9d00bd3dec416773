"""The dashboards of `deploy/monitoring`, shown by a real Prometheus beside a real `tidegate dev`."""
