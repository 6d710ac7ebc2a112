"""The page in a real browser: a fault is made and mended while the page is open, and shows without a reload."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from psycopg import AsyncConnection

from eventstore.consuming.consumer import consumer
from eventstore.locks import rebuild_lock
from projections.http.dashboard_routes import PERSONAL_DATA_IS_OFF, QUESTION_HEADER
from projections.http.web_app import HEADERS
from projections.sandbox.simulator import SimulatedEvent, Simulator, SimulatorSettings
from projections.terminal_text import UNSAFE
from tests import folding, oracle, store
from tests.acceptance.command import QUICK, Commands
from tests.acceptance.fork_client import ForkServer
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import TOKEN
from tests.folding import append, new_record
from tests.following import log_of
from tests.http_requests import send_request, served_url

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 40_000.0
"""Milliseconds that the page may take to show something."""
VARIABLES = QUICK | {
    "PROJECTIONS_POLL": "0.05",
    "PROJECTIONS_RETRY_FIRST": "0.2",
    "PROJECTIONS_RETRY_CAP": "0.2",
    "PROJECTIONS_REFUSED_RETRY": "0.3",
}
PERSON, REQUEST = "12300000777", "request-of-spring-4711"
HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202eevil</script><script>alert(2)</script>"
ESCAPED = "<img src=x onerror=alert(1)>\\x1b[2J\\u202eevil</script><script>alert(2)</script>"
UP_TO_DATE = "The read models are up to date."

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"the browser {CHROMIUM} is not installed"),
]
_RECORD_TEXTS = """button => {
    const noted = button.dataset;
    noted.texts = "";
    new MutationObserver(() => { noted.texts += ` ${button.textContent}`; }).observe(button, {childList: true});
}"""
"""Notes a button's texts in an attribute: the page's policy forbids to wait for a function, which is evaluated."""
expect.set_options(timeout=PATIENCE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Without a process that imitates a graphics card, pages are drawn with less work.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def commands(tmp_path: Path, fork_server: ForkServer | None) -> AsyncIterator[Commands]:
    """As the fixture of the other files, in the event loop of the browser."""
    folder = tmp_path / "work"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        yield Commands(folder, stack, fork_server)


class Watch:
    """An open page; what its console printed, and which addresses it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.console: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("dialog", lambda dialog: self.console.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))

    async def verdict(self, text: str | re.Pattern[str]) -> None:
        """Wait until the page answers this."""
        await expect(self.page.locator("#verdict-sentence")).to_have_text(text)


@pytest_asyncio.fixture(loop_scope="module")
async def watch(browser: Browser) -> AsyncIterator[Watch]:
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield Watch(await context.new_page())
    await context.close()


async def test_faults_and_their_mending_show_without_a_reload(
    commands: Commands, watch: Watch, database_url: str
) -> None:
    page, log = watch.page, log_of(40)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(*target_of(database_url)))
        simulator = await stack.enter_async_context(Simulator(log[:-1]))
        upstream = f'[apps.shop]\naddress = "{simulator.address}"\ntoken = "{TOKEN}"\n'
        (commands.folder / "apps.toml").write_text(upstream)
        run = ("run", "--config", "apps.toml", "--http")
        variables = VARIABLES | {"DATABASE_URL": through(database_url, proxy.port)}
        process = await commands.start(*run, "127.0.0.1:0", **variables)
        url = await served_url(process)
        conn = await stack.enter_async_context(store.connection(database_url))

        await page.goto(url)
        await page.evaluate("window.isTheFirst = true")
        await watch.verdict(UP_TO_DATE)
        await expect(page.locator("#apps tbody")).to_contain_text(["connected"])
        await expect(page.locator("#apps tbody")).to_contain_text([f":{process.pid}"])
        await expect(page.locator("#log")).to_contain_text("following")
        await expect(page.locator("#projections canvas")).to_have_count(
            await page.locator("#projections tbody").count()
        )

        await break_and_mend_a_projection(watch, conn, simulator, log[-1])
        await stop_and_start_the_upstream(stack, watch, simulator, log)
        proxy.refuse()
        await watch.verdict("The database is unavailable.")
        await expect(page.locator("body")).to_have_attribute("data-stale", "")
        proxy.accept()
        await watch.verdict(UP_TO_DATE)
        await expect(page.locator("body")).not_to_have_attribute("data-stale", "")
        assert watch.console == []

        # A hidden page costs nothing.
        async with page.expect_event("requestfailed", lambda request: request.url.endswith("/readings")):
            await set_hidden(page, hidden=True)
        async with page.expect_request("**/readings"):
            await set_hidden(page, hidden=False)
        await expect(page.locator("#connection")).to_have_text("Live")
        await process.kill()
        await watch.verdict("Nothing on this page is live.")
        await expect(page.locator("#connection")).to_contain_text("Connection lost since ")
        await commands.start(*run, url.removeprefix("http://").rstrip("/"), **variables)
        await watch.verdict(UP_TO_DATE)
        assert await page.evaluate("window.isTheFirst")
        assert [request for request in watch.requests if not request.startswith(url)] == []


async def break_and_mend_a_projection(
    watch: Watch, conn: AsyncConnection, simulator: Simulator, entry: SimulatedEvent
) -> None:
    await conn.execute("ALTER TABLE request_status ADD CONSTRAINT fault CHECK (recipients < 0) NOT VALID")
    await simulator.append(entry)
    await watch.verdict("request_status has stopped and is out of date.")
    row = watch.page.locator("#projections tbody", has_text="request_status")
    await expect(row.locator(".state")).to_have_text("failed")
    await expect(row.locator(".trouble")).to_contain_text("fault")
    skip = f"projections skip request_status --event-id {entry.event_id} --why REASON"
    await expect(row.locator("code")).to_have_text(skip)
    copy = row.get_by_role("button", name="Copy the command")
    await copy.evaluate(_RECORD_TEXTS)  # the button says for a short time only that it has copied
    # Each attempt changes the text. The button stays, or else whoever presses it isn't told that it has copied.
    await expect(row.locator(".trouble")).not_to_have_text(await row.locator(".trouble").inner_text())
    await expect(copy).to_have_attribute("data-texts", "")
    await copy.click()
    await expect(copy).to_have_attribute("data-texts", re.compile(r"\bCopied\b"))
    await expect(copy).to_have_text("Copy")
    assert await watch.page.evaluate("navigator.clipboard.readText()") == skip
    await conn.execute("ALTER TABLE request_status DROP CONSTRAINT fault")
    await watch.verdict(UP_TO_DATE)
    await expect(row.locator(".state")).to_have_text("running")


async def stop_and_start_the_upstream(
    stack: AsyncExitStack, watch: Watch, simulator: Simulator, log: list[SimulatedEvent]
) -> None:
    """Stop the upstream, start one that refuses the token, and let it accept the token."""
    app = watch.page.locator("#apps tbody")
    await simulator.stop()
    await watch.verdict("The stream from shop was interrupted.")
    await expect(app).to_contain_text("reconnecting")
    successor = Simulator(log, SimulatorSettings(port=simulator.port, token="another"))
    await stack.enter_async_context(successor)
    await watch.verdict("No new events arrive from shop.")
    await expect(app).to_contain_text("UNAUTHENTICATED")
    successor.token = TOKEN
    await watch.verdict(UP_TO_DATE)


async def set_hidden(page: Page, *, hidden: bool) -> None:
    """Do what a browser does when another tab is shown, or this one again."""
    await page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', {configurable: true, value: hidden});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


async def fill(url: str) -> None:
    """Store and fold events of a person, with texts that try to be more than text."""
    async with store.connection(url) as conn:
        await append(
            conn,
            new_record(oracle.PENDING_CONSENT, PERSON, request=REQUEST),
            replace(new_record(oracle.FAILED, PERSON, request=REQUEST), error_code=HOSTILE),
        )
        await folding.fold_all(url)
        await conn.execute(
            "INSERT INTO eventstore.cursors (app, contract, last_error) VALUES (%s, 'chat.external', %s)",
            [store.APP, HOSTILE],
        )
        await conn.execute("UPDATE projections.checkpoints SET last_error = %s, state = 'failed'", [HOSTILE])
        await conn.execute(
            "INSERT INTO projections.skips (name, event_id, version, why, skipped_at) SELECT name, %s, version, %s,"
            " clock_timestamp() FROM projections.checkpoints",
            [store.next_ulid(), f"{HOSTILE} {PERSON}"],
        )
        await conn.execute(
            "INSERT INTO projections.rebuilds (name, version, fingerprint, holder, state, dry_run, position,"
            " started_at, finished_at, error) VALUES ('poll_tallies', 1, '', '', 'failed', false, 0, now(), now(), %s)",
            [HOSTILE],
        )


async def test_text_from_outside_is_shown_as_text_and_people_are_not_shown(
    commands: Commands, watch: Watch, database_url: str
) -> None:
    await fill(database_url)
    dashboard = await commands.start("dashboard", "--http", "127.0.0.1:0", **VARIABLES, DATABASE_URL=database_url)
    url = await served_url(dashboard)
    page = watch.page
    await page.goto(url)
    await watch_a_rebuild(page, database_url)
    for part in ("#problems", "#projections", "#apps", "#rebuilds"):
        await expect(page.locator(part)).to_contain_text(ESCAPED)
    assert await page.locator("img, main script").count() == 0
    shown = await page.inner_text("body")
    assert not UNSAFE.search(shown.replace("\n", "").replace("\t", ""))
    await expect(page.locator("#log-note")).to_contain_text("has no log of its own")
    await expect(page.locator("#lookup")).to_be_hidden()

    received = json.dumps([await page.content(), await first_readings(page)])
    assert ESCAPED.partition("</script>")[0].partition("\\x1b")[0] in received
    assert (PERSON in received, REQUEST in received) == (False, False)
    question = {QUESTION_HEADER: json.dumps({"text": PERSON})}
    refused = await send_request(url + "explain", **question)
    assert (refused.status, json.loads(refused.text)) == (403, {"error": PERSONAL_DATA_IS_OFF})
    for path in ("", "static/page.js", "static/uplot-1.6.32/uPlot.iife.min.js"):
        answer = await send_request(url + path)
        assert (answer.status, answer.headers["content-security-policy"]) == (200, HEADERS["content-security-policy"])
    assert watch.console == []
    assert {request for request in watch.requests if not request.startswith(url)} == set()


async def watch_a_rebuild(page: Page, url: str) -> None:
    """Show the progress of a rebuild while its process lives, and that its process is gone."""
    row = page.locator("#rebuilds tbody", has_text="consent_registry")
    async with store.connection(url) as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", [rebuild_lock("consent_registry")])
        await conn.execute(
            "INSERT INTO projections.rebuilds (name, version, fingerprint, holder, state, dry_run, position,"
            " started_at) VALUES ('consent_registry', 1, '', '', 'running', false, 1, now())"
        )
        await expect(row).to_contain_text("1 of 2 events (50 %)")
        assert await row.locator("progress").evaluate("bar => bar.value") == 0.5
    await expect(row).to_contain_text("interrupted")
    await expect(row.locator("progress")).to_be_hidden()


async def first_readings(page: Page) -> list[str]:
    """Return the first messages of a stream of readings, as the server sends them."""
    messages: list[str] = await page.evaluate(
        """() => new Promise((resolve) => {
            const source = new EventSource("readings"), seen = [];
            const note = (message) => {
                seen.push(message.data);
                if (seen.length === 4) { source.close(); resolve(seen); }
            };
            source.addEventListener("history", note);
            source.addEventListener("reading", note);
            source.addEventListener("lists", note);
        })"""
    )
    return messages


async def test_the_history_of_a_person_on_a_phone_by_keyboard_in_the_dark(
    commands: Commands, watch: Watch, database_url: str
) -> None:
    await fill(database_url)
    dashboard = await commands.start(
        "dashboard", "--http", "127.0.0.1:0", "--http-personal-data", **VARIABLES, DATABASE_URL=database_url
    )
    page = watch.page
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(await served_url(dashboard))
    await expect(page.locator("#readings")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to content")).to_be_in_viewport()

    # Everything that can be used is reached by Tab, and shows that it has the focus.
    await page.locator("summary").click()
    await expect(page.locator("#recent-events tbody")).to_have_count(2)
    reached = await reach_by_tab(page)
    for name in (
        "Skip to content",
        "Dark colours",
        "Copy the command",
        "seconds",
        "lookup-text",
        PERSON,
        REQUEST,
        "log",
    ):
        assert any(name in one for one in reached), (name, reached)
    assert all(" outlined" in one for one in reached), reached

    await page.locator("#lookup-text").fill(PERSON)
    await page.keyboard.press("Enter")
    history = page.locator("#history")
    await expect(history.locator("h3")).to_contain_text(PERSON)
    await expect(history.locator(".timeline li").first).to_be_visible()
    await page.locator("#recent-events").get_by_role("button", name=REQUEST).first.click()
    await expect(history.locator("h3")).to_contain_text(f"{REQUEST} of app {store.APP}, in request_status")
    await history.get_by_role("button", name=PERSON).click()
    await expect(history.locator(".timeline")).to_contain_text("RECIPIENT_FAILED")
    await expect(history.locator(".timeline")).to_contain_text(ESCAPED)
    await expect(history.locator(".timeline")).to_contain_text("decides the row")
    await page.locator("#lookup-text").fill("no such person")
    await page.keyboard.press("Enter")
    await expect(history).to_contain_text("no read model has a row for this")

    for theme in ("light", "dark"):
        if theme == "dark":
            await page.get_by_role("button", name="Dark colours").click()
            await page.reload()  # the choice is remembered
            await expect(page.locator("#readings")).to_be_visible()
        assert await page.evaluate("document.documentElement.dataset.theme") == theme
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        assert await page.evaluate(FAINT_TEXTS) == []
    assert watch.console == []


async def reach_by_tab(page: Page) -> list[str]:
    """Press Tab until the focus has gone around; return what had it, and whether that could be seen."""
    reached: list[str] = []
    while True:
        await page.keyboard.press("Tab")
        one: str | None = await page.evaluate(
            """() => {
                const node = document.activeElement;
                if (node === document.body) return "";  // between the last and the first
                if (node.dataset.seen) return null;
                node.dataset.seen = "yes";
                const drawn = node.type === "radio" ? node.nextElementSibling : node;
                const isOutlined = getComputedStyle(drawn).outlineStyle !== "none";
                return [node.id, node.value, node.getAttribute("aria-label"), node.innerText.slice(0, 60)].join(" ")
                    + (isOutlined ? " outlined" : "");
            }"""
        )
        if one is None:
            return reached
        reached += [one] if one else []


FAINT_TEXTS = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    function rgb(colour) {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    }
    function light(colour) {
        const [r, g, b] = [...rgb(colour)].slice(0, 3).map((x) => x / 255)
            .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }
    function ground(node) {
        for (let one = node; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (rgb(colour)[3] === 255) return colour;
        }
        return "white";
    }
    const faint = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(texts.currentNode.data.trim().slice(0, 40));
    }
    return faint;
}"""
"""Texts whose contrast to what is behind them is below 4.5 : 1, which WCAG's level AA requires."""


async def test_named_consumers_are_shown_if_there_are_any(commands: Commands, watch: Watch, database_url: str) -> None:
    await folding.fold_all(database_url)
    process = await commands.start("dashboard", "--http", "127.0.0.1:0", **VARIABLES, DATABASE_URL=database_url)
    page, consumers = watch.page, watch.page.locator("#consumers tbody")
    await page.goto(await served_url(process))
    await expect(page.locator("#projections tbody")).not_to_have_count(0)
    await expect(page.locator("#consumers-section")).to_be_hidden()
    async with store.appender(database_url) as appender:
        await appender.append(store.new_events(3))
    async with aclosing(consumer("billing", database_url, batch_events=2)) as batches:
        await anext(batches)
        await expect(consumers).to_contain_text(["billing"])
        await expect(consumers).to_contain_text(["running"])
        await anext(batches)
        await expect(consumers).to_contain_text(["1 event"])
    await expect(consumers).to_contain_text(["no process has it"])
    async with aclosing(consumer("billing", database_url)) as batches:
        await anext(batches)
        await expect(consumers).to_contain_text(["It was handed the events after its checkpoint 2 times"])
    assert watch.console == []
