"""Where sslrootcert=system finds the system's certificates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventstore.postgres import certificate_authorities


@pytest.fixture(autouse=True)
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", "set so that it is put back")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "PGSSLROOTCERT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "bundle.pem"
    path.write_text("")
    monkeypatch.setattr(certificate_authorities, "_system_bundle", lambda: str(path))
    return path


def test_openssl_gets_the_systems_list_if_a_connection_needs_it(bundle: Path) -> None:
    certificate_authorities.find_system_certificates({"host": "h", "sslrootcert": "/my/ca.pem"})
    assert "SSL_CERT_FILE" not in os.environ
    certificate_authorities.find_system_certificates({"sslrootcert": "system"})
    assert os.environ["SSL_CERT_FILE"] == str(bundle)


@pytest.mark.parametrize(("name", "value"), [("PGSSLROOTCERT", "system"), ("PGSERVICE", "main")])
def test_the_environment_and_a_service_may_need_it_too(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    certificate_authorities.find_system_certificates({})
    assert os.environ["SSL_CERT_FILE"] == str(bundle)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_value_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/theirs")
    certificate_authorities.find_system_certificates({"sslrootcert": "system", "service": "main"})
    assert [os.environ.get(each) for each in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(each)] == ["/theirs"]
