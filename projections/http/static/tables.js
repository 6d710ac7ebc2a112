// The tables of projections, apps, consumers and rebuilds, and the list of log lines.

import { byId, keyed, make, setData, setHidden, setText, showLines } from "./dom.js";
import { age, clock, count, duration, rate, seconds, whole } from "./format.js";
import { LagChart, SPAN_SECONDS } from "./lag_chart.js";

function cell(label, kind = "") {
  return make("td", { role: "cell", class: kind, "data-label": label });
}

function headCell() {
  return make("th", { role: "rowheader", scope: "row", class: "row-name" });
}

function stateNode() {
  return make("span", { class: "state" });
}

function sub() {
  return make("span", { class: "sub" });
}

// A body of one row of cells, and one row below it for what is too long for a cell.
function body(cells) {
  const row = make("tr", { role: "row" }, ...cells);
  const more = make("td", { role: "cell", colspan: String(cells.length) });
  const moreRow = make("tr", { role: "row", class: "more" }, more);
  const node = make("tbody", { role: "rowgroup" }, row, moreRow);
  node.more = more;
  node.moreRow = moreRow;
  return node;
}

// Shows paragraphs, and commands, in the second row of a body; hides the row if there are none.
function showMore(node, lines) {
  setHidden(node.moreRow, lines.length === 0);
  showLines(node.more, lines.map(({ trouble, ...line }) => ({ ...line, kind: trouble ? "trouble" : "sub" })), "div");
}

function showTime(node, iso, text) {
  if (node.getAttribute("datetime") !== iso) {
    node.setAttribute("datetime", iso ?? "");
    node.title = iso ?? "";
  }
  setText(node, text);
}

export class ProjectionTable {
  constructor(table) {
    this.table = table;
    this.unit = "seconds";
    this.times = [];
    this.lags = new Map();
    this.charts = new Map();
  }

  // What the server read before this page was opened.
  setHistory({ times, lags }) {
    this.times = times;
    this.lags = new Map(Object.entries(lags));
  }

  setUnit(unit) {
    this.unit = unit;
    for (const [name, chart] of this.charts) this.draw(name, chart);
  }

  draw(name, chart) {
    const lags = this.lags.get(name) ?? { seconds: [], events: [] };
    chart.show(this.times, lags[this.unit], this.unit, this.end);
  }

  remember(reading, now) {
    this.end = now / 1000;
    if (this.times.length && this.end <= this.times.at(-1)) return; // the history has it already
    if (reading.database_unavailable === null) {
      this.times.push(this.end);
      for (const one of reading.projections) {
        if (!this.lags.has(one.name)) {
          const empty = () => new Array(this.times.length - 1).fill(null);
          this.lags.set(one.name, { seconds: empty(), events: empty() });
        }
        const lag = this.lags.get(one.name);
        lag.seconds.push(one.seconds_behind);
        lag.events.push(one.events_behind);
      }
      const names = new Set(reading.projections.map((one) => one.name));
      for (const name of this.lags.keys()) if (!names.has(name)) this.lags.delete(name);
    } else if (this.times.length && this.lastKnown()) {
      this.times.push(this.end); // a gap in the line
      for (const lag of this.lags.values()) {
        lag.seconds.push(null);
        lag.events.push(null);
      }
    }
    let old = 0;
    while (old < this.times.length && this.times[old] < this.end - SPAN_SECONDS) old += 1;
    if (old > 0) {
      this.times.splice(0, old);
      for (const lag of this.lags.values()) {
        lag.seconds.splice(0, old);
        lag.events.splice(0, old);
      }
    }
  }

  lastKnown() {
    for (const lag of this.lags.values()) return lag.seconds.at(-1) !== null;
    return false;
  }

  show(reading, now) {
    this.remember(reading, now);
    keyed(this.table, reading.projections, (one) => one.name, (one) => this.create(one), (node, one) => this.update(node, one, now));
    for (const [name, chart] of this.charts) {
      if (!chart.node.isConnected) {
        chart.remove();
        this.charts.delete(name);
      } else this.draw(name, chart);
    }
  }

  create({ name }) {
    const chart = new LagChart(name);
    this.charts.set(name, chart);
    const parts = {
      name: make("span", { class: "name" }, name),
      version: sub(),
      state: stateNode(),
      folders: sub(),
      seconds: make("span", { class: "strong" }),
      events: sub(),
      rate: make("span"),
      fresh: make("time"),
      lastEvent: sub(),
    };
    const head = headCell();
    head.append(parts.name, parts.version);
    const state = cell("State");
    state.append(parts.state, parts.folders);
    const lag = cell("Lag", "number");
    lag.append(parts.seconds, parts.events);
    const drawn = cell("Last 10 minutes", "chart-cell wide");
    drawn.append(chart.node);
    const speed = cell("Events/s", "number");
    speed.append(parts.rate);
    const fresh = cell("Rows as of", "number");
    fresh.append(parts.fresh, parts.lastEvent);
    const node = body([head, state, lag, drawn, speed, fresh]);
    node.parts = parts;
    return node;
  }

  update(node, one, now) {
    const { parts } = node;
    setText(parts.version, one.version_text);
    setText(parts.state, one.shown_state);
    setData(parts.state, "level", one.level);
    setText(parts.folders, one.folded_by.length ? `by ${one.folded_by.join(", ")}` : "");
    setText(parts.seconds, seconds(one.seconds_behind));
    setText(parts.events, count(one.events_behind, "event"));
    setText(parts.rate, rate(one.rate));
    const last = one.fresh_to === null ? "–" : clock(one.fresh_to, now);
    const isWhole = one.events_behind === 0 && one.fresh_to !== null && one.level !== "bad";
    showTime(parts.fresh, one.fresh_to, isWhole ? "now" : last);
    setText(parts.lastEvent, isWhole ? `last event ${last}` : "");
    const lines = [];
    if (one.error !== null) {
      const since = one.error_at === null ? "" : `Since ${clock(one.error_at, now)}: `;
      const again = one.retry_at === null ? "" : `. Next attempt at ${clock(one.retry_at, now)}.`;
      lines.push({ text: `${since}${one.error}${again}`, hint: one.hint, command: one.command, trouble: true });
    } else if (one.command !== null) lines.push({ text: one.note ?? "", command: one.command, trouble: true });
    else if (one.note !== null) lines.push({ text: one.note });
    for (const skip of one.skips) lines.push({ text: `Skips event ${skip.event_id}: ${skip.why}` });
    showMore(node, lines);
  }
}

export class AppTable {
  constructor(table) {
    this.table = table;
  }

  show(reading, now) {
    setHidden(this.table, reading.apps.length === 0);
    setHidden(byId("no-apps"), reading.apps.length > 0);
    keyed(this.table, reading.apps, (one) => one.app, (one) => this.create(one), (node, one) => this.update(node, one, now));
  }

  create({ app }) {
    const parts = {
      contract: sub(),
      state: stateNode(),
      follower: sub(),
      last: make("time"),
      rate: make("span"),
      gaps: make("span"),
      quarantined: make("span"),
    };
    const head = headCell();
    head.append(make("span", { class: "name" }, app), parts.contract);
    const stream = cell("Stream");
    stream.append(parts.state, parts.follower);
    const last = cell("Last message", "number");
    last.append(parts.last);
    const speed = cell("Events/s", "number");
    speed.append(parts.rate);
    const gaps = cell("Gaps", "number");
    gaps.append(parts.gaps);
    const quarantined = cell("Quarantined", "number");
    quarantined.append(parts.quarantined);
    const node = body([head, stream, last, speed, gaps, quarantined]);
    node.parts = parts;
    return node;
  }

  update(node, one, now) {
    const { parts } = node;
    setText(parts.contract, one.contract ?? "contract not yet known");
    setText(parts.state, one.connection);
    setData(parts.state, "level", one.level);
    setText(parts.follower, one.followed_by === null ? "" : `by ${one.followed_by}`);
    showTime(parts.last, one.last_received_at, age(one.last_received_at, now));
    setText(parts.rate, rate(one.rate));
    setText(parts.gaps, whole(one.gaps));
    parts.gaps.className = one.gaps ? "strong" : "zero";
    setText(parts.quarantined, whole(one.quarantined));
    parts.quarantined.className = one.quarantined ? "strong" : "zero";
    const lines = [];
    if (one.error !== null) {
      const since = one.refused_at === null ? "" : `Refused since ${clock(one.refused_at, now)}: `;
      const again = one.retry_at === null ? "" : `. Next attempt at ${clock(one.retry_at, now)}.`;
      lines.push({ text: `${since}${one.error}${again}`, hint: one.hint, command: one.command, trouble: true });
    } else if (one.command !== null) lines.push({ text: "Nobody follows this app.", command: one.command, trouble: true });
    for (const note of one.notes) lines.push({ text: note });
    showMore(node, lines);
  }
}

export class ConsumerTable {
  constructor(table) {
    this.table = table;
  }

  show(reading, now) {
    setHidden(byId("consumers-section"), reading.consumers.length === 0);
    keyed(this.table, reading.consumers, (one) => one.name, (one) => this.create(one), (node, one) => this.update(node, one, now));
  }

  create({ name }) {
    const parts = {
      holder: sub(),
      state: stateNode(),
      behind: make("span"),
      behindEvents: sub(),
      position: make("span"),
      events: make("span"),
      moved: make("time"),
    };
    const head = headCell();
    head.append(make("span", { class: "name" }, name), parts.holder);
    const state = cell("State");
    state.append(parts.state);
    const behind = cell("Behind", "number");
    behind.append(parts.behind, parts.behindEvents);
    const position = cell("Position", "number");
    position.append(parts.position);
    const events = cell("Events", "number");
    events.append(parts.events);
    const moved = cell("Moved", "number");
    moved.append(parts.moved);
    const node = body([head, state, behind, position, events, moved]);
    node.parts = parts;
    return node;
  }

  update(node, one, now) {
    const { parts } = node;
    setText(parts.holder, one.held_by ?? "no process has it");
    setText(parts.state, one.state);
    setData(parts.state, "level", one.level);
    setText(parts.behind, seconds(one.seconds_behind));
    setText(parts.behindEvents, count(one.events_behind, "event"));
    setText(parts.position, whole(one.position));
    setText(parts.events, whole(one.events));
    showTime(parts.moved, one.moved_at, one.moved_at === null ? "–" : clock(one.moved_at, now));
    const lines = [];
    if (one.note !== null) lines.push({ text: one.note, hint: "To find out why:", command: one.command, trouble: true });
    showMore(node, lines);
  }
}

export class RebuildTable {
  constructor(table) {
    this.table = table;
  }

  show(reading, now) {
    setHidden(this.table, reading.rebuilds.length === 0);
    setHidden(byId("no-rebuilds"), reading.rebuilds.length > 0);
    keyed(this.table, reading.rebuilds, (one) => one.id, (one) => this.create(one), (node, one) => this.update(node, one, now));
  }

  create({ name }) {
    const parts = {
      what: sub(),
      state: stateNode(),
      bar: make("progress", { max: "1", "aria-label": `Progress of ${name}` }),
      folded: sub(),
      started: make("time"),
      took: make("span"),
      result: make("span"),
    };
    const head = headCell();
    head.append(make("span", { class: "name" }, name), parts.what);
    const progress = cell("Progress");
    progress.append(parts.state, parts.bar, parts.folded);
    const started = cell("Started", "number");
    started.append(parts.started);
    const took = cell("Took", "number");
    took.append(parts.took);
    const result = cell("Result", "wide");
    result.append(parts.result);
    const node = body([head, progress, started, took, result]);
    node.parts = parts;
    return node;
  }

  update(node, one, now) {
    const { parts } = node;
    setText(parts.what, one.kind);
    setText(parts.state, one.state);
    setData(parts.state, "level", one.level);
    const share = one.target > 0 ? Math.min(1, one.position / one.target) : 1;
    const runs = one.state === "running";
    setHidden(parts.bar, !runs);
    if (runs) parts.bar.value = share;
    const folded = `${whole(one.position)} of ${whole(one.target)} events (${Math.floor(share * 100)} %)`;
    setText(parts.folded, runs ? folded : `up to position ${whole(one.position)}`);
    showTime(parts.started, one.started_at, clock(one.started_at, now));
    const end = one.finished_at === null ? now : Date.parse(one.finished_at);
    setText(parts.took, runs || one.finished_at !== null ? duration(Math.max(0, end - Date.parse(one.started_at)) / 1000) : "–");
    setText(parts.result, one.result);
    parts.result.className = one.level === "bad" ? "trouble" : "";
    showMore(node, []);
  }
}

export class LogList {
  constructor(list) {
    this.list = list;
  }

  show({ log }, now) {
    setText(byId("log-note"), log.note);
    setHidden(byId("log-note"), log.note === "");
    keyed(this.list, log.lines, (line) => `${line.number} ${line.at}`, create, () => {});

    function create(line) {
      const node = make(
        "li",
        {},
        make("time", { datetime: line.at, title: line.at }, clock(line.at, now)),
        make("span", { class: "level" }, line.level),
        make("p", {}, make("b", {}, line.event), line.fields ? " " : "", make("span", { class: "fields" }, line.fields)),
      );
      node.dataset.level = line.level;
      return node;
    }
  }
}
