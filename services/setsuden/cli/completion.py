"""``setsuden completion``: what a shell must read to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
      eval "$(setsuden completion bash)"     in ~/.bashrc
      eval "$(setsuden completion zsh)"      in ~/.zshrc
      setsuden completion fish > ~/.config/fish/completions/setsuden.fish
    """  # noqa: D301  # \b is click's mark for a block it must not fill
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "setsuden", "_SETSUDEN_COMPLETE").source())
