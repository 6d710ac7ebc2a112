// Receives readings from the server while the page is visible, and says when they stop.
//
// A hidden page closes its stream, so it costs the server nothing. A stream that ends, or brings nothing for a while, is
// opened again by itself; until then the page must not look live.

const RETRY_MILLISECONDS = 2000;
const SILENT_INTERVALS = 5;

export class Feed {
  constructor({ onHistory, onLists, onReading, onLost }) {
    this.onHistory = onHistory;
    this.onLists = onLists;
    this.onReading = onReading;
    this.onLost = onLost;
    this.source = null;
    this.retry = null;
    this.watchdog = null;
    this.lastAt = null;
    this.silence = 8000;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    window.addEventListener("pagehide", () => this.close());
    window.addEventListener("pageshow", () => this.open());
    window.addEventListener("online", () => this.open());
  }

  open() {
    if (document.hidden) return;
    this.close();
    const source = new EventSource("readings");
    this.source = source;
    source.addEventListener("history", (message) => this.onHistory(JSON.parse(message.data)));
    source.addEventListener("lists", (message) => this.onLists(JSON.parse(message.data)));
    source.addEventListener("reading", (message) => {
      const reading = JSON.parse(message.data);
      this.lastAt = Date.now();
      this.silence = Math.max(5000, reading.interval * 1000 * SILENT_INTERVALS);
      this.watch();
      this.onReading(reading);
    });
    source.addEventListener("error", () => this.lost());
    this.watch();
  }

  close() {
    window.clearTimeout(this.retry);
    window.clearTimeout(this.watchdog);
    if (this.source !== null) this.source.close();
    this.source = null;
  }

  watch() {
    window.clearTimeout(this.watchdog);
    this.watchdog = window.setTimeout(() => this.lost(), this.silence);
  }

  lost() {
    this.close();
    this.onLost(this.lastAt);
    this.retry = window.setTimeout(() => this.open(), RETRY_MILLISECONDS);
  }
}
