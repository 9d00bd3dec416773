"""`python -m deploy.cli`: the command without its script, for children of an embedded cluster."""

from __future__ import annotations

from deploy.cli import main

main()
