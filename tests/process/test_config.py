"""Configuration files: layers, lines, nearest names, and that nothing else moves."""

from __future__ import annotations

import copy
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from setsuden.cli.output import toml, toml_key
from setsuden.edge_agent.config import AgentConfig
from setsuden.process.config import (
    Document,
    load_toml,
    origin_of,
    parse,
    problems,
    validate,
    with_environment,
    with_flag,
    with_value,
)
from setsuden.process.toml_places import line_of, place_of, places
from setsuden.schemas.bundle import Manifest
from setsuden.schemas.errors import BundleError, ConfigError
from setsuden.schemas.redact import masked
from setsuden.services.config import CloudConfig

AGENT = """\
device = "meter-1"

[nats]
urls = [
  "nats://one:4222",
  "nats://two:4222",
]

[[pipelines]]
name = "digits"
bundle = "bundles/digits"

[[pipelines]]
name = "motion"
bundle = "bundles/motion"
gate = { escalate = 0.2 }
"""


def document(text: str = AGENT) -> Document:
    return parse(Path("agent.toml"), text)


def words(text: str) -> list[str]:
    return [str(problem) for problem in problems(AgentConfig, document(text))]


def effective(text: str = AGENT, **environment: str) -> AgentConfig:
    laid = with_environment(document(text), environment, AgentConfig)
    return validate(AgentConfig, laid)


# -- problems ---------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_right_one() -> None:
    assert words(AGENT + "[http]\nprt = 1\n") == [
        "agent.toml:18: unknown key 'http.prt', did you mean 'port'?"
    ]


def test_a_key_in_the_wrong_table_is_told_its_place() -> None:
    assert words(AGENT + "[http]\neasy_share = 0.5\n") == [
        "agent.toml:18: unknown key 'http.easy_share', did you mean 'traces.easy_share'?"
    ]


def test_a_key_that_resembles_nothing_gets_no_advice() -> None:
    assert words(AGENT + "[http]\nxyzzy = 1\n") == ["agent.toml:18: unknown key 'http.xyzzy'"]


def test_a_model_named_like_an_option_does_not_confuse_the_nearest_name() -> None:
    """The bundle's models are called as the user likes, ``file`` too."""
    text = '[models.file]\nfiel = "x.onnx"\n'
    found = [str(problem) for problem in problems(Manifest, parse(Path("bundle.toml"), text))]
    assert "bundle.toml:2: unknown key 'models.file.fiel', did you mean 'file'?" in found


def test_every_problem_is_reported_at_once_and_none_twice() -> None:
    text = 'devise = "x"\n[[pipelines]]\nname = "a b"\n[http]\nport = 70000\n'
    assert sorted(words(text)) == [
        "agent.toml: device: is required",
        "agent.toml:1: unknown key 'devise', did you mean 'device'?",
        "agent.toml:2: pipelines.0.bundle: is required",
        "agent.toml:3: pipelines.0.name: String should match pattern '^[A-Za-z0-9_-]{1,64}$'",
        "agent.toml:5: http.port: Input should be less than or equal to 65535",
    ]


def test_a_value_inside_an_inline_table_is_found_by_line_and_column() -> None:
    assert place_of(AGENT, ("pipelines", 1, "gate", "escalate")) == (16, 10)


def test_a_missing_key_points_at_the_table_that_lacks_it() -> None:
    assert line_of(AGENT, ("pipelines", 1, "limits", "max")) == 13


def test_lines_inside_strings_and_arrays_are_no_tables() -> None:
    text = 'a = """\n[b]\nc = 1\n"""\nd = [\n  [1, 2]\n]\n[b]\nc = 2\n'
    assert [line_of(text, path) for path in (("b", "c"), ("d",), ("d", 0, 1))] == [9, 5, 6]


def test_quoted_and_dotted_keys_are_found() -> None:
    text = '"a.b".c = 1\n[x."y z".w]\nv = 1\n'
    assert line_of(text, ("a.b", "c")) == 1
    assert line_of(text, ("x", "y z", "w", "v")) == 3


def test_a_validator_s_message_comes_without_pydantic_s_prefix() -> None:
    text = AGENT.replace("motion", "digits")
    assert words(text) == ["agent.toml: two pipelines have the same name"]


def test_a_file_that_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('device = "a"\n[nats\n')
    with pytest.raises(ConfigError, match=r"agent\.toml:2: no TOML"):
        load_toml(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (1 << 20) + b"x"], ids=["bytes", "large"])
def test_what_is_no_text_or_too_large_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"agent\.toml"):
        load_toml(path, BundleError)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    """Windows editors write one; line and column stay what the person sees."""
    path = tmp_path / "agent.toml"
    path.write_text("\ufeff" + AGENT, encoding="utf-8")
    assert validate(AgentConfig, load_toml(path)) == validate(AgentConfig, document(AGENT))
    path.write_text('\ufeffdevise = "x"\n', encoding="utf-8")
    places = {problem.key: problem.place for problem in problems(AgentConfig, load_toml(path))}
    assert places["devise"] == (1, 1)


def test_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes('device = "é"'.encode("utf-16"))
    with pytest.raises(ConfigError, match="it is not UTF-8") as caught:
        load_toml(path)
    assert "UTF-8" in caught.value.remedy


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_toml(tmp_path / "agent.toml")
    assert "setsuden init" in caught.value.remedy


def test_a_password_in_an_address_is_never_told() -> None:
    found = words(AGENT.replace("nats://one:4222", "http://anna:secret@one:4222"))
    assert len(found) == 1
    assert "secret" not in found[0]
    for login in ("anna:secret", "anna:se/cret", "anna:se@cret", "anna:'se\"cret", "secret"):
        assert masked(f"tls://{login}@host:1") == "tls://***@host:1"


@pytest.mark.parametrize(
    "login", ["anna:secret", "anna:se/cret", "anna:se%2Fcr%40et", "a:secret@x"]
)
def test_a_password_is_told_neither_by_an_error_nor_by_its_cause(login: str) -> None:
    text = AGENT.replace("nats://one:4222", f"nats://{login}@one:99999")
    with pytest.raises(ConfigError) as caught:
        validate(AgentConfig, document(text))
    told = "".join(traceback.format_exception(caught.value))
    assert not [part for part in (login, "secret", "se/cret", "se%2Fcr") if part in told]


# -- layers -----------------------------------------------------------------------------------


def test_a_variable_of_another_file_is_left_to_it() -> None:
    """Agent and worker often share one environment: a container's, a machine's."""
    environment = {"SETSUDEN_WORKER__MAX_BATCH": "4", "SETSUDEN_OUTBOX__MAX_EVENTS": "9"}
    foreign = {"worker", "http", "outbox", "device"}
    laid = with_environment(document(AGENT), environment, AgentConfig, foreign)
    assert laid.data["outbox"] == {"max_events": 9}
    assert "worker" not in laid.data


def test_flags_win_over_the_environment_over_the_file_over_defaults() -> None:
    text = AGENT + "[http]\nport = 1\nwait_seconds = 1.0\nmax_waiting = 1\n"
    environment = {"SETSUDEN_HTTP__PORT": "2", "SETSUDEN_HTTP__WAIT_SECONDS": "2"}
    laid = with_environment(document(text), environment, AgentConfig)
    laid = with_flag(laid, "http.port=3", AgentConfig)
    http = validate(AgentConfig, laid).http
    assert (http.port, http.wait_seconds, http.max_waiting, http.host) == (3, 2.0, 1, "127.0.0.1")
    names = ("host", "port", "wait_seconds", "max_waiting")
    assert [origin_of(laid, ("http", name)) for name in names] == [
        "default",
        "--set http.port",
        "environment SETSUDEN_HTTP__WAIT_SECONDS",
        "agent.toml:20",
    ]


@pytest.mark.parametrize(
    ("raw", "urls"),
    [
        ('["nats://a:1", "nats://b:2"]', ("nats://a:1", "nats://b:2")),
        ("nats://a:1", ("nats://a:1",)),
        ("nats://a:1, nats://b:2", ("nats://a:1", "nats://b:2")),
    ],
)
def test_a_list_may_be_written_plainly(raw: str, urls: tuple[str, ...]) -> None:
    assert effective(SETSUDEN_NATS__URLS=raw).nats.urls == urls


def test_text_that_looks_like_a_number_stays_text_where_text_is_wanted() -> None:
    login = {"SETSUDEN_NATS__USER": "42", "SETSUDEN_NATS__PASSWORD_FILE": "p"}
    config = effective(**login, SETSUDEN_DEVICE="7", SETSUDEN_HTTP__PORT="0")
    assert (config.nats.user, config.device, config.http.port) == ("42", "7", 0)


def test_one_entry_of_an_array_can_be_set_and_the_others_stay() -> None:
    config = effective(SETSUDEN_PIPELINES__1__GATE__ESCALATE="0.5")
    assert [found.gate.escalate for found in config.pipelines] == [None, 0.5]
    assert config.pipelines[1].bundle == "bundles/motion"


def test_an_entry_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no entry '2' among 2"):
        effective(SETSUDEN_PIPELINES__2__TEACHER="x")


def test_a_table_is_merged_and_each_part_remembers_where_it_came_from() -> None:
    table = 'nats={ user = "anna", password_file = "p", urls = ["tls://x:1"] }'
    laid = with_flag(document(), table, AgentConfig)
    assert validate(AgentConfig, laid).nats.user == "anna"
    assert origin_of(laid, ("nats", "urls")) == "--set nats"
    assert origin_of(laid, ("nats", "durability")) == "default"


def test_a_wrong_value_from_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"^environment SETSUDEN_HTTP__PORT: http\.port: "):
        effective(SETSUDEN_HTTP__PORT="seventy")


def test_a_misspelt_variable_is_refused_with_the_right_name() -> None:
    with pytest.raises(ConfigError, match=r"environment SETSUDEN_DEVISE: .* did you mean 'device'"):
        effective(SETSUDEN_DEVISE="x")
    with pytest.raises(ConfigError, match=r"SETSUDEN_HTTP__PROT: .* did you mean 'port'"):
        effective(SETSUDEN_HTTP__PROT="1")
    with pytest.raises(ConfigError, match=r"environment SETSUDEN_HTP__PORT: .* did you mean 'http"):
        effective(SETSUDEN_HTP__PORT="1")


def test_what_kubernetes_sets_for_a_service_of_our_name_is_not_ours() -> None:
    config = effective(SETSUDEN_SERVICE_HOST="10.0.0.1", SETSUDEN_PORT_4222_TCP_ADDR="10.0.0.1")
    assert config.device == "meter-1"


@pytest.mark.parametrize("flag", ["http.port", "=1", "http..port=1"])
def test_a_flag_that_is_no_assignment_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="is no assignment"):
        with_flag(document(), flag, AgentConfig)


# -- properties -------------------------------------------------------------------------------

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
SCALARS = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)
TEXTS = st.text("ab.=[]{}\"'#,\\\n \t1é", max_size=60)
PATHS = st.lists(KEYS | st.integers(0, 3), max_size=4).map(tuple)


def written(table: dict[str, Any]) -> str:
    return "".join(f"{toml_key(key)} = {toml(value)}\n" for key, value in table.items())


@given(TEXTS, PATHS)
def test_a_line_is_always_within_the_file(text: str, path: tuple[str | int, ...]) -> None:
    """For any text, TOML or not, and any path."""
    lines = text.split("\n")
    line, column = place_of(text, path)
    assert 1 <= line <= len(lines)
    assert 1 <= column <= len(lines[line - 1]) + 1


@given(TABLES)
def test_written_toml_reads_back_as_it_was(table: dict[str, Any]) -> None:
    assert tomllib.loads(written(table)) == table


@given(TABLES, TABLES)
@example({}, {"0\n": 1})
def test_every_key_is_found_where_it_stands(above: dict[str, Any], below: dict[str, Any]) -> None:
    text = written(above) + "\n[[entries]]\n# no.key = 1\n" + written(below)
    if "entries" in above:
        return
    lines = text.split("\n")
    for path in keys_of(above) + [("entries", "0", *rest) for rest in keys_of(below)]:
        line, column = places(text)[path]
        assert lines[line - 1][column - 1 :].startswith(toml_key(path[-1]))


@given(TABLES, st.lists(KEYS, min_size=1, max_size=3).map(tuple), SCALARS)
def test_laying_a_value_over_keeps_every_other_key(
    table: dict[str, Any], path: tuple[str, ...], value: object
) -> None:
    before = Document(Path("x.toml"), "", copy.deepcopy(table), {})
    try:
        after = with_value(before, path, value, "flag")
    except ConfigError:  # the path leads through a value that is no table
        return
    assert before.data == table
    assert at(after.data, path) == value
    assert origin_of(after, path) == "flag"
    others = [known for known in leaves_of(table) if not overlap(known, path)]
    assert [at(after.data, known) for known in others] == [at(table, known) for known in others]


def keys_of(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all keys of tables, through tables alone."""
    if not isinstance(value, dict):
        return []
    found: list[tuple[str, ...]] = []
    for key, part in value.items():
        found += [(*path, key), *keys_of(part, (*path, key))]
    return found


def leaves_of(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, part in value.items() for leaf in leaves_of(part, (*path, key))]
    return [path] if path else []


def at(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shortest = min(len(one), len(other))
    return one[:shortest] == other[:shortest]


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("serve", "probe_seconds", "2 s"), ("bridge", "batch_messages", "64")],
)
def test_option_of_an_earlier_version_is_refused_with_its_fixed_value(
    table: str, key: str, value: str
) -> None:
    text = f'[[pipelines]]\nname = "p"\nbundle = "b"\n[{table}]\n{key} = 3\n'
    (problem,) = problems(CloudConfig, document(text))
    expected = f"agent.toml:5: unknown key '{table}.{key}': it is fixed at {value} now"
    assert str(problem) == expected
    assert problem.remedy == "remove it"
