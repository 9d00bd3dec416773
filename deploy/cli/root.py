"""The root of the `tidegate` command: the table of commands, and what errors exit with.

A command returns None or 0 when all is fine and 1 when the thing it checked is not. It raises for
everything else; `faults` turns what an operator can mend into one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from deploy.cli import faults
from deploy.cli.target import Invocation

# name: (module:attribute, what it does). One line a command; the module is imported when used.
COMMANDS = {
    "demo": ("deploy.cli.demo:demo", "Replay the Qwen campaign on this machine, and audit it."),
    "dev": ("deploy.cli.dev:dev", "Start everything on this machine, for development."),
    "chaos": (
        "deploy.cli.chaos:chaos",
        "Break a cluster of its own in planned ways, then judge it.",
    ),
    "load": ("deploy.cli.load:load", "Send a profile's load, and check that its answers add up."),
    "api": ("deploy.cli.processes:api", "Serve the HTTP API."),
    "worker": ("deploy.cli.processes:worker", "Decide intents, batch by batch."),
    "governor": (
        "deploy.cli.processes:governor",
        "Measure the load; tell every gate how much to let in.",
    ),
    "redispatcher": (
        "deploy.cli.processes:redispatcher",
        "Hint again at what was left behind; expire orders.",
    ),
    "relay": ("deploy.cli.processes:relay", "Deliver events to the gateways' endpoints."),
    "exporter": (
        "deploy.cli.processes:exporter",
        "Show Prometheus what the tables say.",
    ),
    "migrate": ("deploy.cli.migrate:migrate", "Bring the database to this version's schema."),
    "campaign": (
        "deploy.cli.campaign:campaign",
        "Apply and show campaigns, issue, pause and extend their coupons.",
    ),
    "merchant": ("deploy.cli.merchant:merchant", "Pause and resume merchants."),
    "level": (
        "deploy.cli.level:level",
        "Show the overload level; order another, or lift the order.",
    ),
    "gateway": ("deploy.cli.gateway:gateway", "Make gateways, their keys and quotas."),
    "webhook": ("deploy.cli.webhook:webhook", "Register endpoints, test them, deliver again."),
    "top": ("deploy.cli.top:top", "Show level, rates, waits, queue, stock and budget, live."),
    "runbook": ("deploy.cli.runbook:runbook", "Take the first look at an alert, by its runbook."),
    "scrape-targets": (
        "deploy.cli.scrape:scrape_targets",
        "Tell Prometheus where the processes of `tidegate dev` are.",
    ),
    "doctor": ("deploy.cli.doctor:doctor", "Check every dependency and setting."),
    "audit": ("deploy.cli.audit:audit", "Prove the promises from the tables alone."),
    "intent": ("deploy.cli.intent:intent", "Tell the whole story of one intent."),
    "quarantine": (
        "deploy.cli.quarantine:quarantine",
        "Intents that could not be processed: list, show, retry.",
    ),
    "prune": ("deploy.cli.prune:prune", "Remove journal, outcomes and keys past their retention."),
    "config": ("deploy.cli.config:config", "Show the effective settings."),
}

_HELP = """Turn each purchase intent into exactly one told outcome.

Settings come from the command line, the environment (TIDEGATE_…), a TOML file, defaults, in this
order. Exit codes: 0 fine, 1 the thing checked is not fine, 2 wrong usage, 3 a dependency cannot be
reached."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the table's order: the usual ones first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest one that is spelled alike."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as unknown:
            raise click.exceptions.NoSuchCommand(
                unknown.command_name, possibilities=list(COMMANDS), ctx=ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, help=_HELP)
@click.version_option(package_name="tidegate")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML); else the one named by TIDEGATE_CONFIG.",
)
@click.pass_obj
def cli(invocation: Invocation, config_file: Path | None) -> None:
    """Keep what all commands share."""
    from config import logging

    # Standard output is for results; `api`, `worker` and their like have none, and say so themselves.
    logging.configure("tidegate", "warning", "text", to="stderr")
    invocation.config_file = config_file


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    invocation = Invocation()
    try:
        code = cli.main(arguments, prog_name="tidegate", standalone_mode=False, obj=invocation)
    except click.ClickException as wrong:
        wrong.show()
        code = wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        explained = faults.explain(error, invocation.settings)
        if explained is None:
            raise
        click.echo(f"tidegate: {explained.line}", err=True)
        code = explained.exit_code
    sys.exit(code)
