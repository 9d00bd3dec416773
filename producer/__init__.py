"""The intake: admission, journal, publishing, and the HTTP API."""
