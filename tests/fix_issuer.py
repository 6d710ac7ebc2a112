"""Fixtures: a small OAuth2 issuer over real HTTP, which records its requests and fails on demand."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DISCOVERY = "/.well-known/openid-configuration"
TOKEN_PATH = "/oauth/token"
CLIENT_ID = "shop"
CLIENT_SECRET = "s3cr3t/+%: of the shop"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One received request: ``form`` is its body unchanged, ``pairs`` the decoded body."""

    method: str
    path: str
    headers: dict[str, str]
    form: bytes

    @property
    def pairs(self) -> dict[str, str]:
        return dict(parse_qsl(self.form.decode(), keep_blank_values=True, strict_parsing=True))

    @property
    def basic(self) -> str | None:
        """Client and secret of an Authorization header, None without one."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(value).decode() if kind.lower() == "basic" else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that replaces the usual one: raw bytes, or a JSON document.

    ``hang`` never responds; ``drips`` sends a space every 0.1 s instead of the body, without end.
    """

    status: int = 200
    body: object = b""
    headers: tuple[tuple[str, str], ...] = ()
    hang: bool = False
    drips: bool = False

    @property
    def raw(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


CLIENT_REFUSED = Answer(401, {"error": "invalid_client", "error_description": "unknown client"})
HANGS = Answer(hang=True)


@dataclass
class Issuer:
    """An issuer on a port of 127.0.0.1.

    Attributes:
        methods: token_endpoint_auth_methods_supported in its document; None omits it.
        lifetime: expires_in of its tokens; None omits it.
        path: a prefix of all its paths.
        endpoint: token_endpoint in its document; None means its own.
        discovery: the response that replaces the discovery document, if set.
        answers: the next responses of the token endpoint that replace a token, oldest first.
        always: the response of the token endpoint when ``answers`` is empty; None means a token.
        tokens: the tokens that it issued, oldest first.
        requests: all requests, oldest first.

    """

    tls: ssl.SSLContext | None = None
    methods: list[str] | None = field(default_factory=lambda: ["client_secret_basic", "client_secret_post"])
    lifetime: object = 3600
    path: str = ""
    endpoint: str | None = None
    discovery: Answer | None = None
    answers: list[Answer] = field(default_factory=list)
    always: Answer | None = None
    tokens: list[str] = field(default_factory=list)
    requests: list[ReceivedRequest] = field(default_factory=list)
    port: int = 0
    prefix: str = "token-of-the-issuer-"
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{self.path}"

    @property
    def token_requests(self) -> list[ReceivedRequest]:
        """The requests for a token."""
        return [request for request in self.requests if request.path == self.path + TOKEN_PATH]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = self._answer(await _request(reader))
            if answer.hang:
                await asyncio.Event().wait()
            length = 10_000 if answer.drips else len(answer.raw)
            head = [f"HTTP/1.1 {answer.status} Response", f"Content-Length: {length}", "Connection: close"]
            head += [f"{name}: {value}" for name, value in (("Content-Type", "application/json"), *answer.headers)]
            writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n")
            await _send(writer, answer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client disconnected
        finally:
            writer.close()

    def _answer(self, request: ReceivedRequest) -> Answer:
        self.requests.append(request)
        if request.path == self.path + DISCOVERY and request.method == "GET":
            return self.discovery or Answer(body=self._document())
        if request.path == self.path + TOKEN_PATH and request.method == "POST":
            return self.answers.pop(0) if self.answers else self.always or self._grant(request)
        return Answer(404, {"error": "not_found"})

    def _document(self) -> dict[str, object]:
        document: dict[str, object] = {"issuer": self.url, "token_endpoint": self.endpoint or self.url + TOKEN_PATH}
        if self.methods is not None:
            document["token_endpoint_auth_methods_supported"] = self.methods
        return document

    def _grant(self, request: ReceivedRequest) -> Answer:
        pairs = request.pairs
        presented = request.basic or f"{pairs.get('client_id')}:{pairs.get('client_secret')}"
        if presented != f"{CLIENT_ID}:{CLIENT_SECRET}" or pairs.get("grant_type") != "client_credentials":
            return CLIENT_REFUSED
        self.tokens.append(f"{self.prefix}{len(self.tokens) + 1}")
        granted: dict[str, object] = {"access_token": self.tokens[-1], "token_type": "Bearer"}
        return Answer(body=granted if self.lifetime is None else granted | {"expires_in": self.lifetime})


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    if not answer.drips:
        writer.write(answer.raw)
    while answer.drips:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)
    await writer.drain()


async def _request(reader: asyncio.StreamReader) -> ReceivedRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return ReceivedRequest(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


@pytest.fixture
async def issuer_factory() -> AsyncIterator[Callable[..., Awaitable[Issuer]]]:
    """Start an issuer: ``await issuer_factory(lifetime=60)``; it is stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: object) -> Issuer:
            return await stack.enter_async_context(Issuer(**settings))  # type: ignore[arg-type]

        yield start


@pytest.fixture
async def issuer(issuer_factory: Callable[..., Awaitable[Issuer]]) -> Issuer:
    """An issuer that issues tokens to CLIENT_ID with CLIENT_SECRET."""
    return await issuer_factory()


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A self-signed certificate of 127.0.0.1, as files."""

    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """The TLS context of a server with this certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture
def certificate_files(tmp_path: Path) -> CertificateFiles:
    """A certificate of 127.0.0.1 that only a client with this file as its CA trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    address = x509.IPAddress(ip_address("127.0.0.1"))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files = CertificateFiles(tmp_path / "certificate.pem", tmp_path / "key.pem")
    files.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return files
