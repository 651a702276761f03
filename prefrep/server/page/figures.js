// Figures as SVG and HTML, from numbers alone; texts of users enter as text, never as markup.
import { letters, percent } from "./facts.js";

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function html(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);

export function drawRanking(place, order, means, responses) {
  const low = Math.min(...means), range = Math.max(...means) - low || 1;
  place.replaceChildren(...order.map((i) => {
    const bar = html("span", { className: "bar" });
    bar.style.width = `${8 + (92 * (means[i] - low)) / range}%`;
    const shown = Array.from(responses[i].trim() || "(empty)");  // whole characters, not halves of surrogate pairs
    const text = shown.length > 160 ? `${shown.slice(0, 160).join("")}…` : shown.join("");
    return html("li", {}, html("b", { textContent: letters[i] }), ` ${signed(means[i])} `, html("small", { textContent: text, dir: "auto" }), bar);
  }));
}

export function drawTable(place, table, probabilities) {
  const head = html("tr", {}, html("td", {}), ...table.map((_, j) => html("th", { scope: "col", textContent: letters[j] })));
  const rows = table.map((row, i) => html("tr", {}, html("th", { scope: "row", textContent: letters[i] }), ...row.map((value, j) => {
    if (i === j) return html("td", { textContent: "–" });
    const cell = html("td", {}, percent(probabilities[i][j]), html("small", { textContent: signed(value) }));
    cell.style.background = `color-mix(in srgb, var(--${value > 0 ? "win" : "lose"}) ${Math.round(55 * Math.abs(2 * probabilities[i][j] - 1))}%, transparent)`;
    return cell;
  })));
  place.replaceChildren(html("table", {}, html("caption", { textContent: "Small print: log-odds in nats." }), html("thead", {}, head), html("tbody", {}, ...rows)));
}

const around = (i, count, radius) => {
  const angle = (2 * Math.PI * i) / count - Math.PI / 2;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
};

function node(x, y, letter) {
  return [svg("circle", { class: "node", cx: x, cy: y, r: 17 }), svg("text", { x, y: y + 5, "text-anchor": "middle" }, letter)];
}

export function drawGraph(place, table, found, words) {
  const picture = svg("svg", { viewBox: "-150 -150 300 300", role: "img", "aria-label": `Graph of victories. ${words}` });
  const count = table.length;
  // Arrows of a cycle are drawn last, over the others.
  const edges = [];
  table.forEach((row, i) => row.forEach((value, j) => { if (value > 0) edges.push([i, j, value, found.cyclic.has(`${i}>${j}`)]); }));
  edges.sort((a, b) => a[3] - b[3]);
  for (const [i, j, value, cyclic] of edges) {
    const [x1, y1] = around(i, count, 115), [x2, y2] = around(j, count, 115);
    const length = Math.hypot(x2 - x1, y2 - y1), dx = (x2 - x1) / length, dy = (y2 - y1) / length;
    const kind = cyclic ? " cyclic" : "", width = 1.2 + 2.5 * Math.abs(2 / (1 + Math.exp(-value)) - 1);
    const [x, y] = [x2 - 19 * dx, y2 - 19 * dy];
    picture.append(svg("line", { class: `edge${kind}`, x1: x1 + 18 * dx, y1: y1 + 18 * dy, x2: x - 9 * dx, y2: y - 9 * dy, "stroke-width": width }));
    picture.append(svg("polygon", { class: `tip${kind}`, points: `${x},${y} ${x - 13 * dx - 6 * dy},${y - 13 * dy + 6 * dx} ${x - 13 * dx + 6 * dy},${y - 13 * dy - 6 * dx}` }));
  }
  table.forEach((_, i) => picture.append(...node(...around(i, count, 115), letters[i])));
  place.replaceChildren(picture);
}

// Whether the operator compares within pairs of dimensions only, so that each pair is a plane in which angles decide.
function isBlocks(operator) {
  return operator.length % 2 === 0 && operator.every((row, i) => row.every((value, j) => value === 0 || (i ^ 1) === j));
}

export function drawEmbeddings(place, embedded) {
  place.replaceChildren();
  if (!embedded) return "This model reads pairs of answers and embeds no single one.";
  const { embeddings, operator } = embedded;
  if (!isBlocks(operator)) return "This model's operator mixes all dimensions, so that no plane shows its comparisons.";
  if (operator.length === 2 && embeddings.every((v) => v[1] === 1)) {
    place.append(line(embeddings.map((v) => v[0])));
    return "This model gives one number per answer; the higher one wins. A line has no circles.";
  }
  for (let l = 0; l < Math.min(operator.length, 8); l += 2) {
    place.append(circle(embeddings.map((v) => [v[l], v[l + 1]]), operator.length > 2 ? `block ${l / 2 + 1}, weight ${operator[l][l + 1].toFixed(2)}` : ""));
  }
  return "An answer beats those that lie up to half a turn counterclockwise from it, and more surely the longer both arrows are.";
}

function circle(points, title) {
  const most = Math.max(...points.map(([x, y]) => Math.hypot(x, y))) || 1;
  const picture = svg("svg", { viewBox: "-150 -150 300 300", role: "img", "aria-label": `Embeddings ${title}: ${points.map(([x, y], i) => `${letters[i]} at ${Math.round((Math.atan2(y, x) * 180) / Math.PI)} degrees, length ${Math.hypot(x, y).toFixed(2)}`).join("; ")}` });
  picture.append(svg("circle", { class: "axis", r: 110 }), svg("line", { class: "axis", x1: -125, x2: 125 }), svg("line", { class: "axis", y1: -125, y2: 125 }));
  points.forEach(([x, y]) => picture.append(svg("line", { class: "spoke", x2: (110 * x) / most, y2: (-110 * y) / most })));
  points.forEach(([x, y], i) => picture.append(...node((110 * x) / most, (-110 * y) / most, letters[i])));
  if (title) picture.append(svg("text", { class: "small", x: 0, y: 146, "text-anchor": "middle" }, title));
  return picture;
}

function line(rewards) {
  const low = Math.min(...rewards), range = Math.max(...rewards) - low || 1;
  const picture = svg("svg", { viewBox: "-150 -40 300 80", role: "img", "aria-label": `Rewards: ${rewards.map((r, i) => `${letters[i]} ${r.toFixed(2)}`).join("; ")}` });
  picture.append(svg("line", { class: "axis", x1: -140, x2: 140 }));
  rewards.forEach((r, i) => picture.append(...node(-120 + (240 * (r - low)) / range, 0, letters[i])));
  return picture;
}
