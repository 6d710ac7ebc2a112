// A small moving chart of one projection's lag, drawn by uPlot.

import { make, setText } from "./dom.js";
import { seconds, whole } from "./format.js";

/* global uPlot */

export const SPAN_SECONDS = 600;

function colour(name) {
  return window.getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class LagChart {
  constructor(name) {
    this.name = name;
    this.canvas = make("div", { class: "chart", role: "img" });
    this.note = make("span", { class: "chart-note", "aria-hidden": "true" });
    this.node = make("div", {}, this.canvas, this.note);
    this.unit = "seconds";
    this.data = [[], []];
    this.end = 0;
    this.plot = null;
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(this.canvas);
    this.onTheme = () => this.build();
    window.addEventListener("themechange", this.onTheme);
  }

  remove() {
    this.resized.disconnect();
    window.removeEventListener("themechange", this.onTheme);
    if (this.plot !== null) this.plot.destroy();
    this.plot = null;
  }

  build() {
    if (this.plot !== null) this.plot.destroy();
    this.plot = null;
    if (this.canvas.clientWidth === 0) return;
    const options = {
      width: this.canvas.clientWidth,
      height: this.canvas.clientHeight,
      pxAlign: false,
      padding: [3, 0, 1, 0],
      cursor: { show: false },
      select: { show: false },
      legend: { show: false },
      axes: [{ show: false }, { show: false }],
      scales: {
        x: { time: true, range: () => [this.end - SPAN_SECONDS, this.end] },
        y: { range: (_plot, _low, high) => [0, Math.max(high ?? 0, this.unit === "seconds" ? 1 : 10)] },
      },
      series: [
        {},
        { stroke: colour("--accent"), fill: colour("--accent-fill"), width: 1.5, points: { show: false } },
      ],
      hooks: { drawClear: [(plot) => this.drawBase(plot)] },
    };
    this.plot = new uPlot(options, this.data, this.canvas);
  }

  // A line at zero, so that "no lag" differs from "no reading".
  drawBase(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = colour("--line");
    ctx.fillRect(bbox.left, bbox.top + bbox.height - 1, bbox.width, 1);
    ctx.restore();
  }

  resize() {
    if (this.plot === null) this.build();
    else if (this.canvas.clientWidth > 0) {
      this.plot.setSize({ width: this.canvas.clientWidth, height: this.canvas.clientHeight });
    }
  }

  show(times, values, unit, end) {
    this.data = [times, values];
    this.unit = unit;
    this.end = end;
    const known = values.filter((value) => value !== null);
    const write = unit === "seconds" ? seconds : (value) => `${whole(value)} events`;
    const top = known.length ? write(Math.max(...known)) : "no reading";
    setText(this.note, known.length ? `highest ${top}` : top);
    const label = `Lag of ${this.name} over the last 10 minutes: highest ${top}`;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
    if (this.plot === null) this.build();
    else this.plot.setData(this.data);
  }
}
