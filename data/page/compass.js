"use strict";
// Everything shown comes from the JSON block and enters the page as text, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A5C00"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x"];
const MAX_PICKED = 5, MISSING = -32768;
const byId = (id) => document.getElementById(id);
let section, weights, ranking, picked, order, timer;

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function show(x, digits = 2) {
  if (x === null || Number.isNaN(x)) return "–";
  const text = Math.abs(x).toFixed(digits);
  return (x < 0 && Number(text) !== 0 ? "−" : "") + text;
}

const showSigned = (x) => x > 0 && Number(x.toFixed(2)) !== 0 ? "+" + show(x) : show(x);

function readDraws(s) {              // int16, (draws, models, dimensions), in ten-thousandths
  const bytes = Uint8Array.from(atob(s.draws), (c) => c.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}

function quantile(sorted, q) {
  const place = (sorted.length - 1) * q, low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}

function weigh(values, at, share) {
  let sum = 0;
  for (let d = 0; d < share.length; d++) {
    if (!share[d]) continue;
    const value = values[at + d];
    if (value === null || value === MISSING) return NaN;
    sum += share[d] * value;
  }
  return sum;
}

function ranksOf(scores) {           // 1 = highest, ties share the smallest, NaN has none
  const sorted = scores.filter((x) => !Number.isNaN(x)).sort((a, b) => b - a);
  const first = new Map();
  sorted.forEach((x, i) => { if (!first.has(x)) first.set(x, i + 1); });
  return scores.map((x) => Number.isNaN(x) ? NaN : first.get(x));
}

function rankModels() {
  const total = weights.reduce((a, b) => a + b, 0);
  byId("problem").textContent = total > 0 ? "" : "All weights are 0, so no ranking exists: give at least one value a weight.";
  const share = weights.map((w) => total > 0 ? w / total : 0), D = share.length, M = section.models.length;
  const scores = section.means.map((row) => total > 0 ? weigh(row, 0, share) : NaN);
  const ranked = (list) => ranksOf(list.map((x, m) => m < section.n_ranked ? x : NaN));
  const ranks = ranked(scores), drawn = scores.map(() => []), drawnRanks = scores.map(() => []);
  for (let b = 0; total > 0 && b < section.n_draws; b++) {
    const one = section.models.map((_, m) => weigh(section.decoded, (b * M + m) * D, share) / 10000);
    ranked(one.map((x, m) => Number.isNaN(x) ? scores[m] : x)).forEach((rank, m) => {   // without a draw: the score's place
      if (!Number.isNaN(one[m])) drawn[m].push(one[m]);
      if (!Number.isNaN(one[m]) && !Number.isNaN(rank)) drawnRanks[m].push(rank);
    });
  }
  const ends = (list) => list.length ? (list.sort((a, b) => a - b), [quantile(list, .025), quantile(list, .975)]) : [NaN, NaN];
  ranking = section.models.map((name, m) => {
    const [low, high] = ends(drawn[m]), [rankLow, rankHigh] = ends(drawnRanks[m]);
    return {m, name, score: scores[m], low, high, rank: ranks[m], rankLow: Math.floor(rankLow), rankHigh: Math.ceil(rankHigh)};
  });
}

function sortRows() {
  const value = (row) => order.key === "name" ? row.name.toLowerCase()
    : order.key === "n" ? section.n_prompts[row.m]
    : order.key.startsWith("d") ? section.means[row.m][Number(order.key.slice(1))] ?? NaN : row[order.key];
  const missing = (x) => x === null || Number.isNaN(x);
  ranking.sort((a, b) => {
    const x = value(a), y = value(b), last = (a.m >= section.n_ranked) - (b.m >= section.n_ranked);
    if (last) return last;
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a.m - b.m;
    return (x < y ? -1 : x > y ? 1 : 0) * (order.up ? 1 : -1) || a.m - b.m;
  });
}

function headCell(key, text, title) {
  const th = make("th", null, {scope: "col"});
  if (key === "name") th.className = "left";
  const arrow = order.key === key ? (order.up ? " ▲" : " ▼") : "";
  th.setAttribute("aria-sort", order.key === key ? (order.up ? "ascending" : "descending") : "none");
  const button = make("button", text + arrow, {type: "button", "data-key": key});
  if (title) button.title = title;
  button.addEventListener("click", () => {
    order = order.key === key ? {key, up: !order.up} : {key, up: key === "name" || key === "rank"};
    drawBoard();
    document.querySelector(`#board thead button[data-key="${key}"]`).focus();
  });
  th.append(button);
  return th;
}

function shade(value) {              // orange supports, violet opposes; dark text keeps its contrast on every shade
  const [low, high] = DATA.range, t = Math.min(1, Math.abs(value / (value < 0 ? low : high)));
  const [r, g, b] = value < 0 ? [160, 150, 215] : [240, 160, 80];
  const mix = (c) => Math.round(255 + (c - 255) * t);
  return `rgb(${mix(r)},${mix(g)},${mix(b)})`;
}

function bodyRow(row) {
  const tr = make("tr", null, {"data-model": row.name, class: row.m < section.n_ranked ? "model" : "people"});
  const box = make("input", null, {type: "checkbox", class: "pick", "aria-label": `Compare ${row.name}`});
  box.checked = picked.includes(row.m);
  box.addEventListener("change", () => togglePick(row.m, box));
  const boxCell = make("td", null);
  boxCell.append(box);
  const interval = (low, high, digits) => Number.isNaN(low) ? "" : ` (${show(low, digits)} to ${show(high, digits)})`;
  tr.append(boxCell, make("td", show(row.rank, 0) + interval(row.rankLow, row.rankHigh, 0), {class: "rank"}),
    make("th", row.name, {scope: "row"}), make("td", show(row.score) + interval(row.low, row.high, 2), {class: "score"}));
  section.means[row.m].forEach((value, d) => {
    const td = make("td", null, {class: "cell"}), found = section.cells[`${row.m},${d}`];
    const button = make("button", value === null ? "–" : showSigned(value), {type: "button", tabindex: -1});
    const read = DATA.replies.length ? `${found ? found.length : 0} replies to read` : "mean score";
    button.title = value === null ? "not scored" : read;
    button.setAttribute("aria-label", `${row.name}, ${section.dimensions[d]}: ${button.textContent}, ${button.title}`);
    if (value === null) button.disabled = true; else button.style.background = shade(value);
    if (DATA.replies.length) button.addEventListener("click", () => openReplies(row.m, d));
    td.append(button);
    tr.append(td);
  });
  tr.append(make("td", section.n_prompts[row.m]));
  return tr;
}

function drawBoard() {
  sortRows();
  const head = make("tr", null);
  head.append(make("th", "compare", {scope: "col"}), headCell("rank", "rank"), headCell("name", "model"), headCell("score", "score"),
    ...section.dimensions.map((name, d) => headCell(`d${d}`, name.replaceAll("-", " "), section.definitions[d])), headCell("n", "prompts"));
  document.querySelector("#board thead").replaceChildren(head);
  document.querySelector("#board tbody").replaceChildren(...ranking.map(bodyRow));
  const first = document.querySelector("#board td.cell button");
  if (first) first.tabIndex = 0;
}

function moveFocus(event) {          // one tab stop for all cells, arrow keys inside
  const step = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
  if (!step || !event.target.closest("td.cell")) return;
  event.preventDefault();
  const grid = [...document.querySelectorAll("#board tbody tr")].map((tr) => [...tr.querySelectorAll("td.cell button")]);
  const r = grid.findIndex((row) => row.includes(event.target)), c = grid[r].indexOf(event.target);
  const next = grid[r + step[0]]?.[c + step[1]];
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function togglePick(m, box) {
  if (box.checked && picked.length >= MAX_PICKED) {
    box.checked = false;
    byId("status").textContent = `At most ${MAX_PICKED} models are compared; take one out first.`;
    return;
  }
  picked = box.checked ? [...picked, m] : picked.filter((x) => x !== m);
  byId("status").textContent = `Compared: ${picked.map((x) => section.models[x]).join(", ") || "none"}.`;
  drawRadar();
  drawMap();
  markPicked();
}

function markPicked() {
  byId("radar").setAttribute("aria-label", `Values of the compared models, ${picked.map((m) => section.models[m]).join(", ") || "none"}: `
    + "their numbers stand in the ranking.");
}

function openReplies(m, d) {
  byId("replytitle").textContent = `${section.models[m]}, ${section.dimensions[d]}: mean score ${showSigned(section.means[m][d])}`;
  const parts = (section.cells[`${m},${d}`] || []).flatMap(([index, score]) => {
    const reply = DATA.replies[index];
    return [make("p", `Score ${showSigned(score)}. Prompt:`), make("blockquote", reply.prompt), make("p", "Reply:"),
      make("blockquote", reply.response)];
  });
  byId("replytext").replaceChildren(...(parts.length ? parts : [make("p", "No reply is kept for this cell.")]));
  byId("replies").showModal();
}

const LAYOUT = {margin: {l: 20, r: 20, t: 10, b: 10}, font: {family: "system-ui, sans-serif", size: 12}, showlegend: true,
  legend: {orientation: "h", y: -0.02}, hovermode: "closest", dragmode: false};
const OPTIONS = {displayModeBar: false, responsive: true, displaylogo: false};
const HIDDEN = {visible: false, fixedrange: true};
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function drawRadar() {
  const D = section.dimensions.length, [low, high] = DATA.range, unit = (v) => (v - low) / (high - low);
  if (D < 3) return drawBars();
  const angle = (d) => Math.PI / 2 - 2 * Math.PI * d / D;
  const point = (r, d) => [r * Math.cos(angle(d)), r * Math.sin(angle(d))];
  const traces = picked.map((m, i) => {
    const row = section.means[m], around = [...row.keys(), 0];
    const places = around.map((d) => row[d] === null ? [null, null] : point(unit(row[d]), d));
    return {type: "scatter", mode: "lines+markers", name: plain(section.models[m]), x: places.map((p) => p[0]), y: places.map((p) => p[1]),
      connectgaps: false, line: {color: COLORS[i], dash: DASHES[i], width: 2.5}, marker: {symbol: SYMBOLS[i], size: 8},
      text: around.map((d) => `${section.dimensions[d]}: ${showSigned(row[d])}`), hoverinfo: "text+name"};
  });
  const rings = [0.02, unit(0), 1].map((r, i) => ({type: "circle", x0: -r, x1: r, y0: -r, y1: r,
    line: {color: i === 1 ? "#555" : "#bbb", width: 1, dash: i === 1 ? "dot" : "solid"}, layer: "below"}));
  const spokes = section.dimensions.map((_, d) => {
    const [x, y] = point(1, d);
    return {type: "line", x0: 0, y0: 0, x1: x, y1: y, line: {color: "#ddd", width: 1}, layer: "below"};
  });
  const annotations = section.dimensions.map((name, d) => {
    const [x, y] = point(1.06, d);
    return {x, y, text: plain(name), showarrow: false, font: {size: D > 24 ? 8 : byId("radar").clientWidth < 420 ? 10 : 12},
      xanchor: x > .1 ? "left" : x < -.1 ? "right" : "center", yanchor: y > .9 ? "bottom" : y < -.9 ? "top" : "middle"};
  });
  if (!picked.length) annotations.push({x: 0, y: -1.3, text: "Tick the boxes of up to five models.", showarrow: false});
  Plotly.react("radar", traces, {...LAYOUT, shapes: [...spokes, ...rings], annotations,
    xaxis: {...HIDDEN, range: [-1.75, 1.75]}, yaxis: {...HIDDEN, range: [-1.4, 1.3], scaleanchor: "x"}}, OPTIONS);
}

function drawBars() {
  const traces = picked.map((m, i) => ({type: "bar", name: plain(section.models[m]), x: section.dimensions, y: section.means[m],
    marker: {color: COLORS[i]}}));
  Plotly.react("radar", traces, {...LAYOUT, margin: {l: 50, r: 20, t: 20, b: 40}, shapes: [], annotations: [],
    xaxis: {visible: true, fixedrange: true, type: "category"}, yaxis: {visible: true, fixedrange: true, range: DATA.range, title: {text: "mean score"}}}, OPTIONS);
}

function drawMap() {
  const places = section.map[byId("method").value], M = section.n_ranked, few = places.length <= 30;
  const trace = (name, rows, marker) => ({type: "scatter", mode: "markers+text", name, x: rows.map((k) => places[k][0]), y: rows.map((k) => places[k][1]),
    text: rows.map((k) => (few || k >= M) && !picked.includes(k) ? plain(section.map.labels[k].split("/").pop()) : ""),
    hovertext: rows.map((k) => plain(section.map.labels[k])), hoverinfo: "text", textposition: rows.map((_, i) => i % 2 ? "bottom center" : "top center"),
    textfont: {size: 11}, marker});
  const all = places.map((_, k) => k).filter((k) => places[k][0] !== null), others = all.filter((k) => k < M && !picked.includes(k));
  const traces = [trace("models", others, {symbol: "circle", size: 9, color: "#777"}),
    ...picked.filter((k) => k < M && all.includes(k)).map((k) => trace(plain(section.models[k]), [k],
      {symbol: SYMBOLS[picked.indexOf(k)], size: 13, color: COLORS[picked.indexOf(k)]})),
    trace("countries", all.filter((k) => k >= M), {symbol: "star", size: 13, color: "#000"})].filter((t) => t.x.length);
  const xs = all.map((k) => places[k][0]), left = Math.min(...xs), right = Math.max(...xs), room = 0.3 * (right - left || 1);
  Plotly.react("map", traces, {...LAYOUT, xaxis: {visible: true, showticklabels: false, zeroline: false, fixedrange: true, range: [left - room, right + room]},
    yaxis: {visible: true, showticklabels: false, zeroline: false, fixedrange: true, scaleanchor: "x"}}, OPTIONS);
}

function drawMatches() {
  byId("matchtitle").textContent = section.matches.length ? "Match of each model's value ranking with a country's (Spearman's ρ)"
    : "Countries: no ranking is known under this theory";
  const names = [...new Set(section.matches.map((row) => row.country))];
  const head = make("tr", null);
  head.append(make("th", "model", {scope: "col", class: "left"}), ...names.map((name) => make("th", name, {scope: "col"})),
    make("th", `nearest of ${section.placed.join(", ")}`, {scope: "col", class: "left"}));
  document.querySelector("#matches thead").replaceChildren(...(names.length ? [head] : []));
  document.querySelector("#matches tbody").replaceChildren(...(names.length ? section.models.slice(0, section.n_ranked) : []).map((model) => {
    const tr = make("tr", null);
    tr.append(make("th", model, {scope: "row"}));
    for (const name of names) {
      const row = section.matches.find((r) => r.model === model && r.country === name);
      tr.append(make("td", row && row.rho !== null ? `${show(row.rho)}${row.low === null ? "" : ` (${show(row.low)} to ${show(row.high)})`}` : "–"));
    }
    const near = section.nearest.find((r) => r.model === model);
    tr.append(make("td", near && near.country ? `${near.country}${near.share === null ? "" : ` (${Math.round(100 * near.share)} % of draws)`}` : "–",
      {class: "left"}));
    return tr;
  }));
}

function setWeights(values) {
  weights = [...values];
  byId("weights").replaceChildren(...section.dimensions.map((name, d) => {
    const label = make("label", null), output = make("output", weights[d].toFixed(2));
    const slider = make("input", null, {type: "range", min: 0, max: 1, step: 0.05, "data-dimension": name,
      "aria-label": `Weight of ${name.replaceAll("-", " ")}`, title: section.definitions[d]});
    slider.value = weights[d];
    slider.addEventListener("input", () => {
      weights[d] = Number(slider.value);
      output.textContent = weights[d].toFixed(2);
      byId("preset").value = "own";
      rankAgain();
    });
    const text = make("span", name.replaceAll("-", " "));
    text.title = section.definitions[d];
    label.append(text, slider, output);
    return label;
  }));
  rankAgain();
}

function rankAgain() {
  rankModels();
  drawBoard();
  const first = ranking.find((row) => row.rank === 1);
  byId("status").textContent = first ? `First with these weights: ${first.name}.` : "";
}

function choosePreset() {
  const preset = section.presets[Number(byId("preset").value)];
  if (preset) setWeights(preset.weights);
}

function openSection(index) {
  section = DATA.sections[index];
  section.decoded ??= readDraws(section);
  order = {key: "rank", up: true};
  byId("notes").replaceChildren(...section.notes.map((text) => make("p", text)));
  byId("notes").hidden = !section.notes.length;
  byId("preset").replaceChildren(...section.presets.map((p, i) => make("option", p.title, {value: i})), make("option", "my own weights", {value: "own"}));
  picked = [];
  setWeights(section.presets[0].weights);
  picked = ranking.filter((row) => !Number.isNaN(row.rank)).slice(0, 3).map((row) => row.m);
  showAll();
}

function showAll() {
  drawBoard();
  drawRadar();
  drawMap();
  drawMatches();
  markPicked();
}

function writeLink() {               // what a reader chose, in the address
  const state = new URLSearchParams({board: section.name, weights: weights.join(), sort: (order.up ? "" : "-") + order.key,
    map: byId("method").value});
  for (const name of picked.length ? picked.map((m) => section.models[m]) : [""]) state.append("model", name);
  history.replaceState(null, "", `#${state}`);
}

function readLink() {                // whatever of an address does not fit is passed over
  const state = new URLSearchParams(location.hash.slice(1)), found = DATA.sections.findIndex((s) => s.name === state.get("board"));
  byId("theory").value = Math.max(found, 0);
  byId("method").value = [...byId("method").options].find((o) => o.value === state.get("map"))?.value ?? "MDS";
  openSection(Math.max(found, 0));
  if (found < 0) return;
  const given = (state.get("weights") ?? "").split(",").map((w) => /^[\d.]+$/.test(w) ? Number(w) : NaN);
  if (given.length === weights.length && given.every((w) => w >= 0 && w <= 1)) {
    const same = section.presets.findIndex((p) => p.weights.every((w, d) => w === given[d]));
    byId("preset").value = same < 0 ? "own" : same;
    setWeights(given);
  }
  const names = state.getAll("model"), models = [...new Set(names)].map((name) => section.models.indexOf(name)).filter((m) => m >= 0);
  if (models.length || names.join() === "" && names.length) picked = models.slice(0, MAX_PICKED);
  const sort = /^(-?)(rank|name|score|n|d(\d+))$/.exec(state.get("sort"));
  if (sort && !(sort[3] >= section.dimensions.length)) order = {key: sort[2], up: !sort[1]};
  showAll();
}

async function copyLink() {
  writeLink();
  byId("link").hidden = false;
  byId("link").value = location.href;
  byId("link").select();
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("copied").textContent = "Press Ctrl+C to copy the link.";
  }
}

byId("theory").replaceChildren(...DATA.sections.map((s, i) => make("option", s.title, {value: i})));
byId("theory").addEventListener("change", (event) => openSection(Number(event.target.value)));
byId("preset").addEventListener("change", choosePreset);
byId("method").addEventListener("change", drawMap);
byId("board").addEventListener("keydown", moveFocus);
byId("copy").addEventListener("click", copyLink);
for (const kind of ["input", "change", "click"])   // late: browsers refuse an address that changes with each step of a slider
  document.addEventListener(kind, () => { clearTimeout(timer); timer = setTimeout(writeLink, 200); }, true);
addEventListener("hashchange", readLink);
readLink();
document.documentElement.dataset.ready = "yes";
