// Draws what the agent says, and draws it anew whenever that changes. All text goes in as text: nothing that a server
// says can become markup.
"use strict";

// From this width on the drawing has three columns.
const COLUMNS_FROM_PX = 680;
// Before another stream is asked for, when the last was refused, in ms.
const AGAIN_MS = 3000;
// What one character takes, in px: of addresses, and of the lines below them.
const HEAD_PX = 8;
const SUB_PX = 7;
const SVG = "http://www.w3.org/2000/svg";
const STEPS = {
  "answered": "Last answer of the writer",
  "died": "Its process ended",
  "down-agreed": "Sentinels agreed: down",
  "withdrawn": "Name withdrawn",
  "hastened": "The Sentinels were told to vote at once",
  "asked": "A Sentinel was asked for a failover",
  "selected": "Replica chosen by the leader",
  "promoted": "It says it is the primary",
  "decided": "Decided to publish",
  "published": "Published: sent to Consul",
  "acknowledged": "Acknowledged by Consul",
  "in-dns": "Seen in DNS",
  "confirmed": "Majority has followed",
};
const DAY_MS = 86400000;
// The day's bar: a minute is one wide, and what is shorter than this many minutes is as wide as these.
const DAY = { width: 1440, height: 14, least: 6 };
const PUBLISHED = { "promotion": "published, not yet confirmed", "quorum": "published, confirmed by a majority" };
const ROLES = {
  "primary": "primary",
  "replica": "replica",
  "out-of-sync": "out of sync",
  "down": "down",
  "maintenance": "in maintenance",
};

const at = (id) => document.getElementById(id);

// An element with attributes, and children that are elements or text.
function make(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}
function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}
function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const or = (value, none) => (value === null || value === undefined ? none : value);
const number = (value) => Number(value).toLocaleString("en");
const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;
const time = (text) => text.replace("T", " ").replace(/(\.\d{3})\d*Z$/, "$1Z");
function cut(text, width, each) {
  const most = Math.max(4, Math.floor(width / each));
  if (text.length <= most) return text;
  const half = Math.floor((most - 1) / 2);
  return `${text.slice(0, most - 1 - half)}…${text.slice(text.length - half)}`;
}
function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let size = count;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? size : size.toFixed(1)} ${units[unit]}`;
}
function ago(then, now) {
  const s = Math.max(0, Math.round((Date.parse(now) - Date.parse(then)) / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}
const minute = (now) => Math.floor(Date.parse(now) / 60000);
function millis(ms) {
  return ms < 10000 ? `${number(ms)} ms` : `${number((ms / 1000).toFixed(1))} s`;
}

// ---- What is said of each server ----

function instanceLook(instance, status) {
  const writer = instance.address === status.writer;
  const role = instance.published ? ROLES[instance.published] : "not published";
  const isPrimary = instance.says === "primary";
  if (!instance.says || instance.error) return { look: "bad", role, note: or(instance.error, "does not answer") };
  if (writer) return { look: isPrimary ? "accent" : "bad", role, note: isPrimary ? `generation ${status.generation}` : `says ${instance.says}` };
  if (isPrimary) return { look: "warn", role, note: "says it is a primary" };
  if (instance.says.endsWith("link down")) return { look: "warn", role, note: "link down" };
  return { look: instance.published === "replica" ? "good" : "warn", role, note: behind(instance) };
}
function behind(instance) {
  const parts = [];
  if (instance.behind_bytes !== null) parts.push(`${bytes(instance.behind_bytes)} behind`);
  if (instance.lag_s !== null) parts.push(`lag ${instance.lag_s} s`);
  return parts.join(", ");
}
function sentinelLook(sentinel, status) {
  if (sentinel.error) return { look: "bad", note: sentinel.error };
  const opinion = sentinel.opinion === "up" ? "says it is up" : sentinel.opinion === "just promoted" ? "just promoted" : `says it is ${sentinel.opinion}`;
  const epoch = sentinel.epoch === null ? "" : `, epoch ${sentinel.epoch}`;
  if (sentinel.tilt) return { look: "warn", note: "in TILT" };
  const agrees = sentinel.names === status.writer;
  const healthy = agrees && sentinel.opinion !== "down" && sentinel.opinion !== "agreed down";
  return { look: healthy ? "good" : "warn", note: agrees ? opinion + epoch : `names ${sentinel.names}` };
}

// ---- The drawing ----

const BOX = { height: 58, gap: 12, label: 24 };

function mark(look, x, y) {
  const attributes = { class: `dot is-${look}` };
  if (look === "bad") return svg("path", { ...attributes, d: `M${x - 5} ${y - 3}l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z` });
  if (look === "warn") return svg("path", { ...attributes, d: `M${x} ${y - 6}l6 11h-12z` });
  return svg("circle", { ...attributes, cx: x, cy: y, r: 5 });
}
function box(node) {
  const { x, y, w, look, head, sub } = node;
  return svg("g", {},
    svg("title", {}, `${head}: ${sub}`),
    svg("rect", { class: `box is-${look}`, x, y, width: w, height: BOX.height, rx: 10 }),
    mark(look, x + 18, y + 21),
    svg("text", { class: "head", x: x + 32, y: y + 25 }, cut(head, w - 40, HEAD_PX)),
    svg("text", { class: "sub", x: x + 16, y: y + 45 }, cut(sub, w - 26, SUB_PX)));
}
const label = (text, x, y) => svg("text", { class: "label", x, y }, text);
function arrow(x, y, kind) {
  return svg("path", { class: `tip ${kind}`, d: `M${x} ${y}l-5-9h10z` });
}
function pointing(x, y) {
  return svg("path", { class: "tip", d: `M${x} ${y}l-9-5v10z` });
}

// Who is where: the name, the writer, the other instances, the Sentinels.
function nodes(status) {
  const instance = (found) => {
    const { look, role, note } = instanceLook(found, status);
    return { address: found.address, head: found.address, sub: note ? `${role}, ${note}` : role, look, found };
  };
  const all = status.instances.map(instance);
  const writer = all.find((node) => node.address === status.writer) ||
    (status.writer ? { address: status.writer, head: status.writer, sub: "nothing is known of it", look: "bad" }
      : { address: null, head: "no writer", sub: or(status.why, ""), look: "bad" });
  const name = {
    head: status.name, look: status.writer ? "accent" : "bad",
    sub: status.writer ? PUBLISHED[status.level] || "published" : "answers nothing",
  };
  const sentinels = status.sentinels.map((sentinel) => {
    const { look, note } = sentinelLook(sentinel, status);
    return { head: sentinel.address, sub: note, look, names: sentinel.error ? null : sentinel.names };
  });
  return { name, writer, others: all.filter((node) => node !== writer), sentinels };
}
function follows(node, writer) {
  const says = node.found && node.found.says;
  if (!says || !writer.address || !says.startsWith(`replica of ${writer.address}`)) return null;
  return says.endsWith("link down") ? "is-bad" : "";
}

function columns(parts, width) {
  const w = Math.min(270, Math.floor((width - 100) / 3));
  const step = BOX.height + BOX.gap;
  const rows = Math.max(parts.sentinels.length, parts.others.length, 1);
  const height = Math.max(BOX.label + rows * step, BOX.label + 2 * BOX.height + 44) + 4;
  const middle = (width - w) / 2;
  const stack = (list, x) => {
    const first = BOX.label + (height - 4 - BOX.label - list.length * step + BOX.gap) / 2;
    list.forEach((node, row) => Object.assign(node, { x, y: first + row * step, w }));
    return first;
  };
  const spread = BOX.height + 40;
  const top = BOX.label + (height - 4 - BOX.label - spread - BOX.height) / 2;
  Object.assign(parts.name, { x: middle, y: top, w });
  Object.assign(parts.writer, { x: middle, y: top + spread, w });
  const tops = [stack(parts.sentinels, 2), stack(parts.others, width - w - 2)];
  const mid = (node) => node.y + BOX.height / 2;
  const edges = [];
  for (const node of parts.sentinels) {
    const target = [parts.writer, ...parts.others].find((other) => other.address && other.address === node.names);
    if (!target) continue;
    const [x1, y1, x2, y2] = [node.x + w, mid(node), target.x, mid(target)];
    const kind = target === parts.writer ? "" : "is-warn";
    edges.push(svg("path", { class: `edge is-vote ${kind}`, d: `M${x1} ${y1}C${x1 + 40} ${y1} ${x2 - 40} ${y2} ${x2 - 2} ${y2}` }));
  }
  for (const node of parts.others) {
    const kind = follows(node, parts.writer);
    if (kind === null) continue;
    const [x1, y1, x2, y2] = [middle + w, mid(parts.writer), node.x - 8, mid(node)];
    edges.push(svg("path", { class: `edge ${kind}`, d: `M${x1} ${y1}C${x1 + 40} ${y1} ${x2 - 30} ${y2} ${x2} ${y2}` }), pointing(node.x, y2));
  }
  const labels = [label("Sentinels", 4, tops[0] - 10), label("Name and writer", middle + 2, top - 10)];
  if (parts.others.length > 0) labels.push(label("Other instances", width - w, tops[1] - 10));
  return { height, edges, labels };
}

function stacked(parts, width) {
  const step = BOX.height + BOX.gap;
  const right = width - 28;
  Object.assign(parts.name, { x: 2, y: BOX.label, w: right - 2 });
  Object.assign(parts.writer, { x: 2, y: BOX.label + BOX.height + 34, w: right - 2 });
  const labels = [label("Name and writer", 4, BOX.label - 10)];
  let y = parts.writer.y + BOX.height + 16;
  const list = (title, some, x) => {
    if (some.length === 0) return;
    labels.push(label(title, x + 2, y + 12));
    y += BOX.label;
    for (const node of some) {
      Object.assign(node, { x, y, w: right - x });
      y += step;
    }
    y += 6;
  };
  list("Other instances", parts.others, 34);
  list("Sentinels", parts.sentinels, 2);
  const mid = (node) => node.y + BOX.height / 2;
  const edges = [];
  for (const node of parts.others) {
    const kind = follows(node, parts.writer);
    if (kind === null) continue;
    edges.push(svg("path", { class: `edge ${kind}`, d: `M18 ${parts.writer.y + BOX.height}V${mid(node)}H26` }), pointing(34, mid(node)));
  }
  const lowest = new Map();
  for (const node of parts.sentinels) {
    const target = [parts.writer, ...parts.others].find((other) => other.address && other.address === node.names);
    if (!target) continue;
    const [rail, kind] = target === parts.writer ? [width - 8, ""] : [width - 16, "is-warn"];
    const attributes = { class: `edge is-vote ${kind}` };
    edges.push(svg("path", { ...attributes, d: `M${right} ${mid(node)}H${rail}` }));
    // One way up for all that name the same.
    lowest.set(target, { attributes, rail, from: mid(node) });
  }
  for (const [target, { attributes, rail, from }] of lowest) {
    edges.push(svg("path", { ...attributes, d: `M${rail} ${from}V${mid(target)}H${right}` }));
  }
  return { height: y, edges, labels };
}

// Without a writer each Sentinel names an address all the same.
function naming(status) {
  const { known_sentinels: known, sentinels: all } = status;
  if (status.writer) return `Sentinels: ${status.votes} of ${known} name the writer`;
  return `Sentinels: ${all.filter((one) => one.names).length} of ${known} answer`;
}

function drawing(status, width) {
  const parts = nodes(status);
  const { height, edges, labels } = width >= COLUMNS_FROM_PX ? columns(parts, width) : stacked(parts, width);
  const { name, writer } = parts;
  const x = name.x + name.w / 2;
  const end = writer.y - 1;
  const kind = status.writer ? "is-name" : "is-bad";
  const said = `${status.name} leads to ${or(status.writer, "nothing")}. ` +
    `${plural(parts.others.length, "other instance", "other instances")}, ${naming(status)}. The tables below say the same.`;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": said },
    svg("g", { "aria-hidden": "true" },
      ...labels, ...edges,
      svg("path", { class: `edge ${kind}`, d: `M${x} ${name.y + BOX.height}V${end - 8}` }),
      status.writer ? arrow(x, end, kind) : null,
      ...[name, writer, ...parts.others, ...parts.sentinels].map(box)));
}

// ---- The tables ----

// A table stays one for a screen reader, however it is laid out.
function table(caption, heads, rows, kind) {
  const head = heads.map((text) => make("th", { scope: "col", role: "columnheader", class: text.number ? "number" : null }, text.name));
  const body = rows.map((cells) => make("tr", { role: "row" }, ...cells.map((cell, index) => {
    const shown = cell instanceof Node ? cell : String(or(cell, ""));
    if (index === 0) return make("th", { scope: "row", role: "rowheader" }, shown);
    const { name, number: isNumber, bar } = heads[index];
    const kinds = bar ? "bar" : isNumber ? "number" : null;
    return make("td", { role: "cell", "data-label": name, class: kinds }, shown === "" ? null : shown);
  })));
  return make("table", { class: kind, role: "table" },
    caption ? make("caption", {}, caption) : null,
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...head)),
    make("tbody", { role: "rowgroup" }, ...body));
}
function unseen(one) {
  return one.end_seen && one.end_seen !== "at once" ? `its end would not be seen at once: ${one.end_seen}` : null;
}
function instances(status) {
  const heads = [{ name: "Instance" }, { name: "Published as" }, { name: "It says" }, { name: "Behind", number: true }, { name: "Lag", number: true }, { name: "Version" }];
  const rows = status.instances.map((one) => [
    one.address,
    [one.published ? ROLES[one.published] : "not published", one.zone ? `zone ${one.zone}` : null].filter(Boolean).join(", "),
    [one.says, one.error, unseen(one)].filter(Boolean).join(", ") || "nothing",
    one.behind_bytes === null ? "" : bytes(one.behind_bytes),
    one.lag_s === null ? "" : `${one.lag_s} s`,
    one.version,
  ]);
  return table("Instances", heads, rows, "wide");
}
function sentinels(status) {
  const heads = [{ name: "Sentinel" }, { name: "Names" }, { name: "Its opinion" }, { name: "Epoch", number: true }];
  const rows = status.sentinels.map((one) => [
    one.address,
    or(one.names, "none"),
    [one.opinion, one.tilt ? "in TILT" : null, one.error].filter(Boolean).join(", "),
    one.epoch,
  ]);
  return table(naming(status), heads, rows, "wide");
}

function steps(found) {
  const whole = Math.max(1, found.steps.at(-1).ms);
  const rows = found.steps.map((one) => {
    const start = 100 * (one.ms - one.after_ms) / whole;
    const width = Math.max(0.8, 100 * one.after_ms / whole);
    const bar = svg("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "rail", x: 0, y: 5.5, width: 100, height: 1 }),
      svg("rect", { class: "took", x: Math.min(start, 99.2), y: 1, width, height: 10 }));
    return [STEPS[one.step], millis(one.ms), one === found.steps[0] ? "" : `+${millis(one.after_ms)}`, bar];
  });
  const heads = [{ name: "Step" }, { name: "At", number: true }, { name: "Took", number: true }, { name: "", bar: true }];
  return table(null, heads, rows, "steps");
}
function switchTitle(found) {
  return `Generation ${found.generation}: ${or(found.from, "none")} → ${or(found.to, "none")}`;
}
function timeline(view, open) {
  const { switches } = view;
  if (switches.length === 0) return [];
  const [last, ...before] = switches;
  const told = (one) => [
    make("p", { class: "soft" }, `${time(one.at)}, by ${one.by}: ${one.why}`),
    one.outage_ms === null ? null : make("p", {}, `Clients had no writer for ${millis(one.outage_ms)}.`),
    one.steps.length > 1 ? steps(one) : null,
  ];
  const shown = [make("h3", {}, "The last switch"), make("p", {}, make("span", { class: "mono" }, switchTitle(last))), ...told(last)];
  if (before.length > 0) shown.push(make("h3", {}, "Before that"));
  for (const one of before) {
    const is = open.has(one.generation) ? "" : null;
    shown.push(make("details", { "data-generation": one.generation, open: is }, make("summary", { class: "mono" }, switchTitle(one)), ...told(one)));
  }
  return shown;
}

// ---- The last day ----

// Which writer was published from when to when, and for how long there was none, within a day before now.
function lastDay(writers, now) {
  const end = Date.parse(now);
  const begin = end - DAY_MS;
  const stretches = [];
  const found = { stretches, begin, changes: 0, without: 0 };
  let before = null;
  writers.forEach((one, index) => {
    const next = writers[index + 1];
    const from = Math.max(begin, Date.parse(one.at));
    const to = Math.min(end, next ? Date.parse(next.at) : end);
    const isAnother = one.writer && before && one.writer !== before;
    if (isAnother && Date.parse(one.at) >= begin) found.changes += 1;
    before = or(one.writer, before);
    if (to < from || to < begin) return;
    if (!one.writer) found.without += to - from;
    stretches.push({ from, to, writer: one.writer });
  });
  return found;
}
function dayText(found) {
  if (found.stretches.length === 0) return "The last day: nothing was published.";
  const changes = found.changes === 0 ? "no change of the writer" : plural(found.changes, "change of the writer", "changes of the writer");
  const without = found.without === 0 ? "never without one" : `without one for ${span(found.without)}`;
  return `The last day: ${changes}, ${without}.`;
}
function span(ms) {
  if (ms < 120000) return millis(ms);
  if (ms < 7200000) return `${Math.round(ms / 60000)} min`;
  return `${(ms / 3600000).toFixed(1)} h`;
}
function dayBar(found) {
  const x = (at) => (at - found.begin) * DAY.width / DAY_MS;
  const rects = found.stretches.map((one, index) => {
    const width = Math.max(one.writer ? 0 : DAY.least, x(one.to) - x(one.from));
    const kind = !one.writer ? "none" : index % 2 === 0 ? "led" : "led next";
    const title = svg("title", {}, `${or(one.writer, "no writer")} from ${time(new Date(one.from).toISOString())}`);
    return svg("rect", { class: kind, x: Math.min(x(one.from), DAY.width - width), y: 0, width, height: DAY.height }, title);
  });
  // What is short stays visible.
  rects.sort((a, b) => a.classList.contains("none") - b.classList.contains("none"));
  return svg("svg", { class: "day", viewBox: `0 0 ${DAY.width} ${DAY.height}`, preserveAspectRatio: "none", role: "img", "aria-label": dayText(found) },
    svg("rect", { class: "unknown", x: 0, y: 0, width: DAY.width, height: DAY.height }), ...rects);
}
function day(view, now) {
  const found = lastDay(view.writers, now);
  return [
    make("p", { class: "soft" }, dayText(found)),
    dayBar(found),
    make("p", { class: "scale", "aria-hidden": "true" }, make("span", {}, "24 h ago"), make("span", {}, "12 h"), make("span", {}, "now")),
  ];
}

// ---- A group ----

function badge(status) {
  if (!status) return make("span", { class: "badge warn" }, "? unknown");
  if (status.healthy && !status.degraded) return make("span", { class: "badge good" }, "✓ healthy");
  if (status.healthy) return make("span", { class: "badge warn" }, "▲ degraded");
  return make("span", { class: "badge bad" }, `▲ ${plural(status.problems.length, "problem", "problems")}`);
}

function summary(view) {
  const { status, reasons } = view;
  const count = status.problems.length;
  return [
    make("div", { class: "title" }, make("h2", { id: `title-${view.group}` }, view.group), badge(status)),
    make("p", { class: "lead" }, make("code", {}, status.name), " → ", make("strong", { class: "mono writer" }, or(status.writer, "no writer"))),
    status.why ? make("p", {}, `Generation ${status.generation}: ${status.why}`) : null,
    view.summary ? make("p", { class: "soft" }, "Last decision: ", view.summary) : null,
    reasons.length > 0 ? make("ul", { class: "reasons", "aria-label": "Not done, and why not" }, ...reasons.map((text) => make("li", {}, text))) : null,
    count > 0 ? make("ul", { class: "problems", "aria-label": "Open problems" }, ...status.problems.map((one) => make("li", {}, make("code", {}, one.code), one.text))) : null,
  ];
}

const shownGroups = new Map();

// Replaces a part only when what it shows is another: what has the focus or is selected elsewhere stays so.
function put(parts, name, key, build) {
  const text = JSON.stringify(key);
  if (parts[name].shows === text) return;
  parts[name].shows = text;
  parts[name].place.replaceChildren(...build().filter(Boolean));
}
function section(group) {
  const known = shownGroups.get(group);
  if (known) return known;
  const part = (kind) => ({ place: make("div", { class: kind }), shows: null });
  const parts = { summary: part("summary"), drawing: part("drawing"), since: part("soft"), day: part("last-day"), timeline: part("timeline"), tables: part("tables") };
  parts.whole = make("section", { class: "card", id: `group-${group}`, "aria-labelledby": `title-${group}` },
    parts.summary.place, parts.since.place, parts.drawing.place, parts.day.place, parts.timeline.place, parts.tables.place);
  shownGroups.set(group, parts);
  at("groups").append(parts.whole);
  return parts;
}
function show(view, now) {
  const parts = section(view.group);
  const { status } = view;
  parts.view = view;
  if (!status) {
    put(parts, "summary", view, () => [make("h2", { id: `title-${view.group}` }, view.group), make("p", {}, "Nothing is known yet.")]);
    return;
  }
  const { healthy, degraded, problems, writer, generation, why, name, instances: some, sentinels: them, votes } = status;
  put(parts, "summary", [healthy, degraded, problems, writer, generation, why, name, view.summary, view.reasons], () => summary(view));
  const onlyPublish = new Set(status.publishing_only);
  const agents = status.agents.map((agent) => (onlyPublish.has(agent) ? `${agent} (manage = false)` : agent));
  const watched = agents.length === 0 ? "no agent" : agents.join(", ");
  const since = status.since ? `Since ${time(status.since)} (${ago(status.since, now)}). ` : "";
  put(parts, "since", [since, watched], () => [make("p", {}, `${since}Watched by ${watched}.`)]);
  const width = Math.max(260, Math.floor(parts.drawing.place.clientWidth));
  put(parts, "drawing", [width, writer, some, them, votes, generation, status.level, why], () => [drawing(status, width)]);
  put(parts, "tables", [some, them, votes, status.known_sentinels], () => [instances(status), sentinels(status)]);
  put(parts, "day", [view.writers, minute(now)], () => day(view, now));
  put(parts, "timeline", view.switches, () => {
    const open = new Set([...parts.timeline.place.querySelectorAll("details[open]")].map((one) => Number(one.dataset.generation)));
    return timeline(view, open);
  });
}

// ---- A cluster ----

const SLOTS = 16384;
const covered = (status) => `${number(status.slots_served)} of ${number(SLOTS)} slots are served`;

function slotBar(status) {
  const rects = status.shards.flatMap((shard, index) => shard.slots.map((range) => {
    const [first, last] = range.includes("-") ? range.split("-").map(Number) : [Number(range), Number(range)];
    const kind = !shard.primary ? "none" : index % 2 === 0 ? "led" : "led next";
    const title = svg("title", {}, `${range}: ${or(shard.primary, "no primary")}`);
    return svg("rect", { class: kind, x: first, y: 0, width: last - first + 1, height: DAY.height }, title);
  }));
  return svg("svg", { class: "day", viewBox: `0 0 ${SLOTS} ${DAY.height}`, preserveAspectRatio: "none", role: "img", "aria-label": covered(status) },
    svg("rect", { class: "unknown", x: 0, y: 0, width: SLOTS, height: DAY.height }), ...rects);
}
// A node's address, and its zone where that is known.
const placed = (status) => (address) => (status.zones[address] ? `${address} (${status.zones[address]})` : address);

function shards(status) {
  const heads = [{ name: "Shard" }, { name: "Slots" }, { name: "Primary" }, { name: "Replicas" }, { name: "Epoch", number: true }];
  const at = placed(status);
  const rows = status.shards.map((one) => [
    one.shard, one.slots.join(" "), one.primary ? at(one.primary) : "none", one.replicas.map(at).join(" ") || "none", one.epoch,
  ]);
  return table("Shards", heads, rows, "wide");
}
function migrations(status) {
  if (status.migrations.length === 0) return null;
  const heads = [{ name: "Slots that migrate" }, { name: "From" }, { name: "To" }];
  return table("Slots that migrate", heads, status.migrations.map((one) => [one.slots.join(" "), one.from, one.to]), "wide");
}
function unfit(status, now) {
  if (status.unfit.length === 0) return null;
  const heads = [{ name: "In no name" }, { name: "Node" }, { name: "It is" }, { name: "Why" }, { name: "For", number: true }];
  const rows = status.unfit.map((one) => [
    placed(status)(one.address), one.id.slice(0, 8), one.role ? `${one.role} of shard ${one.shard}` : "of no shard", one.why, ago(one.since, now),
  ]);
  return table("In no name", heads, rows, "wide");
}
function unseenEnds(status) {
  const rows = Object.entries(status.ends_seen).filter(([, seen]) => seen !== "at once");
  if (rows.length === 0) return null;
  return table("Nodes of this host", [{ name: "Node" }, { name: "Its end would not be seen at once" }], rows, "wide");
}
function changes(status) {
  if (status.history.length === 0) return null;
  const heads = [{ name: "Generation" }, { name: "Began" }, { name: "By" }, { name: "What" }, { name: "Slots served", number: true }];
  const rows = status.history.map((one) => [one.generation, time(one.at), one.by, one.what.join("; "), number(one.slots_served)]);
  return table("The last changes", heads, rows, "wide");
}
function clusterSummary({ cluster, status }) {
  const { problems } = status;
  return [
    make("div", { class: "title" }, make("h2", { id: `title-cluster-${cluster}` }, cluster), badge(status)),
    make("p", { class: "lead" }, make("code", {}, status.name), " → ", make("strong", { class: "mono covered" }, covered(status))),
    status.why ? make("p", {}, `Generation ${status.generation}: ${status.why}`) : null,
    problems.length > 0 ? make("ul", { class: "problems", "aria-label": "Open problems" }, ...problems.map((one) => make("li", {}, make("code", {}, one.code), one.text))) : null,
  ];
}
function clusterSection(cluster) {
  const key = `cluster/${cluster}`;
  const known = shownGroups.get(key);
  if (known) return known;
  const part = (kind) => ({ place: make("div", { class: kind }), shows: null });
  const parts = { summary: part("summary"), since: part("soft"), slots: part("last-day"), tables: part("tables") };
  parts.whole = make("section", { class: "card", id: `cluster-${cluster}`, "aria-labelledby": `title-cluster-${cluster}` },
    parts.summary.place, parts.since.place, parts.slots.place, parts.tables.place);
  shownGroups.set(key, parts);
  at("groups").append(parts.whole);
  return parts;
}
function showCluster(view, now) {
  const parts = clusterSection(view.cluster);
  const { status } = view;
  if (!status) {
    put(parts, "summary", view, () => [make("h2", { id: `title-cluster-${view.cluster}` }, view.cluster), make("p", {}, "Nothing is known yet.")]);
    return;
  }
  const { healthy, degraded, problems, generation, why, name, slots_served: served } = status;
  put(parts, "summary", [healthy, degraded, problems, generation, why, name, served], () => clusterSummary(view));
  const voters = `${or(status.voters_answering, 0)} of ${status.voters} voters answer this agent. `;
  const since = status.since ? `Since ${time(status.since)} (${ago(status.since, now)}), by ${status.by}. ` : "";
  const watched = status.agents.length === 0 ? "no agent" : status.agents.join(", ");
  put(parts, "since", [since, voters, watched], () => [make("p", {}, `${since}${voters}Watched by ${watched}.`)]);
  put(parts, "slots", status.shards, () => [slotBar(status)]);
  put(parts, "tables", [status.shards, status.migrations, status.unfit, status.zones, status.ends_seen, status.history, minute(now)], () =>
    [shards(status), migrations(status), unfit(status, now), unseenEnds(status), changes(status)]);
}

// ---- The page ----

let last = null;

// All groups at a glance, what is wrong first.
function rank(status) {
  if (!status || !status.healthy) return 0;
  return status.degraded ? 1 : 2;
}
function overview(view, now) {
  const { group, status } = view;
  const worst = status && status.problems[0];
  return make("li", { "data-group": group },
    make("a", { href: `#group-${group}` }, group), badge(status),
    make("span", { class: "mono" }, status ? or(status.writer, "no writer") : ""),
    dayBar(lastDay(view.writers, now)),
    worst ? make("p", { class: "worst" }, make("code", {}, worst.code), " ", worst.text) : null);
}
function clusterOverview({ cluster, status }) {
  const worst = status && status.problems[0];
  return make("li", { "data-cluster": cluster },
    make("a", { href: `#cluster-${cluster}` }, cluster), badge(status),
    make("span", { class: "mono" }, status ? covered(status) : ""),
    status ? slotBar(status) : make("span", {}),
    worst ? make("p", { class: "worst" }, make("code", {}, worst.code), " ", worst.text) : null);
}
const titled = (view) => or(view.group, view.cluster);
function navigation(views, now) {
  const nav = at("nav");
  nav.hidden = views.length < 2;
  if (nav.hidden) return;
  const sorted = [...views].sort((a, b) => rank(a.status) - rank(b.status) || titled(a).localeCompare(titled(b)));
  const shows = JSON.stringify([minute(now), sorted.map(({ group, cluster, status, writers }) =>
    [group, cluster, writers, status && [status.healthy, status.degraded, status.problems, status.writer, status.shards]])]);
  if (nav.dataset.shows === shows) return;
  nav.dataset.shows = shows;
  const focused = nav.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const rows = sorted.map((view) => (view.cluster ? clusterOverview(view) : overview(view, now)));
  nav.replaceChildren(make("ul", {}, ...rows));
  if (focused) [...nav.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
}
function health(status) {
  if (!status.healthy) return "not healthy";
  return status.degraded ? "degraded" : "healthy";
}
// In a sentence, what a person who does not see the page has to hear of.
function news(before, now) {
  const said = [];
  for (const view of now.groups) {
    const old = before.groups.find((one) => one.group === view.group);
    if (!old || !old.status || !view.status) continue;
    if (old.status.writer !== view.status.writer) said.push(`${view.group}: the writer is ${or(view.status.writer, "none")}, generation ${view.status.generation}.`);
    if (health(old.status) !== health(view.status)) said.push(`${view.group} is ${health(view.status)}.`);
  }
  for (const view of now.clusters) {
    const old = before.clusters.find((one) => one.cluster === view.cluster);
    if (!old || !old.status || !view.status) continue;
    if (old.status.slots_served !== view.status.slots_served) said.push(`${view.cluster}: ${covered(view.status)}.`);
    if (health(old.status) !== health(view.status)) said.push(`${view.cluster} is ${health(view.status)}.`);
  }
  return said.join(" ");
}
function render(view) {
  const said = last ? news(last, view) : "";
  if (said) at("news").textContent = said;
  last = view;
  at("version").textContent = `consul-redis ${view.version}.`;
  const all = [...view.groups, ...view.clusters];
  const ill = all.filter((one) => !one.status || !one.status.healthy).length;
  document.title = ill > 0 ? `▲ ${ill} · consul-redis` : "✓ consul-redis";
  navigation(all, view.at);
  for (const group of view.groups) show(group, view.at);
  for (const cluster of view.clusters) showCluster(cluster, view.at);
}
function link(kind, text) {
  if (at("link").textContent === text) return;
  at("link").className = `link ${kind}`;
  at("link").textContent = text;
}
function listen() {
  const source = new EventSource("events");
  source.onopen = () => link("live", `Live from ${location.host}`);
  source.onmessage = (event) => render(JSON.parse(event.data));
  source.onerror = () => {
    const since = last ? ` What is shown is of ${time(last.at)}.` : "";
    link("lost", `Not connected to the agent.${since}`);
    // A browser asks again by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS);
  };
}

addEventListener("resize", () => {
  if (last) render(last);
});
listen();
