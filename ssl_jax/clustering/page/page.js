"use strict";
// The page on which clusters get names. Text from the data is shown by textContent only.

const DATA = JSON.parse(document.getElementById("data").textContent);
const CLUSTERS = DATA.clusters; // largest first; id -1: pictures in no cluster
const BY_ID = new Map(CLUSTERS.map((cluster) => [cluster.id, cluster]));
const ROW = 46; // pixels of a row of the list, as in the style
const STRIP = 6; // pictures of a near cluster
const KEY = `ssl_jax clusters ${DATA.key}`; // of what this browser keeps
const FORMULA = /^'*[=+\-@\t\r＝＋－＠]/; // text that a spreadsheet would compute

let state = { names: {}, merged: {}, outliers: [] }; // merged: cluster -> the one it belongs to
let marked = new Set(); // state.outliers
let table = { state: null, token: "" }; // the names in the table
let places = null; // of all pictures, once rows.js is loaded
let visible = CLUSTERS; // those that match the search
let current = CLUSTERS[0];
let keeps = true; // whether this browser keeps what is entered

const $ = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children); // strings become text, never HTML
  return made;
}

const plain = (number) => number.toLocaleString("en");
const percent = (number) => `${(100 * number / DATA.pictures).toFixed(1)} %`;
const counted = (number, noun) => `${plain(number)} ${noun}${number === 1 ? "" : "s"}`;

// Names ------------------------------------------------------------------------------------------

function head(id) {
  // The cluster whose name counts for cluster `id`.
  while (id in state.merged) id = state.merged[id];
  return id;
}

function members(id) {
  // All clusters merged with `id`, itself included, as in the list.
  const root = head(id);
  return CLUSTERS.filter((cluster) => head(cluster.id) === root);
}

const tidy = (text) => text.normalize("NFC").replace(/[\u0000-\u001f\u007f\u2028\u2029\s]+/g, " ").trim();
const fallback = (id) => `cluster_${String(id).padStart(DATA.width, "0")}`;
const nameOf = (id) => tidy(state.names[head(id)] || "");

function labelOf(id) {
  // What labels.csv says; merged clusters without a name keep together by a number.
  const root = head(id);
  const merged = Object.keys(state.merged).some((other) => head(Number(other)) === root);
  return nameOf(id) || (merged ? fallback(root) : "");
}

function titleOf(id) {
  if (id < 0) return "In no cluster";
  return labelOf(id) || `cluster ${id}`;
}

function rename(id, text) {
  const root = head(id);
  if (tidy(text)) state.names[root] = text;
  else delete state.names[root];
  keep();
}

function merge(id, other) {
  // One of the two that has a name gives it to both.
  let from = head(id);
  let to = head(other);
  if (from === to) return;
  if (!nameOf(to) && nameOf(from)) [from, to] = [to, from];
  delete state.names[from];
  state.merged[from] = to;
  keep();
  show();
}

function split(id) {
  // Cluster `id` leaves its group, which keeps the name.
  const rest = members(id).filter((cluster) => cluster.id !== id).map((cluster) => cluster.id);
  const name = state.names[head(id)];
  for (const other of [id, ...rest]) {
    delete state.merged[other];
    delete state.names[other];
  }
  for (const other of rest.slice(1)) state.merged[other] = rest[0];
  if (name) state.names[rest[0]] = name;
  keep();
  show();
}

function toggle(row) {
  if (!marked.delete(row)) marked.add(row);
  state.outliers = [...marked].sort((a, b) => a - b);
  keep();
}

// What the browser keeps -------------------------------------------------------------------------

function valid(value) {
  // A state read from storage or names.js, without what does not belong to these clusters.
  const clean = { names: {}, merged: {}, outliers: [] };
  for (const [id, name] of Object.entries((value && value.names) || {})) {
    if (BY_ID.has(Number(id)) && id >= 0) clean.names[id] = String(name);
  }
  for (const [id, to] of Object.entries((value && value.merged) || {})) {
    let end = to;
    while (end in clean.merged) end = clean.merged[end];
    if (BY_ID.has(Number(id)) && BY_ID.has(to) && end !== Number(id)) clean.merged[id] = to;
  }
  clean.outliers = ((value && value.outliers) || []).filter(Number.isInteger);
  return clean;
}

function use(value) {
  state = valid(value);
  marked = new Set(state.outliers);
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY));
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...state, token: table.token }));
    keeps = true;
  } catch {
    if (keeps) {
      notice("This browser keeps nothing for this page: download labels.csv before you close it.");
    }
    keeps = false;
  }
  progress();
  drawList();
}

function same(a, b) {
  // Whether two states give the same labels.
  const before = state;
  const labels = (value) => {
    state = valid(value);
    return JSON.stringify([CLUSTERS.map((c) => c.id >= 0 && labelOf(c.id)), state.outliers]);
  };
  const equal = labels(a) === labels(b);
  state = before;
  return equal;
}

function start() {
  const mine = stored();
  use(mine || table.state);
  if (!mine || mine.token === table.token) return;
  if (same(mine, table.state)) return keep();
  notice(
    "The table has other names than those entered in this browser.",
    ["Show the table's", () => { use(table.state); keep(); show(); }],
    ["Keep those entered here", keep],
  );
}

// Called by names.js and rows.js.
function pageNames(value, token) {
  table = { state: value, token };
}

function pageRows(value) {
  places = value;
}

function load(file) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: file });
    script.onload = resolve;
    script.onerror = reject;
    document.head.append(script);
  });
}

let loading = null;

function loadPlaces() {
  loading = loading || load("rows.js").catch(() => {
    loading = null;
    notice("rows.js is missing: keep this page together with the other files of its folder.");
    throw new Error("rows.js is missing");
  });
  return loading;
}

// labels.csv -------------------------------------------------------------------------------------

function cell(text) {
  text = String(text);
  return /^[\w .\/-]*$/.test(text) ? text : `"${text.replaceAll('"', '""')}"`;
}

const safe = (label) => (FORMULA.test(label) ? `'${label}` : label);

function labels() {
  const columns = Object.keys(places.columns);
  const known = new Map(CLUSTERS.map(({ id }) => [id, id < 0 ? "" : safe(labelOf(id))]));
  const lines = [[...columns, "cluster", "label", "outlier"].join(",")];
  places.clusters.forEach((cluster, row) => {
    const outlier = cluster < 0 || marked.has(row);
    const where = columns.map((name) => places.columns[name][row]);
    const label = outlier ? "" : known.get(cluster);
    lines.push([...where, cluster, label, outlier ? 1 : ""].map(cell).join(","));
  });
  return `${lines.join("\n")}\n`;
}

async function download() {
  try {
    await loadPlaces();
  } catch {
    return;
  }
  const address = URL.createObjectURL(new Blob([labels()], { type: "text/csv;charset=utf-8" }));
  const link = element("a", { href: address, download: "labels.csv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

// The page ---------------------------------------------------------------------------------------

function notice(text, ...choices) {
  const box = element("div", { class: "warn" }, element("span", {}, text));
  for (const [label, act] of [...choices, ...(choices.length ? [] : [["Close", () => {}]])]) {
    const onclick = () => { box.remove(); act(); };
    box.append(element("button", { type: "button", onclick }, label));
  }
  $("notices").append(box);
}

function progress() {
  const real = CLUSTERS.filter((cluster) => cluster.id >= 0);
  const named = real.filter((cluster) => nameOf(cluster.id));
  const covered = named.reduce((sum, cluster) => sum + cluster.size, 0);
  const different = new Set(named.map((cluster) => nameOf(cluster.id))).size;
  let text = `${counted(DATA.pictures, "picture")}. ${plain(named.length)} of `;
  text += `${counted(real.length, "cluster")} named (${percent(covered)} of the pictures, `;
  text += `${counted(different, "name")}).`;
  if (marked.size) text += ` ${counted(marked.size, "picture")} marked as ${
    marked.size === 1 ? "an outlier" : "outliers"}.`;
  $("progress").textContent = text;
}

function search() {
  const wanted = $("search").value.trim().toLowerCase();
  visible = CLUSTERS.filter((cluster) => !wanted || String(cluster.id) === wanted ||
    `${titleOf(cluster.id)} ${cluster.mostly || ""}`.toLowerCase().includes(wanted));
  $("list").scrollTop = 0;
  drawList();
}

function drawList() {
  // Only the rows in view are in the document, however many clusters there are.
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(visible.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const focused = document.activeElement && document.activeElement.dataset.id;
  $("rows").style.height = `${visible.length * ROW}px`;
  $("rows").replaceChildren(...visible.slice(first, last).map((cluster, i) => {
    const named = labelOf(cluster.id);
    const details = [counted(cluster.size, "picture")];
    if (named && cluster.id >= 0) details.unshift(`cluster ${cluster.id}`);
    if (cluster.mostly) details.push(`mostly ${cluster.mostly}`);
    const row = element("button", {
      type: "button", class: "row", "data-id": cluster.id,
      "aria-current": cluster === current ? "true" : null,
      onclick: () => { open(cluster); $("side").classList.remove("open"); },
    },
    element("bdi", { class: named ? "" : "unnamed" }, titleOf(cluster.id)),
    element("span", { class: "share" }, percent(cluster.size)),
    element("small", {}, details.join(", ")));
    row.style.top = `${(first + i) * ROW}px`;
    return row;
  }));
  if (!visible.length) $("rows").append(element("p", { class: "quiet" }, "\u00a0 No cluster matches."));
  const again = focused && $("rows").querySelector(`[data-id="${Number(focused)}"]`);
  if (again) again.focus({ preventScroll: true });
}

function reveal() {
  // Scrolls the list to the current cluster.
  const i = visible.indexOf(current);
  const list = $("list");
  if (i < 0) return;
  if (i * ROW < list.scrollTop) list.scrollTop = i * ROW;
  const below = (i + 1) * ROW - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
}

function thumb(cluster, i) {
  const [width, height] = cluster.sizes[i];
  const made = element("div", { class: "thumb" });
  const left = (i % DATA.columns) * DATA.side;
  const top = Math.floor(i / DATA.columns) * DATA.side;
  made.style.width = `${width}px`;
  made.style.height = `${height}px`;
  made.style.backgroundImage = `url("${cluster.sprite}")`;
  made.style.backgroundPosition = `-${left}px -${top}px`;
  return made;
}

const where = (row) => (places
  ? Object.values(places.columns).map((column) => column[row]).join(" ") : `row ${row + 1}`);

function picture(cluster, i, shown) {
  // `shown`: "similarity" or "margin", the number below it.
  const row = cluster.rows[i];
  const numbers = `similarity ${cluster.similarity[i]}, margin ${cluster.margin[i]}`;
  const made = element("button", {
    type: "button", class: "picture", "data-row": row,
    "aria-pressed": String(marked.has(row) || cluster.id < 0),
    disabled: cluster.id < 0 ? "" : null,
    onclick: () => { toggle(row); made.setAttribute("aria-pressed", String(marked.has(row))); },
  },
  element("div", { class: "cell" }, thumb(cluster, i)),
  element("small", {}, cluster[shown][i].toFixed(2)));
  made.dataset.numbers = numbers;
  describe(made);
  return made;
}

function describe(button) {
  // The file of a picture, as soon as it is known.
  const text = `${where(Number(button.dataset.row))}: ${button.dataset.numbers}`;
  button.title = text;
  button.setAttribute("aria-label", `${text}; outlier`);
}

function pictures(cluster) {
  const parts = [];
  if (!cluster.sprite) {
    return [element("p", { class: "quiet" }, "Only the largest clusters have pictures here.")];
  }
  const [typical, borderline, far] = cluster.counts;
  const all = cluster.rows.length === typical;
  const kinds = [
    [all && typical === cluster.size ? "All pictures" : "Typical", "most similar to the centre first; below: similarity", typical, "similarity"],
    ["Borderline", "nearly as similar to another cluster, the closest calls first; below: margin", borderline, "margin"],
    ["Far", "least similar to the centre first; below: similarity", far, "similarity"],
  ];
  let i = 0;
  for (const [title, note, count, shown] of kinds) {
    if (!count) continue;
    const grid = element("div", { class: "pictures" });
    for (const end = i + count; i < end; i++) grid.append(picture(cluster, i, shown));
    parts.push(element("h3", {}, `${title} `, element("span", {}, note)), grid);
  }
  return parts;
}

function naming(cluster) {
  const name = element("input", {
    id: "name", type: "text", maxlength: 200, autocomplete: "off", dir: "auto",
    placeholder: `cluster ${cluster.id}`,
  });
  name.value = state.names[head(cluster.id)] || "";
  name.addEventListener("input", () => { rename(cluster.id, name.value); groups(cluster); });
  const number = element("input", { id: "other", type: "number", min: 0, inputmode: "numeric" });
  const form = element("form", { id: "merge" },
    element("label", {}, "Merge with cluster no.", number),
    element("button", { type: "submit" }, "Merge"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const other = BY_ID.get(number.value === "" ? NaN : Number(number.value));
    const fits = other && other.id >= 0 && head(other.id) !== head(cluster.id);
    number.setCustomValidity(fits ? "" : "Give the number of another cluster that has pictures.");
    if (fits) merge(cluster.id, other.id);
    else number.reportValidity();
  });
  number.addEventListener("input", () => number.setCustomValidity(""));
  return element("div", { class: "naming" },
    element("label", { class: "wide" }, "Name", name), form);
}

function groups(cluster) {
  // Which clusters share the name, and the heading.
  $("heading").textContent = titleOf(cluster.id);
  const together = members(cluster.id).filter((other) => other !== cluster);
  const name = nameOf(cluster.id);
  const alike = CLUSTERS.filter((other) => name && other.id >= 0 && nameOf(other.id) === name &&
    head(other.id) !== head(cluster.id));
  const line = $("groups");
  line.replaceChildren();
  const numbers = (list) => {
    const few = list.slice(0, 12).map((other) => other.id).join(", ");
    return list.length > 12 ? `${few} and ${list.length - 12} more` : few;
  };
  if (together.length) {
    line.append(`Merged with cluster ${numbers(together)}. `,
      element("button", { type: "button", id: "split", onclick: () => split(cluster.id) }, "Take this one out"));
  }
  if (alike.length) line.append(` Same name as cluster ${numbers(alike)}.`);
}

function numberOf(id) {
  // A cluster's number for a line below its title, unless the title has it.
  return id < 0 || titleOf(id) === `cluster ${id}` ? "" : `cluster ${id}, `;
}

function nearby(cluster) {
  const cards = cluster.near.map(([id, cosine]) => {
    const other = BY_ID.get(id);
    const strip = element("div", { class: "strip" });
    const count = other.sprite ? Math.min(STRIP, other.counts[0]) : 0;
    for (let i = 0; i < count; i++) strip.append(thumb(other, i));
    const merged = head(id) === head(cluster.id);
    const details = `${numberOf(id)}${counted(other.size, "picture")}, cosine ${cosine.toFixed(2)}`;
    return element("section", { class: "near" },
      element("strong", {}, element("bdi", {}, titleOf(id))),
      element("div", { class: "quiet" }, details), strip,
      element("div", { class: "buttons" },
        element("button", { type: "button", onclick: () => open(other) }, "Open"),
        element("button", {
          type: "button", class: "join", "data-id": id, disabled: merged ? "" : null,
          onclick: () => merge(cluster.id, id),
        }, merged ? "Merged" : "Merge with this one")));
  });
  return cards.length
    ? [element("h3", {}, "Near clusters ", element("span", {}, "by the cosine of their centres")),
      element("div", { id: "nears" }, ...cards)] : [];
}

function show() {
  // Draws the current cluster; its pictures are loaded only now.
  const cluster = current;
  const main = $("main");
  const line = `${counted(cluster.size, "picture")}, ${percent(cluster.size)}${
    cluster.mostly ? `, mostly ${cluster.mostly}` : ""}`;
  const title = element("div", { class: "head" },
    element("h2", { id: "heading", dir: "auto" }, titleOf(cluster.id)),
    element("span", { class: "quiet" }, `${numberOf(cluster.id)}${line}`));
  if (cluster.id < 0) {
    main.replaceChildren(title, element("p", { class: "quiet" },
      "These pictures belong to no cluster; labels.csv marks them as outliers."),
    ...pictures(cluster));
    return;
  }
  const shown = cluster.rows ? cluster.rows.length : 0;
  const note = `Click a picture to mark it as an outlier.${shown < cluster.size
    ? ` ${plain(shown)} of ${counted(cluster.size, "picture")} are shown.` : ""}`;
  main.replaceChildren(title, naming(cluster), element("div", { id: "groups", class: "quiet" }),
    element("p", { class: "quiet" }, note), ...pictures(cluster), ...nearby(cluster));
  groups(cluster);
}

function open(cluster) {
  current = cluster;
  show();
  reveal();
  drawList();
  $("main").scrollTop = 0;
  if (getComputedStyle($("all")).display !== "none") window.scrollTo(0, 0);
}

function move(by) {
  const at = visible.indexOf(current);
  const next = at < 0 ? visible[0] : visible[at + by];
  if (next) open(next);
}

function nextUnnamed() {
  const at = CLUSTERS.indexOf(current);
  const order = [...CLUSTERS.slice(at + 1), ...CLUSTERS.slice(0, at)];
  const next = order.find((cluster) => cluster.id >= 0 && !nameOf(cluster.id));
  if (next) open(next);
}

function focusOn(id) {
  const field = $(id);
  if (!field) return;
  field.focus();
  field.select();
}

function toSearch() {
  $("side").classList.add("open"); // on narrow screens, where it is closed
  drawList();
  focusOn("search");
}

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  n: nextUnnamed, m: () => focusOn("other"), "/": toSearch, d: download,
  Enter: () => focusOn("name"),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const field = event.target.closest("input");
  if (field) {
    if (event.key === "Escape") field.blur();
    else if (field.id === "name" && event.key === "Enter") { field.blur(); move(1); }
    else if (field.id === "search" && event.key === "Enter" && visible[0]) {
      field.blur();
      $("side").classList.remove("open");
      open(visible[0]);
    } else return;
    event.preventDefault();
    return;
  }
  if (event.key === "Enter" && event.target.closest("button, summary")) return; // theirs
  if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

function ready() {
  document.title = `${DATA.title}: clusters`;
  $("title").textContent = `Clusters of ${DATA.title}`;
  $("bound").textContent = `A cluster shows at most ${DATA.most} of its pictures; labels.csv has ` +
    `all ${plain(DATA.pictures)}.`;
  start();
  progress();
  open(CLUSTERS[0]);
  $("download").addEventListener("click", download);
  $("previous").addEventListener("click", () => move(-1));
  $("next").addEventListener("click", () => move(1));
  $("search").addEventListener("input", search);
  $("all").addEventListener("click", () => {
    const opened = $("side").classList.toggle("open");
    $("all").setAttribute("aria-expanded", String(opened));
    if (opened) window.scrollTo(0, 0);
    drawList();
    reveal();
  });
  $("list").addEventListener("scroll", drawList);
  window.addEventListener("resize", drawList);
  document.addEventListener("keydown", pressed);
  window.addEventListener("storage", (event) => {
    if (event.key === KEY && event.newValue) { use(stored()); progress(); search(); show(); }
  });
  window.addEventListener("beforeunload", (event) => { if (!keeps) event.preventDefault(); });
  loadPlaces().then(() => document.querySelectorAll(".picture").forEach(describe), () => {});
}

load("names.js").then(ready, () => {
  notice("names.js is missing: keep this page together with the other files of its folder.");
  ready();
});
