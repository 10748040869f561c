// The page at `/`: draws what /api/events streams. It orders nothing, and takes no text of a user for markup.
"use strict";

const KEPT = 300; // samples of charts: seconds, but for those of the last 15 minutes
const FEW = 3; // samples that make no line yet
const TREND_EVERY_MS = 10000;
const EVENTS_SHOWN = 100;
const COLOURS = ["#3b82c4", "#d9822b", "#2f9e63", "#a854b8", "#c94f4f", "#5b7083", "#b5a22f", "#3aa6a6"];
const NOT_SHOWN = new Set(["id", "at", "level", "event", "status"]);

const at = (id) => document.getElementById(id);
const counted = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

function put(id, text, kind = "") {
  const element = at(id);
  element.textContent = text;
  element.classList.remove("good", "bad", "doubt");
  if (kind) element.classList.add(kind);
}

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function duration(seconds) {
  const s = Math.floor(seconds);
  const two = (value) => String(value).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`;
}

function clock(time) {
  return new Date(time * 1000).toLocaleTimeString([], { hour12: false });
}

// Charts: a row of time, and one for each name that has ever been seen.

class Chart {
  constructor(id, colours = {}) {
    this.place = at(id);
    this.colours = colours;
    this.times = [];
    this.rows = new Map();
    this.plot = null;
    this.legend = element("span", "", "legend");
    this.place.previousElementSibling.append(this.legend);
  }

  colour(name, n) {
    return this.colours[name] || COLOURS[n % COLOURS.length];
  }

  add(time, values) {
    this.times.push(time);
    for (const name of values.keys()) {
      if (!this.rows.has(name)) {
        this.rows.set(name, new Array(this.times.length - 1).fill(null));
        this.forget();
      }
    }
    for (const [name, row] of this.rows) row.push(values.has(name) ? values.get(name) : null);
    while (this.times.length > KEPT) {
      this.times.shift();
      for (const row of this.rows.values()) row.shift();
    }
    for (const [name, row] of this.rows) {
      if (row.every((value) => value === null)) {
        this.rows.delete(name);
        this.forget();
      }
    }
    this.draw();
  }

  // All at once, for a chart whose past is known.
  fill(times, rows) {
    if (this.rows.size !== rows.size || this.times.length <= FEW) this.forget();
    this.times = times;
    this.rows = rows;
    this.draw();
  }

  forget() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
  }

  draw() {
    const data = [this.times, ...this.rows.values()];
    if (this.plot) {
      this.plot.setData(data);
      return;
    }
    this.plot = new uPlot(this.options(), data, this.place);
    this.legend.replaceChildren();
    if (this.rows.size > COLOURS.length) return; // who has more processes finds them in the table
    [...this.rows.keys()].forEach((name, n) => {
      const item = element("span", name);
      item.style.color = this.colour(name, n);
      this.legend.append(item);
    });
  }

  options() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--faint");
    const grid = { stroke: style.getPropertyValue("--line"), width: 1 };
    const names = [...this.rows.keys()];
    return {
      width: this.place.clientWidth,
      height: this.place.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 4, 0, 0],
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { stroke: ink, grid, ticks: { show: false }, size: 24, space: 70, values: (_, times) => times.map(clock) },
        { stroke: ink, grid, ticks: { show: false }, size: 44 },
      ],
      series: [
        {},
        ...names.map((name, n) => ({
          label: name,
          stroke: this.colour(name, n),
          width: 1.5,
          points: { show: this.times.length <= FEW },
        })),
      ],
    };
  }

  again() {
    this.forget();
    if (this.times.length) this.draw();
  }
}

const OUTCOMES = { completed: "#2f9e63", failed: "#c94f4f", lost: "#d9822b" };
const throughput = new Chart("throughput", OUTCOMES);
const latency = new Chart("latency", { p50: "#3b82c4", p95: "#d9822b" });
const busy = new Chart("busy", { busy: "#3b82c4", budget: "#96a1ab" });
const lag = new Chart("lag");
const memory = new Chart("memory");
const charts = [throughput, latency, busy, lag, memory];

// The status, once a second

let before = null;

function show(status) {
  put("state", status.polling ? status.state : `${status.state}, polling is paused`, status.state === "running" ? "good" : "doubt");
  const { ready, wanted } = status.processes;
  put("ready", `${ready} of ${counted(wanted, "process", "processes")} ready`, ready < wanted ? "doubt" : "");
  const engine = status.engine;
  put("engine", engine.reachable ? `engine ${number(engine.rtt_ms)} ms` : "engine NOT reachable", engine.reachable ? "" : "bad");
  put("app", status.app ? `${status.app} on ${status.host}` : "");
  put("about", `${engine.url} · ${status.version} · pid ${status.pid} · up ${duration(status.uptime_s)} · ${counted(status.restarts, "restart")}`);
  drawCharts(status);
  at("processes").replaceChildren(...status.children.map(row));
  at("names").replaceChildren(...status.by_activity.map(nameRow));
  at("activities").replaceChildren(...listed(status.children, "activities", "nothing runs"));
  at("waiting").replaceChildren(...listed(status.children, "waiting", "nothing waits"));
  if (status.failures_so_far !== failuresSeen) {
    failuresSeen = status.failures_so_far;
    fetchJson("/api/failures", (found) => at("failures").replaceChildren(...found.failures.map(failure)));
  }
}

function nameRow(row) {
  const made = document.createElement("tr");
  made.dataset.activity = row.activity;
  const ended = row.ran > 0;
  const share = row.cpu_share === null ? "–" : number(100 * row.cpu_share, 0);
  const advice = row.moved ? "moved" : row.verdict === null || row.verdict === "unknown" ? "–" : row.change ? `${row.runs} → ${row.verdict}` : row.verdict;
  const cells = [
    row.activity, row.running, row.waiting, row.completed, row.failed, took(row.run_ms_p50, ended),
    took(row.run_ms_p95, ended), share, advice,
  ];
  made.append(...cells.map((text) => element("td", text)));
  if (row.failed > 0) made.children[4].className = "bad";
  if (row.change) made.lastChild.className = "doubt";
  return made;
}

// Histograms end at 16 s.
function took(milliseconds, ended) {
  if (milliseconds === null) return ended ? "> 16 s" : "–";
  return milliseconds < 1000 ? `${number(milliseconds, 0)} ms` : `${number(milliseconds / 1000)} s`;
}

// The class of the exception where the code does not name the cause; the message of an exit begins with it.
function words(one) {
  const isNamed = one.code !== "EXECUTION_ERROR" || one.type === one.code || one.message.startsWith(`${one.type}: `);
  return [one.code, ...(isNamed ? [] : [one.type]), one.message].join(": ");
}

function failure(one) {
  const item = element("li", "", one.retryable ? "" : "bad");
  item.append(
    element("span", new Date(one.at * 1000).toLocaleString([], { hour12: false }), "at"),
    ` ${one.activity}  ${words(one)}  `,
    element("span", `workflow ${one.workflow_id}`, "id"),
  );
  return item;
}

let failuresSeen = 0;

async function fetchJson(path, use) {
  try {
    const reply = await fetch(path);
    if (reply.ok) use(await reply.json());
  } catch {
    failuresSeen = 0; // the stream says that nobody answers, and its next status has it asked for again
  }
}

function drawTrend(found) {
  const rows = found.intervals;
  if (!rows.length) return;
  const column = (name) => rows.map((row) => row[name]);
  const times = column("at");
  throughput.fill(times, new Map(Object.keys(OUTCOMES).map((name) => [name, column(name)])));
  latency.fill(times, new Map([["p50", column("run_ms_p50")], ["p95", column("run_ms_p95")]]));
}

function watchTrend() {
  fetchJson("/api/trend", drawTrend);
  setTimeout(watchTrend, TREND_EVERY_MS);
}

function drawCharts(status) {
  const time = Date.now() / 1000;
  const { in_use: inUse, total } = status.concurrency;
  put("slots", `${inUse} of ${total} busy`);
  busy.add(time, new Map([["busy", inUse], ["budget", total]]));
  lag.add(time, byProcess(status.children, (child) => child.loop_lag_ms));
  memory.add(time, byProcess(status.children, (child) => child.uss_mb ?? child.rss_mb));
  // Another supervisor, or a pause of the stream, would make a peak of what lies in between.
  if (before && before.pid === status.pid && time - before.time < 5) {
    const seconds = Math.max(time - before.time, 0.1);
    const ended = (totals) => totals.completed + totals.failed;
    put("rate", `${number(Math.max(ended(status.totals) - ended(before.totals), 0) / seconds)} now`);
  }
  before = { time, pid: status.pid, totals: status.totals };
}

function byProcess(children, value) {
  return new Map(children.map((child) => [`process ${child.process}`, value(child) ?? null]));
}

function blocks(child) {
  const last = child.blocked_at ? `${child.blocked_at} (${child.loops_blocked}×)` : "";
  const now = child.standstill;
  if (!now) return last;
  const what = now.is_stopped ? "stopped by a signal" : now.name ? `${now.name} blocks the loop` : "blocked";
  return `${what}, for ${duration(now.for_s)}${last ? `: ${last}` : ""}`;
}

// A process that finishes what it runs, after a reload, has no slots any more.
function slotsOf(child) {
  return child.phase === "finishing" ? child.in_flight : `${child.in_flight}/${child.slots}`;
}

function row(child) {
  const made = document.createElement("tr");
  made.dataset.process = child.process;
  const cells = [
    child.process, child.pid, child.phase, slotsOf(child), child.completed, child.failed,
    child.restarts, number(child.cpu_percent), number(child.uss_mb ?? child.rss_mb), number(child.loop_lag_ms),
    blocks(child), duration(child.uptime_s),
  ];
  made.append(...cells.map((text) => element("td", text)));
  made.children[2].className = child.phase === "running" ? "good" : "doubt";
  return made;
}

function listed(children, kind, nothing) {
  const found = children
    .flatMap((child) => child[kind].map((one) => ({ ...one, process: child.process })))
    .sort((a, b) => b.for_s - a.for_s)
    .slice(0, 20)
    .map((one) => {
      const over = one.is_over ? "  its outcome is decided, but it runs on" : "";
      const reason = one.waits_for ? `  waits for ${one.waits_for}` : over;
      const text = `${duration(one.for_s).padStart(6)}  process ${one.process}  ${one.name}${one.isolated ? " (isolate)" : ""}${reason}  `;
      const item = element("li", text, one.limit_s && one.for_s > one.limit_s ? "bad" : "");
      item.append(element("span", `workflow ${one.workflow_id}  activity ${one.activity_id}`, "id"));
      return item;
    });
  return found.length ? found : [element("li", nothing, "id")];
}

// Events, each as it comes

function happened(event) {
  const known = Object.entries(event).filter(([name]) => !NOT_SHOWN.has(name)).map(([name, value]) => `${name}=${value}`);
  const item = element("li", "", { error: "bad", warning: "doubt" }[event.level] || "");
  item.append(element("span", clock(event.at), "at"), ` ${event.event}  ${known.join("  ")}`);
  const list = at("events");
  list.prepend(item);
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
}

function listen() {
  const source = new EventSource("/api/events");
  source.addEventListener("status", (message) => {
    at("silent").hidden = true;
    show(JSON.parse(message.data));
  });
  source.addEventListener("happened", (message) => happened(JSON.parse(message.data)));
  source.addEventListener("error", () => {
    at("silent").hidden = false;
    // A browser gives up for good when it was answered by something that is no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => charts.forEach((chart) => chart.again()), 150);
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.again()));
listen();
watchTrend();
