"""The command tree, and how a process of it ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from setsuden.process import quiet  # noqa: F401  # before any command imports what reports home

from .failure import colour, report
from .lazy import CommandPlace, LazyGroup
from .output import tolerate_any_terminal

COMMANDS = {
    "demo": CommandPlace("setsuden.cli.demo:demo", "Run real events through a real cascade here."),
    "init": CommandPlace(
        "setsuden.cli.init:init", "Write commented configuration files and a bundle."
    ),
    "validate": CommandPlace(
        "setsuden.cli.validate:validate", "Check configuration files and bundles."
    ),
    "doctor": CommandPlace("setsuden.cli.doctor:doctor", "Check this machine, and say what to do."),
    "agent": CommandPlace("setsuden.cli.run:agent", "Run the edge agent."),
    "worker": CommandPlace("setsuden.cli.run:worker", "Run a teacher worker without Ray."),
    "cloud": CommandPlace("setsuden.cli.run:cloud", "Run teachers on Ray Serve; set up streams."),
    "event": CommandPlace("setsuden.cli.event:event", "Send an event and see its answers."),
    "trace": CommandPlace("setsuden.cli.trace:trace", "Read, check and draw the traces of events."),
    "energy": CommandPlace(
        "setsuden.cli.energy.group:energy", "Joules of this machine: find, calibrate."
    ),
    "report": CommandPlace("setsuden.cli.run_report:report", "Joules, euros and grams of a run."),
    "config": CommandPlace("setsuden.cli.config:config", "Show what a configuration amounts to."),
    "completion": CommandPlace(
        "setsuden.cli.main:completion", "Print a shell's completion script."
    ),
}
"""In the order in which a newcomer needs them."""


@dataclass(slots=True)
class Invocation:
    """What the root command was told that its end must know."""

    debug: bool = False


@click.group(
    "setsuden",
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="setsuden", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, envvar="SETSUDEN_DEBUG", help="Show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Setsuden answers events on the device and sends hard cases to the cloud.

    \b
    Begin with:
      setsuden demo                a fleet on this machine, 500 real images
      setsuden init meter          files to start from
      setsuden validate meter/*.toml
      setsuden doctor --config meter/agent.toml

    Exit codes: 0 ok, 1 failed, 2 usage, 69 broker unreachable, 78 bad configuration,
    130 interrupted.
    """  # noqa: D301  # \b is click's mark for a block it must not fill
    ctx.color = colour()
    ctx.ensure_object(Invocation).debug = debug


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
    from click.shell_completion import get_completion_class  # noqa: PLC0415  # a shell asks for it

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "setsuden", "_SETSUDEN_COMPLETE").source())


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    invocation = Invocation()
    try:
        code = cli.main(
            list(arguments), prog_name="setsuden", standalone_mode=False, obj=invocation
        )
    except SystemExit:
        raise
    except BaseException as error:  # the process ends here, so every error is told here
        return report(error, as_json="--json" in arguments, debug=invocation.debug)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The ``setsuden`` command."""
    tolerate_any_terminal()
    # Held-back signals are inherited: a parent must not make us deaf to a request to end.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
