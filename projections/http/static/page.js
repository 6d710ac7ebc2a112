// The page: shows each reading, and what the reader of the page asks for.

import { byId, setData, setHidden, setText, showProblems } from "./dom.js";
import { Feed } from "./feed.js";
import { clock, rate, whole } from "./format.js";
import { LookUp } from "./look_up.js";
import { AppTable, ConsumerTable, LogList, ProjectionTable, RebuildTable } from "./tables.js";

const MARKS = { good: "✓", late: "…", bad: "!", unknown: "?" };

const projections = new ProjectionTable(byId("projections"));
const apps = new AppTable(byId("apps"));
const consumers = new ConsumerTable(byId("consumers"));
const rebuilds = new RebuildTable(byId("rebuilds"));
const log = new LogList(byId("log"));
const lookUp = new LookUp();

function showVerdict({ level, sentence, detail, problems }) {
  const section = byId("verdict");
  setData(section, "level", level);
  setText(section.querySelector(".mark"), MARKS[level] ?? "?");
  setText(byId("verdict-sentence"), sentence);
  setText(byId("verdict-detail"), detail);
  showProblems(byId("problems"), problems);
  const title = `${level === "good" ? "" : `${MARKS[level]} `}projections: ${sentence}`;
  if (document.title !== title) document.title = title;
}

function showConnection(live, text) {
  const node = byId("connection");
  setData(node, "live", live ? "yes" : "no");
  setText(node.firstElementChild, text);
}

function markStale(stale) {
  if (stale) document.body.dataset.stale = "";
  else delete document.body.dataset.stale;
}

function showReading(reading) {
  const now = Date.parse(reading.at);
  const outage = reading.database_unavailable;
  showConnection(true, outage ? "Live, but the database is unavailable" : "Live");
  markStale(outage !== null);
  showVerdict(reading.verdict);
  setText(byId("about"), `${reading.version} · ${reading.source} ${reading.process}`);
  setHidden(byId("readings"), reading.projections === null);
  if (reading.projections === null) return; // the database was not reached yet
  projections.show(reading, now);
  apps.show(reading, now);
  consumers.show(reading, now);
  rebuilds.show(reading, now);
  lookUp.show(reading);
  setText(byId("log-head"), `${whole(reading.head)} events in the log, ${rate(reading.append_rate)} a second`);
}

function showLists(lists) {
  const now = Date.parse(lists.at);
  log.show(lists, now);
  lookUp.showEvents(lists.recent_events, now);
}

const feed = new Feed({
  onLists: showLists,
  onHistory: (history) => projections.setHistory(history),
  onReading: showReading,
  onLost: (lastAt) => {
    const since = lastAt === null ? "No connection yet" : `Connection lost since ${clock(lastAt, Date.now())}`;
    showConnection(false, `${since}; trying again`);
    markStale(true);
    showVerdict({
      level: "unknown",
      sentence: lastAt === null ? "The server does not answer." : "Nothing on this page is live.",
      detail:
        lastAt === null
          ? "It may have been stopped. This page tries again by itself."
          : `${since}: the numbers below are from then. This page tries again by itself.`,
      problems: [],
    });
  },
});

for (const input of document.querySelectorAll("input[name=unit]")) {
  input.addEventListener("change", () => projections.setUnit(input.value));
}
feed.open();
