// The history of a row: what `projections explain` answers, as a timeline. The server refuses this, and shows neither
// people nor requests, unless it was started with --http-personal-data.

import { byId, keyed, make, setHidden } from "./dom.js";
import { clock } from "./format.js";

const MOST_EVENTS = 40;
const FIRST_EVENTS = 15;

export class LookUp {
  constructor() {
    this.now = Date.now();
    this.asked = 0;
    byId("lookup-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = byId("lookup-text").value.trim();
      if (text) this.ask({ text });
    });
  }

  show(reading) {
    setHidden(byId("lookup"), !reading.personal_data);
    setHidden(byId("lookup-off"), reading.personal_data);
  }

  showEvents(events, now) {
    this.now = now;
    keyed(byId("recent-events"), events, (one) => one.position, (one) => this.eventRow(one), () => {});
  }

  eventRow(one) {
    const cell = (label, child) => make("td", { role: "cell", "data-label": label }, child ?? "–");
    const { app, ppnum, send_request_id: request } = one;
    const row = make(
      "tr",
      { role: "row" },
      make("th", { role: "rowheader", scope: "row", class: "row-name" }, one.event_type),
      cell("App", app),
      cell("Person", ppnum === null ? null : this.link(ppnum, { app, ppnum })),
      cell("Request", request === null ? null : this.link(request, { app, send_request_id: request })),
      cell("Error code", one.error_code),
      cell("Happened", clock(one.occurred_at, this.now)),
    );
    row.lastElementChild.classList.add("number");
    return make("tbody", { role: "rowgroup" }, row);
  }

  link(text, question) {
    const button = make("button", { type: "button", class: "link" }, text);
    button.addEventListener("click", () => this.ask(question));
    return button;
  }

  async ask(question) {
    this.asked += 1;
    const number = this.asked;
    const place = byId("history");
    place.replaceChildren(make("p", { class: "empty" }, "Searching the log …"));
    place.focus();
    let answer;
    try {
      // In a header: a phone number in an address would be in the browser's history and in the log of a proxy.
      const asked = encodeURIComponent(JSON.stringify(question));
      const response = await fetch("explain", { headers: { "Projections-Question": asked } });
      answer = await response.json();
    } catch {
      answer = { error: "The server did not answer. Is it still running?" };
    }
    if (number !== this.asked) return; // another question was asked meanwhile
    if (answer.error !== undefined) place.replaceChildren(make("p", { class: "trouble" }, answer.error));
    else place.replaceChildren(...this.timeline(answer));
  }

  timeline(answer) {
    const parts = [make("h3", {}, answer.title)];
    for (const group of new Set(answer.links.map((one) => one.group))) {
      const links = answer.links.filter((one) => one.group === group).map((one) => this.link(one.label, one.question));
      parts.push(make("p", { class: "links" }, make("span", { class: "sub" }, `${group}:`), ...links));
    }
    for (const sentence of answer.sentences) parts.push(make("p", { class: "sub" }, sentence));
    for (const sentence of answer.warnings) parts.push(make("p", { class: "trouble" }, sentence));
    const list = make("ol", { class: "timeline", "aria-label": "Events, the earliest first" });
    const { events } = answer;
    const hidden = events.length > MOST_EVENTS ? events.slice(FIRST_EVENTS, FIRST_EVENTS - MOST_EVENTS) : [];
    for (const event of hidden.length ? events.slice(0, FIRST_EVENTS) : events) list.append(this.event(event));
    if (hidden.length) {
      const more = make("button", { type: "button" }, `Show ${hidden.length.toLocaleString("en")} more events`);
      const place = make("li", { class: "more-events" }, more);
      more.addEventListener("click", () => {
        place.replaceWith(...hidden.map((event) => this.event(event)));
        list.children[FIRST_EVENTS].tabIndex = -1;
        list.children[FIRST_EVENTS].focus();
      });
      list.append(place, ...events.slice(FIRST_EVENTS - MOST_EVENTS).map((event) => this.event(event)));
    }
    parts.push(list);
    return parts;
  }

  event(event) {
    const decides = event.decides ? make("span", { class: "decides" }, "decides the row") : null;
    const when = make("time", { datetime: event.occurred_at }, clock(event.occurred_at, this.now));
    const position = make("span", {}, `position ${event.position.toLocaleString("en")}`);
    const item = make(
      "li",
      {},
      make("p", {}, make("b", {}, event.event_type), " ", decides),
      make("p", { class: "when" }, when, position, make("span", { class: "mono" }, event.event_id)),
    );
    if (event.decides) item.dataset.decides = "";
    if (event.removed) item.append(make("p", {}, "The row is removed."));
    const changes = make("dl", { class: "changes" });
    for (const change of event.changes) {
      const value = make("dd", {});
      if (change.old !== null) value.append(make("del", {}, change.old), " → ");
      value.append(change.new);
      changes.append(make("div", {}, make("dt", {}, change.name), value));
    }
    if (event.changes.length) item.append(changes);
    return item;
  }
}
