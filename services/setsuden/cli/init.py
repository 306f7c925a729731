"""``setsuden init``: files to start from, every option in them with its meaning and default."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from setsuden.schemas.errors import SetsudenError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .options import Option, Table

WIDTH = 98
BUNDLE_FILES = ("bundle.toml", "student.onnx", "teacher.onnx", "teacher-int8.onnx")
DEVICE = "device-1"
_HEAD = """\
# {title}
#
# Every option is here. Lines that begin with "#name =" show the default: remove the "#" to set
# another. Flags (--set http.port=0) win over the environment (SETSUDEN_HTTP__PORT=0), that over
# this file. `setsuden validate {name}` checks it.
"""
_BROKER = """\
# A NATS server that Setsuden's strict durability accepts: it acknowledges an event when its disk
# has it. Start it in this folder: nats-server -c nats.conf
listen: 127.0.0.1:4222
http: 127.0.0.1:8222
max_payload: 1MB
jetstream {
  store_dir: "./nats"
  sync_interval: always
}
"""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--pipeline", default="digits", show_default=True, help="The pipeline's name.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def init(folder: Path, pipeline: str, force: bool) -> None:
    """Write agent.toml, cloud.toml, a broker's configuration and a bundle into DIR.

    The bundle is a copy of the built-in `digits`: a student and two teachers that read
    handwritten digits. Put your own ONNX files beside its manifest to make it yours.
    """
    written = contents(pipeline)
    bundle = folder / "bundles" / pipeline
    targets = [folder / name for name in written] + [bundle / name for name in BUNDLE_FILES]
    _refuse_existing(targets, force=force)
    bundle.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    _copy_bundle(bundle)
    for target in targets:
        click.echo(target)
    click.echo(_next(folder, pipeline), err=True)


def contents(pipeline: str) -> dict[str, str]:
    """The text of each file, by name; raises ConfigError for a name that cannot be one."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    from setsuden.edge_agent.config import AgentConfig  # noqa: PLC0415
    from setsuden.schemas.base import TOKEN_PATTERN, Token  # noqa: PLC0415
    from setsuden.services.config import CloudConfig  # noqa: PLC0415

    try:
        TypeAdapter(Token).validate_python(pipeline)
    except ValidationError as error:
        raise click.BadParameter(
            f"{pipeline!r} does not match {TOKEN_PATTERN}", param_hint="--pipeline"
        ) from error
    common: dict[str, Any] = {
        "pipelines.name": pipeline,
        "pipelines.bundle": f"bundles/{pipeline}",
        "nats.monitor_url": "http://127.0.0.1:8222",
    }
    agent = common | {"device": DEVICE, "state": "state/agent"}
    cloud = common | {"state": "state/cloud"}
    return {
        "agent.toml": config_text("Setsuden edge agent", "agent.toml", AgentConfig, agent),
        "cloud.toml": config_text("Setsuden cloud tier", "cloud.toml", CloudConfig, cloud),
        "nats.conf": _BROKER,
    }


def config_text(title: str, name: str, model: type[BaseModel], chosen: Mapping[str, object]) -> str:
    """A configuration file with every option; ``chosen`` ones are set, by their dotted path."""
    from .options import all_tables, table_of  # noqa: PLC0415

    parts = [_HEAD.format(title=title, name=name)]
    parts += [_table_text(table, chosen) for table in all_tables(table_of(model))]
    return "\n".join(parts)


def _table_text(table: Table, chosen: Mapping[str, object]) -> str:
    lines: list[str] = []
    mark = "#" if table.optional else ""
    if table.path:
        header = ".".join(table.path)
        lines += _comment(table.meaning)
        lines.append(f"[[{header}]]" if table.repeated else f"{mark}[{header}]")
    for option in table.options:
        lines += _option_lines(option, chosen, mark)
    return "\n".join(lines) + "\n"


def _option_lines(option: Option, chosen: Mapping[str, object], mark: str) -> list[str]:
    from .output import toml  # noqa: PLC0415

    value = chosen.get(".".join(option.path))
    if value is None:
        value, mark = option.default, "#"
    line = f"{mark}{option.name} ={'' if value is None else f' {toml(value)}'}"
    allowed = _allowed(option)
    return [*_comment(option.meaning), f"{line}  # {allowed}" if allowed else line]


def _allowed(option: Option) -> str:
    """What may stand there, where the default does not show it."""
    kind = "" if option.default is not None and " or " not in option.type else option.type
    state = "required" if option.required else "" if option.default is not None else "no default"
    return ", ".join(part for part in (kind, option.bounds, state) if part)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False
    )


def _refuse_existing(targets: list[Path], *, force: bool) -> None:
    existing = [str(target) for target in targets if target.exists()]
    if existing and not force:
        raise SetsudenError(
            "\n".join(["these files exist, and nothing was written:", *existing]),
            remedy="choose another folder, or --force to overwrite them",
        )


def _copy_bundle(folder: Path) -> None:
    with as_file(files("setsuden.pipelines.workloads") / "digits") as source:
        for name in BUNDLE_FILES:
            shutil.copyfile(source / name, folder / name)


def _next(folder: Path, pipeline: str) -> str:
    return f"""
Next, in {folder}, each in a terminal of its own (`setsuden doctor --config agent.toml` helps):

  nats-server -c nats.conf
  setsuden worker run --config cloud.toml
  setsuden agent run --config agent.toml

Then send an event, 28 x 28 bytes of a black image:

  head -c 784 /dev/zero | setsuden event pub {pipeline} --device {DEVICE} -"""
