"""A command group that imports a subcommand when it runs, and a plain word when it cannot."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from setsuden.schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class CommandPlace(NamedTuple):
    """Where a command is written, and its one line in the list of commands."""

    target: str
    """``module:attribute``."""
    short_help: str


class LazyGroup(click.Group):
    """Lists its commands from a table, so that ``--help`` imports none of them."""

    def __init__(self, *args: Any, table: Mapping[str, CommandPlace], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """The table's order, which is the order of use."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """The command, imported now."""
        place = self.table.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.short_help) for name, place in self.table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named first; another name is refused with the nearest right one."""
        name = args[0]
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.table, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, then options; imports no command."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # a shell asks for it

        found = [
            CompletionItem(name, help=place.short_help)
            for name, place in self.table.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn an import that fails inside into MissingExtraError with the command that mends it."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.split(".")[0] in {"", "setsuden"}:
            raise
        raise MissingExtraError(
            f"{name} is not installed", remedy=f"pip install 'setsuden[{extra}]'"
        ) from error


def quiet_logs() -> None:
    """Keep the library's log out of a command whose own words say what happened."""
    logging.getLogger("setsuden").addHandler(logging.NullHandler())
