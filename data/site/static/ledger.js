// Sorts the ledger by a click on a heading, and shows the rows that hold every word typed and the verdict chosen.
"use strict";
const body = document.querySelector("#ledger tbody"), rows = [...body.rows];
const find = document.getElementById("find"), verdict = document.getElementById("verdict");
const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));
function filter() {
  const words = find.value.toLowerCase().split(/\s+/);
  for (const row of rows) {
    row.hidden = !(words.every(word => texts.get(row).includes(word)) &&
      (!verdict.value || row.dataset.verdict === verdict.value));
  }
  const shown = rows.filter(row => !row.hidden).length;
  document.getElementById("count").textContent = shown + " claims";
}
find.addEventListener("input", filter);
verdict.addEventListener("input", filter);
const headings = [...document.querySelectorAll("#ledger th")];
headings.forEach((heading, column) => heading.addEventListener("click", () => {
  const sign = heading.ariaSort === "ascending" ? -1 : 1;
  headings.forEach(other => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (!x || !y) return !x - !y;   // empty ones last, either way
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  });
  body.append(...rows);
}));
