"""What a deployment is watched by: objectives, alerts and dashboards, written from a few tables.

    objectives.toml ─┐
    causes.py        ├─▶ python -m deploy.monitoring ─▶ rules/ alerts/ dashboards/
    boards/*.py     ─┘

Everything here is pure; `writing` alone touches files.
"""
