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
  const made = document.createElement("button");
  made.textContent = name;
  made.onclick = async () => {
    await navigator.clipboard.writeText(format(table));
    made.textContent = "copied";
    setTimeout(() => { made.textContent = name; }, 1500);
  };
  return made;
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
    const tools = document.createElement("div");
    tools.className = "table-tools";
    tools.append(button("copy as CSV", table, csv), button("copy as LaTeX", table, latex));
    (table.closest(".table-wrapper") ?? table).before(tools);
  }
});
