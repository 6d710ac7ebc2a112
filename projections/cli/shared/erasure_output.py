"""What ``projections erase`` prints for people."""

from __future__ import annotations

from projections.cli.shared.output import LogLevel, counted, print_data, print_message
from projections.erasing.receipt import ErasureReceipt
from projections.erasing.receipt_page import MAX_PLACES


def print_erasure(receipt: ErasureReceipt) -> None:
    """Print what an erasure did, or would do."""
    would = "would be " if receipt["dry_run"] else ""
    persons = counted(receipt["erased"], "person", "persons")
    print_data(f"{persons} {would}erased, of {receipt['asked']:,} asked for")
    for table, rows in receipt["rows"].items():
        print_data(f"{table}: {counted(rows, 'row')}")
    for reason in receipt["not_erased"]:
        print_message(f"projections: {reason}", level=LogLevel.ERROR)
    if receipt["without_events"]:
        places = ", ".join(str(place) for place in receipt["without_events"][:MAX_PLACES])
        more = "" if len(receipt["without_events"]) <= MAX_PLACES else ", and more"
        print_message(
            f"projections: no event has number {places}{more}, in the order in which they were given: erased before, or"
            " not written as the events write it"
        )
    if receipt["active"]:
        print_message(f"{counted(receipt['active'], 'person', 'persons')} received new events and were not erased")
    for schema in receipt["dropped_as_of"]:
        what = "has rows of these persons; --drop-as-of drops it" if receipt["dry_run"] else "dropped"
        print_data(f"as-of schema {schema}: {what}")
    _print_verdicts(receipt)
    if receipt["need_rebuild"]:
        names = " ".join(receipt["need_rebuild"])
        print_message(f"projections: {names} still contain the numbers; run projections rebuild {names}")
    _print_search(receipt)
    for one in receipt["archives"]:
        print_data(f"archive {one['file']}: {counted(one['events'], 'event')}; the file was written anew")
    for name in receipt["not_vacuumed"]:
        print_message(f"projections: another session has {name} locked; later run VACUUM (ANALYZE) {name}")
    if not receipt["dry_run"]:
        consumers = [f"named consumer {name}" for name in receipt["consumers"]]
        print_message(f"out of reach: {'; '.join([*receipt['out_of_reach'], *consumers])}")


def _print_search(receipt: ErasureReceipt) -> None:
    searched = receipt["searched"]
    if searched is None:
        return
    where = "" if receipt["app"] is None else f" in app {receipt['app']!r}"
    left = sum(one["rows"] for one in searched["left"])
    print_data(
        f"searched: {counted(searched['columns'], 'column')} of {counted(searched['tables'], 'table')}{where},"
        f" {left:,} left"
    )
    for one in searched["shared"]:
        print_message(
            f"projections: {one['table']}.{one['column']} contains a number in {counted(one['rows'], 'row')}, maybe of"
            " another app"
        )
    if searched["too_short"]:
        print_message(
            f"projections: {counted(searched['too_short'], 'number')} too short to search for: such a text is in every"
            " table"
        )
    for one in searched["left"]:
        print_data(f"left: {one['table']}.{one['column']}: {counted(one['rows'], 'row')}")
    if searched["unreadable"]:
        columns = counted(len(searched["unreadable"]), "column")
        print_message(f"projections: {columns} could not be searched (no privilege, or locked); the receipt lists them")


def _print_verdicts(receipt: ErasureReceipt) -> None:
    for one in receipt["verified"]:
        if one["equal"] is False:
            print_message(
                f"projections: {one['name']} differs from the log; look at it with projections verify {one['name']}",
                level=LogLevel.ERROR,
            )
        elif one["equal"] is None:
            print_message(f"projections: {one['name']} was not verified: {one['why']}")
    equal = [one["name"] for one in receipt["verified"] if one["equal"]]
    if equal:
        print_data(f"verified: {counted(len(equal), 'read model equals', 'read models equal')} the log")
