"""Authorities and certificates of their own for each test, as files that can be replaced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

PAST = (datetime.now(UTC) - timedelta(days=20), datetime.now(UTC) - timedelta(days=1))
FUTURE = (datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) + timedelta(days=20))


class Authority:
    """One certificate authority and the folder its files go to."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA(organization_name=name)
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(
        self,
        name: str,
        *identities: str,
        valid: tuple[datetime, datetime] | None = None,
    ) -> tuple[Path, Path]:
        """Write ``name.pem`` and ``name.key``, replacing earlier ones; their paths."""
        begins, ends = valid or (None, None)
        issued = self._ca.issue_cert(
            *(identities or (name,)), not_before=begins, not_after=ends or _next_year()
        )
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


def _next_year() -> datetime:
    return datetime.now(UTC) + timedelta(days=365)


def server_tls(certificate: Path, key: Path, *more: str) -> str:
    """The ``tls`` block of a nats-server."""
    lines = [f'cert_file: "{certificate}"', f'key_file: "{key}"', "timeout: 2", *more]
    return "tls {\n  " + "\n  ".join(lines) + "\n}\n"
