// Filters the suspects and sorts the classes. Without it the page shows everything.
"use strict";

function makeFilter(form) {
  const items = [...document.querySelectorAll(".suspect")].map((node) => ({
    node,
    text: node.textContent.toLowerCase(),
  }));
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const text = wanted.text.trim().toLowerCase();
    let shown = 0;
    for (const item of items) {
      const { kind, label, pred } = item.node.dataset;
      const fits =
        (!wanted.kind || kind === wanted.kind) &&
        (!wanted.class || label === wanted.class || pred === wanted.class) &&
        item.text.includes(text);
      item.node.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${items.length} shown`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply(); // a reloaded page may come back with a choice made
}

function cellKey(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.textContent.trim();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

function sortBy(table, header, column) {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = [...table.tBodies[0].rows].map((row) => [cellKey(row, column), row]);
  // What has no value stands last in either order.
  rows.sort(([a], [b]) =>
    a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b),
  );
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (header.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header, column));
    header.append(button);
  });
}

const form = document.querySelector("#filter");
if (form) makeFilter(form);
document.querySelectorAll("table.sortable").forEach(makeSortable);
