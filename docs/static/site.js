// Tables of the site: a click on a head sorts, buttons copy as CSV and as LaTeX. No library.
"use strict";

const text = cell => cell.textContent.trim();
const cells = table => [...table.rows].map(row => [...row.cells].map(text));
const csv = table => cells(table).map(row => row.map(cell =>
  /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell).join(",")).join("\n") + "\n";

const SPECIAL = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
const escaped = cell => cell.replace(/[\\~^&%$#_{}]/g, sign => SPECIAL[sign] ?? "\\" + sign);
function latex(table) {
  const [head, ...body] = cells(table).map(row => row.map(escaped).join(" & ") + " \\\\");
  const columns = "l".repeat(table.rows[0].cells.length);
  return [`\\begin{tabular}{${columns}}`, "\\toprule", head, "\\midrule", ...body, "\\bottomrule", "\\end{tabular}", ""]
    .join("\n");
}

// Numbers by value, before words; empty cells last in both directions.
function compare(a, b, direction) {
  if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
  const [x, y] = [a, b].map(cell => parseFloat(cell.replaceAll(",", "").replace("−", "-")));
  if (isNaN(x) || isNaN(y)) return isNaN(x) && isNaN(y) ? direction * a.localeCompare(b) : isNaN(x) - isNaN(y);
  return direction * (x - y);
}

function sort(table, head) {
  const direction = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(text(a.cells[head.cellIndex]), text(b.cells[head.cellIndex]), direction));
  table.tBodies[0].append(...rows);
}

function button(name, table, format) {
  const element = document.createElement("button");
  element.textContent = name;
  element.onclick = async () => {
    await navigator.clipboard.writeText(format(table));
    element.textContent = "copied";
    setTimeout(() => { element.textContent = name; }, 1500);
  };
  return element;
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table")) {
    if (table.tHead?.rows.length !== 1 || !table.tBodies.length) continue;
    for (const head of table.tHead.rows[0].cells) {
      head.classList.add("sortable");
      head.tabIndex = 0;
      head.onclick = () => sort(table, head);
      head.onkeydown = event => { if (event.key === "Enter") sort(table, head); };
    }
    for (const cell of table.querySelectorAll("td")) cell.classList.toggle("short", text(cell).length < 30);
    const tools = document.createElement("div");
    tools.className = "table-tools";
    tools.append(button("copy as CSV", table, csv), button("copy as LaTeX", table, latex));
    (table.closest(".table-wrapper") ?? table).before(tools);
  }
});

// A link that fills a viewer brings it into view.
document.addEventListener("click", event => {
  const target = event.target.closest?.("a[target]")?.target;
  document.querySelector(`iframe[name="${target}"]`)?.scrollIntoView({ block: "nearest" });
});

// Learning curves: a box for each switches it on and off, a word leaves those whose names have it.
const WIDTH = 800, HEIGHT = 400, MARGIN = 50;

function draw(svg, lines) {
  const points = lines.flatMap(line => line.points);
  if (!points.length) return svg.replaceChildren();
  const most = Math.max(...points.map(([poses]) => poses));
  const logs = points.map(([, loss]) => Math.log10(loss));
  const low = Math.floor(Math.min(...logs) * 4) / 4, high = Math.ceil(Math.max(...logs) * 4) / 4 + 1e-9;
  const x = poses => MARGIN + (WIDTH - 2 * MARGIN) * poses / most;
  const y = log => HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (log - low) / (high - low);
  const label = (left, top, words, anchor) => `<text x="${left}" y="${top}" text-anchor="${anchor}">${words}</text>`;
  const parts = [label(WIDTH - MARGIN, HEIGHT - 12, "poses", "end"), label(MARGIN, 24, "loss", "end")];
  for (let step = 0; step <= 4; step += 1) {
    const log = low + (high - low) * step / 4, poses = most * step / 4;
    parts.push(label(MARGIN - 6, y(log) + 4, (10 ** log).toPrecision(2), "end"));
    parts.push(label(x(poses), HEIGHT - MARGIN + 18, poses.toLocaleString("en", { notation: "compact" }), "middle"));
    parts.push(`<path d="M${MARGIN},${y(log)}H${WIDTH - MARGIN}" stroke="gray" stroke-opacity="0.3"/>`);
  }
  for (const line of lines) {
    const path = line.points.map(([poses, loss]) => `${x(poses)},${y(Math.log10(loss))}`).join(" ");
    parts.push(`<polyline points="${path}" fill="none" stroke="${line.color}" stroke-width="2"/>`);
  }
  svg.innerHTML = parts.join("");
}

function showCurves(place) {
  const lines = JSON.parse(place.querySelector("script").textContent);
  place.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}"></svg>
<input type="search" placeholder="only those whose names have this word" aria-label="filter"><div class="names"></div>`);
  const [svg, filter, names] = ["svg", "input", ".names"].map(part => place.querySelector(part));
  const boxes = lines.map((line, index) => {
    line.color = `hsl(${index * 137.5 % 360} 65% 50%)`;
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: line.shown || index === 0, onchange: renew });
    label.append(box, ` ${line.name}`);
    box.style.accentColor = line.color;
    names.append(label);
    return box;
  });
  function renew() { draw(svg, lines.filter((line, index) => boxes[index].checked)); }
  filter.oninput = () => boxes.forEach((box, index) => {
    box.parentNode.hidden = !lines[index].name.toLowerCase().includes(filter.value.toLowerCase());
  });
  renew();
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".curves").forEach(showCurves));
