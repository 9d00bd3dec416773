"""The HTTP API: routes, problems, resources, OpenAPI."""
