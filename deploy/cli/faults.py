"""Errors that an operator can mend, each as one line and an exit code.

What is not listed here is a bug and keeps its traceback. Libraries are recognised only when they
are loaded: an error of psycopg cannot come from a command that never imported it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from config.settings import Settings, SettingsError, redact_url

NOT_FINE = 1
WRONG_USAGE = 2
UNREACHABLE = 3

_UNMIGRATED = ("42P01", "3F000", "42883")  # no such table, schema, function
_UNPRIVILEGED = "42501"
# Of psycopg's OperationalErrors those that say "no connection": class 08, shutdown, start-up, and
# too many connections. A failed connection attempt carries no SQLSTATE.
_NO_CONNECTION = ("08", "57P", "53300")


@dataclass(frozen=True)
class Explained:
    """What to print and how to exit."""

    exit_code: int
    line: str


def explain(error: Exception, settings: Settings | None) -> Explained | None:
    """Say what an error means to an operator; None for a bug."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, SettingsError):
        return Explained(WRONG_USAGE, str(error))
    if name in _PLAIN:
        return Explained(_PLAIN[name], str(error))
    settings = settings or Settings()
    return _postgres(error, settings) or _valkey(error, settings) or _network(error)


# Errors of ours whose message says it all.
_PLAIN = {
    "deploy.cli.target.NoClusterError": UNREACHABLE,
    "deploy.embedded.errors.EmbeddedError": NOT_FINE,
    "config.failpoints.FailpointSpecError": WRONG_USAGE,
    "deploy.campaigns.couponfile.CouponFileError": NOT_FINE,
    "workers.domain.campaign_faults.CampaignFileError": NOT_FINE,
    "workers.store.gateways.GatewayError": NOT_FINE,
    "workers.store.issuing.IssuingError": NOT_FINE,
    "workers.store.migrate.MigrationError": NOT_FINE,
    "workers.store.webhooks.WebhookError": NOT_FINE,
}


def _postgres(error: Exception, settings: Settings) -> Explained | None:
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate
    why = " ".join(str(error).split())
    if isinstance(error, psycopg.OperationalError) and (
        state is None or state.startswith(_NO_CONNECTION)
    ):
        where = redact_url(settings.postgres.dsn)
        mend = "start it, or correct TIDEGATE_POSTGRES__DSN"
        return Explained(UNREACHABLE, f"cannot reach PostgreSQL at {where} ({why}); {mend}")
    if state in _UNMIGRATED:
        return Explained(NOT_FINE, f"the database lacks our schema ({why}); run `tidegate migrate`")
    if state == _UNPRIVILEGED:
        mend = "connect as the database's owner, or grant the role"
        return Explained(NOT_FINE, f"not allowed in PostgreSQL ({why}); {mend}")
    return None


def _valkey(error: Exception, settings: Settings) -> Explained | None:
    redis, kombu = sys.modules.get("redis"), sys.modules.get("kombu.exceptions")
    if redis is not None and isinstance(error, redis.ConnectionError | redis.TimeoutError):
        where, what, variable = settings.valkey.url, "Valkey", "TIDEGATE_VALKEY__URL"
    elif kombu is not None and isinstance(error, kombu.OperationalError):
        where, what, variable = settings.broker_url, "the broker", "TIDEGATE_BROKER__URL"
    else:
        return None
    mend = f"start it, or correct {variable}"
    return Explained(UNREACHABLE, f"cannot reach {what} at {redact_url(where)} ({error}); {mend}")


def _network(error: Exception) -> Explained | None:
    if isinstance(error, ConnectionError | TimeoutError):
        return Explained(UNREACHABLE, f"cannot reach the other side ({error}); is it running?")
    return None
