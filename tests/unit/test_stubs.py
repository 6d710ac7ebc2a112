"""The committed stubs match proto/, and don't conflict with other packages' messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LIVES_BESIDE_OTHERS = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

default = descriptor_pool.Default()
# Another package's messages, with the same names as ours but different contents.
for name, package in (
    ("chat/external/message_service.proto", "chat.external"),
    ("pcs/external/v1/message_service.proto", "pcs.external.v1"),
    ("eventstore/reading.proto", "eventstore.reading"),
    ("eventstore/request_status.proto", "eventstore.request_status"),
):
    theirs = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    field = theirs.message_type.add(name="SendRequestEvent").field.add(name="theirs", number=1)
    field.type, field.label = field.TYPE_BOOL, field.LABEL_OPTIONAL
    default.Add(theirs) if hasattr(default, "Add") else default.AddSerializedFile(theirs.SerializeToString())

from eventstore.contracts._generated.chat.external import message_service_pb2 as chat
from eventstore.contracts._generated.eventstore import reading_pb2, request_status_pb2
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs

for module in (chat, pcs, reading_pb2, request_status_pb2):
    assert module.DESCRIPTOR.pool is not default, module
for package in ("chat.external", "pcs.external.v1"):
    their_event = default.FindMessageTypeByName(package + ".SendRequestEvent")
    assert [field.name for field in their_event.fields] == ["theirs"]
assert chat.SendRequestEvent(event_id="id").event_id == "id"
assert pcs.SendRequestEvent(occurred_at={"seconds": 1}).occurred_at.seconds == 1
"""

KNOWS_NONE_OF_OURS = """
from google.protobuf import descriptor_pool

import eventstore.contracts
from eventstore.contracts._generated.chat.external import message_service_pb2 as chat
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from eventstore.contracts._generated.eventstore import reading_pb2, request_status_pb2

default = descriptor_pool.Default()
count = 0
for module in (chat, pcs, reading_pb2, request_status_pb2):
    for message in module.DESCRIPTOR.message_types_by_name.values():
        count += 1
        try:
            default.FindMessageTypeByName(message.full_name)
        except KeyError:
            continue
        raise SystemExit(message.full_name + " is in the default pool")
assert count > 10
"""


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_match_proto() -> None:
    run("tools/stubs.py", "--check")


def test_the_default_descriptor_pool_knows_none_of_our_messages() -> None:
    run("-W", "error", "-c", KNOWS_NONE_OF_OURS)


def test_our_messages_work_beside_others_with_the_same_names() -> None:
    run("-c", LIVES_BESIDE_OTHERS)


def test_the_messages_are_not_top_level_packages() -> None:
    run("-c", "import importlib.util as u; assert not any(map(u.find_spec, ('chat', 'pcs', 'message_service_pb2')))")
