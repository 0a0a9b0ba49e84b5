"use strict";
const $ = id => document.getElementById(id);
const kSamples = 120;   // one a second
const kWindow = 30;     // seconds that percentiles look back
const kNoteTime = 6000; // ms that a refusal is shown
const kRoot = location.pathname.replace(/\/$/, "");  // behind a proxy, what it puts before all paths

let key = sessionStorage.getItem("dualfp-key") || "";
let model = null;       // of /v1/models
let serverStart = null; // another one after a restart, which may bring another model
let noteUntil = 0;

function headers(json) {
  const result = json ? {"Content-Type": "application/json"} : {};
  if (key) result.Authorization = "Bearer " + key;
  return result;
}

async function api(path, options = {}) {
  const response = await fetch(kRoot + path, {...options, headers: headers(options.body !== undefined)});
  $("key").classList.toggle("asked", response.status === 401);
  return response;
}

$("key").addEventListener("submit", event => {
  event.preventDefault();
  key = $("key-value").value;
  sessionStorage.setItem("dualfp-key", key);
  readModel();
  readPrecision();
});

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : noun.endsWith("ch") ? "es" : "s"}`;

// Prometheus' text format, as far as this server writes it: name{labels} value.
function parseMetrics(text) {
  const samples = {};
  for (const line of text.split("\n")) {
    const match = /^\w+:(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of match[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    (samples[match[1]] ||= []).push({labels, value: Number(match[3])});
  }
  return samples;
}

const total = (metrics, name) => (metrics[name] || []).reduce((sum, s) => sum + s.value, 0);

function buckets(metrics, name) {
  const counts = new Map();
  for (const {labels, value} of metrics[name + "_bucket"] || []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) || 0) + value);
  }
  return [...counts].sort((a, b) => a[0] - b[0]);
}

// Linear inside a bucket, over what came between two readings; as histogram_quantile does.
function quantile(now, before, name, q) {
  const old = new Map(before ? buckets(before, name) : []);
  const list = buckets(now, name).map(([bound, count]) => [bound, count - (old.get(bound) || 0)]);
  const all = list.length ? list[list.length - 1][1] : 0;
  if (all <= 0) return NaN;
  let low = 0, below = 0;
  for (const [bound, count] of list) {
    if (count >= q * all) {
      if (bound === Infinity) return low;
      return low + (bound - low) * (count > below ? (q * all - below) / (count - below) : 1);
    }
    low = bound;
    below = count;
  }
  return low;
}

function compact(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) >= 10000) return (value / 1000).toPrecision(digits) + " k";
  if (Math.abs(value) >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(digits)));
}

function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map(step => step * power).find(step => step >= value * 0.999);
}

class Chart {
  // lines: [{name, color, area}], unit: after numbers, max: of the axis, or none
  constructor(id, title, unit, lines, max) {
    Object.assign(this, {unit, lines, max, data: lines.map(() => [])});
    this.root = $(id);
    this.root.innerHTML = `<h2></h2><div class="figure"></div><div class="legend"></div><div class="plot"><svg viewBox="0 0 ${kSamples - 1} 100"
      preserveAspectRatio="none"></svg></div>`;
    this.root.querySelector("h2").textContent = title;
    this.plot = this.root.querySelector(".plot");
    this.plot.addEventListener("mousemove", event => this.hover(event));
    this.plot.addEventListener("mouseleave", () => { this.at = null; this.draw(); });
    this.legend = lines.map(line => {
      const item = document.createElement("span");
      item.style.setProperty("--c", line.color);
      if (lines.length > 1) this.root.querySelector(".legend").append(item);
      return item;
    });
    this.draw();
  }

  push(values) {
    values.forEach((value, i) => {
      this.data[i].push(value);
      if (this.data[i].length > kSamples) this.data[i].shift();
    });
    this.draw();
  }

  hover(event) {
    const box = this.plot.getBoundingClientRect();
    this.at = Math.round((event.clientX - box.left) / box.width * (kSamples - 1));
    this.draw();
  }

  draw() {
    const finite = this.data.flat().filter(Number.isFinite);
    const top = this.max || niceCeiling(Math.max(...finite, 0));
    let shapes = "";
    for (const share of this.max === 1 || this.plot.clientHeight < 80 ? [0, 100] : [0, 50, 100]) {
      shapes += `<line class="grid" x1="0" x2="${kSamples - 1}" y1="${share}" y2="${share}"/>`;
    }
    this.lines.forEach((line, i) => {
      const values = this.data[i];
      const first = kSamples - values.length;
      let path = "", area = "", open = false, start = 0;
      values.forEach((value, j) => {
        if (!Number.isFinite(value)) { open = false; return; }
        const x = first + j, y = 100 - Math.min(value / top, 1) * 100;
        path += `${open ? "L" : "M"}${x} ${y.toFixed(2)}`;
        if (!open) { area += `M${x} 100`; start = x; }
        area += `L${x} ${y.toFixed(2)}`;
        open = true;
        if (!Number.isFinite(values[j + 1])) area += `L${x} 100Z`;
      });
      if (line.area) shapes += `<path class="area" style="fill:${line.color}" d="${area}"/>`;
      shapes += `<path style="stroke:${line.color}" d="${path}"/>`;
    });
    this.plot.querySelector("svg").innerHTML = shapes;
    this.plot.querySelectorAll(".tick, .when, .tip, .cross").forEach(node => node.remove());
    const label = (className, text, style) => {
      const node = document.createElement("span");
      node.className = className;
      node.textContent = text;
      Object.assign(node.style, style);
      this.plot.append(node);
    };
    if (this.max !== 1 && finite.length) label("tick", this.format(top, {unit: " "}), {top: "0"});
    label("when", `${kSamples} s ago`, {left: "0"});
    label("when", "now", {right: "0"});

    const show = index => this.lines.map((line, i) => this.format(this.data[i][index], line));
    const last = this.data[0].length - 1;
    this.root.querySelector(".figure").innerHTML = "";
    const shown = this.format(this.data[0][last], this.lines[0]).split(" ");
    const figure = this.root.querySelector(".figure");
    figure.textContent = shown[0] + " ";
    const unit = document.createElement("small");
    unit.textContent = shown.slice(1).join(" ");
    figure.append(unit);
    this.legend.forEach((item, i) => {
      item.textContent = this.lines[i].name + " ";
      const value = document.createElement("b");
      value.textContent = show(last)[i];
      item.append(value);
    });
    if (this.at != null) {
      const index = this.at - (kSamples - this.data[0].length);
      if (index >= 0 && index <= last) {
        const share = this.at / (kSamples - 1) * 100;
        label("cross", "", {left: share + "%"});
        const text = show(index).map((value, i) => `${this.lines[i].name} ${value}`).join("  ·  ");
        label("tip", `${last - index} s ago:  ${text}`,
              share > 50 ? {right: 102 - share + "%"} : {left: share + 2 + "%"});
      }
    }
  }

  format(value, line) {
    if (value === undefined || !Number.isFinite(value)) return "–";
    if (this.unit === "%") return `${compact(value * 100)} %`;
    if (this.unit === "s") return value >= 1 ? `${compact(value)} s` : `${compact(value * 1000)} ms`;
    return `${compact(value)}${line.unit || this.unit ? " " + (line.unit || this.unit) : ""}`;
  }
}

const charts = {
  history: new Chart("history", "Layers computed in FP8", "%",
                     [{name: "FP8", color: "var(--fp8)", area: true}], 1),
  throughput: new Chart("throughput", "Throughput", "tokens/s",
                        [{name: "generated", color: "var(--exact)", area: true},
                         {name: "prompt", color: "var(--second)"}]),
  ttft: new Chart("ttft", `Time to first token, last ${kWindow} s`, "s",
                  [{name: "p50", color: "var(--exact)"}, {name: "p90", color: "var(--second)"},
                   {name: "p99", color: "var(--fp8)"}]),
  tpot: new Chart("tpot", `Time between tokens, last ${kWindow} s`, "s",
                  [{name: "p50", color: "var(--exact)"}, {name: "p90", color: "var(--second)"},
                   {name: "p99", color: "var(--fp8)"}]),
  requests: new Chart("requests", "Sequences", "",
                      [{name: "running", color: "var(--exact)", area: true},
                       {name: "waiting", color: "var(--fp8)"}]),
  cache: new Chart("cache", "KV cache in use", "%",
                   [{name: "in use", color: "var(--second)", area: true}]),
  steps: new Chart("steps", `Step duration, last ${kWindow} s`, "s",
                   [{name: "p50", color: "var(--exact)"}, {name: "p99", color: "var(--fp8)"}]),
};

const readings = [];  // {time, metrics}, the last kWindow + 1

async function readMetrics() {
  const response = await fetch(kRoot + "/metrics", {signal: AbortSignal.timeout(5000)});
  const text = await response.text();
  const start = /^process_start_time_seconds (\S+)$/m.exec(text)?.[1];
  if (start !== serverStart) {
    serverStart = start;
    readings.length = 0;
    model = null;
  }
  const metrics = parseMetrics(text);
  const now = {time: performance.now() / 1000, metrics};
  const last = readings[readings.length - 1];
  readings.push(now);
  if (readings.length > kWindow + 1) readings.shift();
  if (!last || !metrics.num_requests_running) return;
  const rate = name => Math.max(0, total(metrics, name) - total(last.metrics, name)) /
                       (now.time - last.time);
  const over = (name, q) => quantile(metrics, readings[0].metrics, name, q);
  charts.history.push([total(metrics, "precision_mode")]);
  charts.throughput.push([rate("generation_tokens_total"), rate("prompt_tokens_total")]);
  charts.ttft.push([0.5, 0.9, 0.99].map(q => over("time_to_first_token_seconds", q)));
  charts.tpot.push([0.5, 0.9, 0.99].map(q => over("inter_token_latency_seconds", q)));
  charts.requests.push([total(metrics, "num_requests_running"), total(metrics, "num_requests_waiting")]);
  charts.cache.push([total(metrics, "kv_cache_usage_perc")]);
  charts.steps.push([0.5, 0.99].map(q => over("step_duration_seconds", q)));

  const tokens = {};
  for (const {labels, value} of metrics.precision_tokens_total || []) tokens[labels.precision] = value;
  const all = Object.values(tokens).reduce((a, b) => a + b, 0);
  const parts = Object.entries(tokens).filter(([, count]) => count > 0)
      .map(([name, count]) => `${compact(count / all * 100)} % ${shown(name)}`);
  $("precision-note").textContent = all === 0 ? "No token computed yet" :
      `${parts.join(", ")} of ${count(all, "token")} computed since the start; ` +
      count(total(metrics, "precision_switches_total"), "switch");
}

// A precision's name as text.
function shown(name) {
  return name.startsWith("fp") ? name.toUpperCase() : name;
}

function showPrecision(precision) {
  for (const button of $("switch").children) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === precision.mode));
    button.disabled = button.dataset.mode !== "auto" && !precision.supported.includes(button.dataset.mode);
  }
  const notes = {exact: "Every step exact", fp8: "Every step in FP8: fastest",
                 layers: "A fixed precision for each layer",
                 auto: `Chosen at each step by ${precision.controller}`};
  if (performance.now() > noteUntil) $("mode-note").textContent = notes[precision.mode] || "";
  const layers = precision.current.layers;
  if ($("layers").children.length !== layers.length) {
    $("layers").replaceChildren(...layers.map(() => document.createElement("i")));
  }
  layers.forEach((name, i) => {
    const cell = $("layers").children[i];
    cell.className = name;
    cell.title = `Layer ${i}: ${shown(name)} in the last step`;
  });
}

async function readPrecision() {
  const response = await api("/v1/precision");
  if (response.ok) showPrecision(await response.json());
}

$("switch").addEventListener("click", async event => {
  const mode = event.target.dataset.mode;
  if (!mode) return;
  const response = await api("/v1/precision", {method: "PUT", body: JSON.stringify({mode})});
  const answer = await response.json();
  if (response.ok) {
    noteUntil = 0;
    showPrecision(answer);
  } else {
    noteUntil = performance.now() + kNoteTime;
    $("mode-note").textContent = answer.error.message;
  }
});

async function readModel() {
  const response = await api("/v1/models");
  if (!response.ok) return;
  model = (await response.json()).data[0];
  $("model").textContent = `${model.id} · context ${model.max_model_len.toLocaleString("en")}`;
}

function setState(good, text) {
  $("dot").className = "dot " + (good ? "ok" : "bad");
  $("state").textContent = text;
}

async function poll() {
  try {
    const health = await (await fetch(kRoot + "/health", {signal: AbortSignal.timeout(5000)})).json();
    setState(health.status === "ok", health.status === "ok" ? "serving" : health.status);
    await readMetrics();
    if (health.status === "ok") {
      if (!model) await readModel();
      await readPrecision();
    }
  } catch {
    setState(false, "no connection");
  }
  setTimeout(poll, 1000);
}
poll();

