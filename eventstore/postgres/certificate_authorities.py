"""Finds the system's certificate authorities for ``sslrootcert=system``.

The OpenSSL in psycopg's wheel looks for them in a folder that doesn't exist on any system, so every server would be
refused. OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR first.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, BSD
)
_SET_BY_USER = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def find_system_certificates(parameters: Mapping[str, str]) -> None:
    """Point OpenSSL to the system's certificates if a connection's parameters may ask for them.

    A service file may set ``sslrootcert=system`` too. Only libpq reads it, so a named service is enough.
    """
    service = parameters.get("service") or os.environ.get("PGSERVICE")
    wanted = parameters.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if (wanted != "system" and not service) or any(os.environ.get(name) for name in _SET_BY_USER):
        return
    if (bundle := _system_bundle()) is not None:
        os.environ["SSL_CERT_FILE"] = bundle


def _system_bundle() -> str | None:
    usual = ssl.get_default_verify_paths().cafile
    return next((path for path in (usual, *BUNDLES) if path and Path(path).is_file()), None)
