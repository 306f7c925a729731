"""The broker's accounts, from the table of roles: for its configuration file, and as JWT claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from setsuden.schemas import roles
from setsuden.schemas.roles import CORE, INBOX, Principal, Role, Site, SubjectUse, Use
from setsuden.schemas.subjects import HOPS

ACCOUNT_PREFIX = {
    Role.DEVICE: "DEVICE_",
    Role.APPLICATION: "APPLICATION_",
    Role.WORKER: "WORKER_",
    Role.BRIDGE: "BRIDGE_",
}
HEADER = """\
# Made by `setsuden cloud accounts {source}`; change that file and make it again.
# Every principal has an account of its own, because JetStream answers to any reply subject with
# the server's own rights; what it may do in {core} is what it imports from there.
# The server reads a password from its environment as it reads this file: one that is not made of
# letters and digits, with a letter first, needs quotes that are part of it: X_PASSWORD='"1#2"'. An
# empty one lets everybody in.
"""


_MSG_TRACE = f'    msg_trace: {{ dest: "{HOPS}", sampling: "100%" }}'


def account_name(role: Role, name: str) -> str:
    """The account of one principal."""
    return ACCOUNT_PREFIX[role] + name


def configuration(site: Site, source: str = "broker.toml", *, hops: bool = True) -> str:
    """The ``accounts`` block of nats-server's configuration.

    Passwords are read from the server's environment. With ``hops``
    the server tells of the messages it traces in every account: in the sender's name, so each
    sender needs leave for it, and in ``CORE`` it arrives under the sender's own subject.
    """
    blocks = [_core(site, hops=hops)]
    for role, principal, every in roles.principals(site):
        uses = [use for use in every if hops or use.access is not SubjectUse.TRACE]
        lines = [f"  {_quoted(account_name(role, principal.name))}: {{"]
        if any(use.access is SubjectUse.TRACE for use in uses):
            lines += [_MSG_TRACE]
        lines += [f"    users: [ {_user(principal, uses)} ]"]
        lines += _exports_of(principal, uses)
        lines += ["    imports: ["]
        lines += [f"      {_import(use)}," for use in uses if use.access is not SubjectUse.HEAR]
        lines += ["    ]", "  }"]
        blocks.append("\n".join(lines))
    body = "\n".join(blocks)
    return f"{HEADER.format(source=source, core=CORE)}accounts {{\n{body}\n}}\n"


def permissions(uses: list[Use]) -> dict[str, Any]:
    """The user's own permissions: what goes nowhere is refused with a reason, not lost."""
    sent = [
        use.local
        for use in uses
        if use.access in {SubjectUse.SEND, SubjectUse.ASK, SubjectUse.REPLY}
    ]
    sent += [HOPS for use in uses if use.access is SubjectUse.TRACE]
    heard = [use.subject for use in uses if use.access in {SubjectUse.LISTEN, SubjectUse.HEAR}]
    return {"publish": {"allow": sent}, "subscribe": {"allow": [*heard, INBOX]}}


def _core(site: Site, *, hops: bool) -> str:
    users = ", ".join(_login(operator) for operator in site.operators)
    lines = [f"  {CORE}: {{", "    jetstream: enabled"]
    if hops:
        lines += [_MSG_TRACE]
    lines += [f"    users: [ {users} ]", "    exports: ["]
    lines += [f"      {_export(use)}," for use in roles.exports()]
    return "\n".join([*lines, "    ]", "  }"])


def _export(use: Use) -> str:
    if use.access is SubjectUse.LISTEN:
        return f"{{ stream: {_quoted(use.subject)} }}"
    kind = ", response_type: stream" if use.access is SubjectUse.ASK else ""
    return f"{{ service: {_quoted(use.subject)}{kind} }}"


def _exports_of(principal: Principal, uses: list[Use]) -> list[str]:
    heard = [use.subject for use in uses if use.access is SubjectUse.HEAR]
    if not heard:
        return []
    return [f'    exports: [ {{ service: "reply.{principal.name}.*.*.*" }} ]']


def _import(use: Use) -> str:
    account = CORE
    if use.access is SubjectUse.REPLY:
        account = account_name(Role.APPLICATION, use.subject.split(".")[1])
    kind = "stream" if use.access is SubjectUse.LISTEN else "service"
    alias = HOPS if use.access is SubjectUse.TRACE else use.alias
    own = f", to: {_quoted(alias)}" if alias else ""
    return f"{{ {kind}: {{ account: {_quoted(account)}, subject: {_quoted(use.subject)} }}{own} }}"


def _user(principal: Principal, uses: list[Use]) -> str:
    allowed = permissions(uses)
    sent = ", ".join(map(_quoted, allowed["publish"]["allow"]))
    heard = ", ".join(map(_quoted, allowed["subscribe"]["allow"]))
    login = _login(principal)
    return (
        f"{login[:-2]}, permissions: {{\n"
        f"      publish: {{ allow: [{sent}] }}\n"
        f"      subscribe: {{ allow: [{heard}] }} }} }}"
    )


def _login(principal: Principal) -> str:
    if principal.nkey is not None:
        return f"{{ nkey: {principal.nkey} }}"
    variable = roles.password_variable(principal.name)
    return f"{{ user: {_quoted(principal.name)}, password: ${variable} }}"


def _quoted(text: str) -> str:
    return f'"{text}"'


# -- the same as JWT claims -----------------------------------------------------------------------


def templates(site: Site) -> dict[str, Any]:
    """All claims, with ``{{NAME}}`` where an account's public key belongs."""
    return {
        "accounts": account_claims(site, lambda name: f"{{{{{name}}}}}"),
        "users": {
            name: {"account": account, "claims": claims}
            for name, (account, claims) in user_claims(site).items()
        },
    }


def account_claims(site: Site, key_of: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """The ``nats`` part of every account's JWT, by account name.

    ``key_of`` gives an account's public key. Sign each with the operator's key, and push it to
    the server's resolver: a new device needs no change of the server's configuration.
    """
    claims = {CORE: _account([], [_export_claim(use) for use in roles.exports()], jetstream=True)}
    for role, principal, uses in roles.principals(site):
        imports = [_import_claim(use, key_of) for use in uses if use.access is not SubjectUse.HEAR]
        heard = any(use.access is SubjectUse.HEAR for use in uses)
        offered = [_service_claim(f"reply.{principal.name}.*.*.*")] if heard else []
        name = account_name(role, principal.name)
        claims[name] = _account(imports, offered, jetstream=False)
    return claims


def user_claims(site: Site) -> dict[str, tuple[str, dict[str, Any]]]:
    """By user name: the account to be signed by, and the ``nats`` part of the user's JWT."""
    claims: dict[str, tuple[str, dict[str, Any]]] = {
        operator.name: (CORE, _user_claim({})) for operator in site.operators
    }
    for role, principal, uses in roles.principals(site):
        allowed = permissions(uses)
        limits = {"pub": allowed["publish"], "sub": allowed["subscribe"]}
        claims[principal.name] = (account_name(role, principal.name), _user_claim(limits))
    return claims


def _account(
    imports: list[dict[str, Any]], exports: list[dict[str, Any]], *, jetstream: bool
) -> dict[str, Any]:
    storage = -1 if jetstream else 0
    return {
        "type": "account",
        "version": 2,
        "imports": imports,
        "exports": exports,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": True, "conn": -1, "leaf": -1,
            "mem_storage": storage, "disk_storage": storage, "streams": storage,
            "consumer": storage,
        },
        "default_permissions": {"pub": {}, "sub": {}},
        "trace": {"dest": HOPS, "sampling": 100},
    }  # fmt: skip


def _export_claim(use: Use) -> dict[str, Any]:
    if use.access is SubjectUse.LISTEN:
        return {"name": use.subject, "subject": use.subject, "type": "stream"}
    claim = _service_claim(use.subject)
    return claim | ({"response_type": "Stream"} if use.access is SubjectUse.ASK else {})


def _service_claim(subject: str) -> dict[str, Any]:
    return {"name": subject, "subject": subject, "type": "service"}


def _import_claim(use: Use, key_of: Callable[[str], str]) -> dict[str, Any]:
    account = CORE
    if use.access is SubjectUse.REPLY:
        account = account_name(Role.APPLICATION, use.subject.split(".")[1])
    kind = "stream" if use.access is SubjectUse.LISTEN else "service"
    return {
        "name": use.subject, "subject": use.subject, "account": key_of(account), "type": kind,
        "local_subject": HOPS if use.access is SubjectUse.TRACE else use.local,
    }  # fmt: skip


def _user_claim(permissions: dict[str, Any]) -> dict[str, Any]:
    return {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1} | permissions
