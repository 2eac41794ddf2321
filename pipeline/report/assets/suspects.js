// The list of suspects: filtered, sorted, and shown in pieces as cards or as a table.
"use strict";

const suspects = (() => {
  const gallery = document.querySelector("#gallery");
  if (!gallery) return null;

  const FIELDS = [
    "rank", "image_id", "label", "pred", "kind", "finding_id", "confidence", "score", "decision",
    "note", "image_width", "image_height", "image_brightness", "reasons",
  ];
  const PIECE = 48;
  const form = document.querySelector("#filter");
  const more = document.querySelector("#more");
  const { number, drawn, perList, perCards } = Object.fromEntries(
    Object.entries(gallery.dataset).map(([key, value]) => [key, Number(value)]),
  );
  const all = []; // the entries loaded so far, in the order of their ranks
  let chosen = []; // the entries that match the filter, sorted
  let shown = 0; // number of chosen entries on the page
  let turn = 0; // number of the latest request; the answers to earlier ones are dropped

  async function fetchList(upTo) {
    while (all.length < Math.min(upTo, number)) {
      const rows = await camaudit.load(`list-${Math.floor(all.length / perList)}`);
      const entries = rows.map((row) => Object.fromEntries(row.map((v, i) => [FIELDS[i], v])));
      if (entries[0].rank === all.length + 1) all.push(...entries);
    }
  }

  // Card and detail of a suspect as HTML, which the report has escaped; null without a picture.
  async function fragment(entry) {
    if (entry.rank > drawn) return null;
    const cards = await camaudit.load(`cards-${Math.floor((entry.rank - 1) / perCards)}`);
    return cards[(entry.rank - 1) % perCards];
  }

  function element(html) {
    const template = document.createElement("template");
    template.innerHTML = html.trim();
    return template.content;
  }

  const wanted = () => Object.fromEntries(new FormData(form));

  function fits(entry, { kind, finding, status, text, ...rest }) {
    const mark = review.of(entry).mark;
    const name = rest.class.trim();
    const within = [entry.image_id, entry.label, entry.pred, entry.reasons, review.of(entry).note];
    return (
      (!kind || entry.kind === kind) &&
      (!finding || entry.finding_id === finding) &&
      (!name || entry.label === name || entry.pred === name) &&
      (!status || status === mark || (status === (mark ? "decided" : "open"))) &&
      (!text.trim() || within.join("\n").toLowerCase().includes(text.trim().toLowerCase()))
    );
  }

  function ordered(entries, order) {
    const sign = order.startsWith("-") ? -1 : 1;
    const key = order.replace("-", "");
    const value = (entry) => (key === "decision" ? review.of(entry).mark : entry[key]);
    return entries.toSorted((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === null || b === null) return (a === null) - (b === null) || one.rank - other.rank;
      return sign * compare(a, b) || one.rank - other.rank;
    });
  }

  const plain = ({ kind, finding, status, text, order, ...rest }) =>
    !(kind || finding || status || text.trim() || rest.class.trim()) && order === "rank";

  // Apply the form, and show the list from its beginning.
  async function refresh() {
    const asked = wanted();
    const mine = ++turn;
    await fetchList(plain(asked) ? PIECE : number);
    if (mine !== turn) return;
    chosen = ordered(all.filter((entry) => fits(entry, asked)), asked.order);
    shown = 0;
    gallery.replaceChildren();
    document.querySelector("#rows").replaceChildren();
    const table = asked.view === "table";
    gallery.hidden = table;
    document.querySelector("#listing").hidden = !table;
    mark(asked.order);
    await append(mine);
  }

  async function append(mine = ++turn) {
    const asked = wanted();
    if (plain(asked)) {
      await fetchList(shown + PIECE);
      if (mine === turn) chosen = all;
    }
    const piece = chosen.slice(shown, shown + PIECE);
    const make = asked.view === "table" ? row : card;
    const nodes = await Promise.all(piece.map(make));
    if (mine !== turn) return;
    (asked.view === "table" ? document.querySelector("#rows") : gallery).append(...nodes);
    shown += piece.length;
    tell();
  }

  function tell() {
    const total = plain(wanted()) ? number : chosen.length;
    document.querySelector("#count").textContent =
      `${shown.toLocaleString("en")} of ${total.toLocaleString("en")} shown` +
      (total < number ? `, ${number.toLocaleString("en")} in all` : "");
    more.hidden = shown >= total;
  }

  async function card(entry) {
    const made = await fragment(entry);
    const node = made ? element(made[0]).firstElementChild : bare(entry);
    decorate(node, entry);
    return node;
  }

  // The card of a suspect without a picture.
  function bare(entry) {
    const node = document.createElement("li");
    node.className = "card";
    node.dataset.rank = entry.rank;
    const open = document.createElement("button");
    open.type = "button";
    open.className = "open plain";
    open.dataset.rank = entry.rank;
    open.textContent = `${entry.rank} ${entry.kind.replace("_", " ")}: ${entry.pred}`;
    const badge = document.createElement("span");
    badge.className = "badge mark";
    const id = document.createElement("code");
    id.className = "id";
    id.textContent = entry.image_id;
    node.append(open, badge, id);
    return node;
  }

  function decorate(node, entry) {
    const { mark: name } = review.of(entry);
    const badge = node.querySelector(".badge.mark");
    badge.textContent = name ? name.replace("_", " ") : "";
    badge.hidden = !name;
    node.classList.toggle("decided", Boolean(name));
  }

  function row(entry) {
    const node = document.createElement("tr");
    node.dataset.rank = entry.rank;
    const percent = (share) => `${(100 * share).toFixed(1)}%`;
    const cells = [
      entry.rank, entry.image_id, entry.kind.replace("_", " "), entry.pred,
      percent(entry.confidence), entry.label ?? "–", entry.score.toFixed(2),
      (review.of(entry).mark ?? "–").replace("_", " "),
    ];
    cells.forEach((value, column) => {
      const cell = document.createElement(column ? "td" : "th");
      const holder = document.createElement(column ? "bdi" : "button");
      holder.textContent = value;
      if (!column) {
        cell.scope = "row";
        holder.type = "button";
        holder.className = "open";
        holder.dataset.rank = entry.rank;
        holder.setAttribute("aria-label", `Open suspect ${entry.rank}`);
      }
      cell.append(holder);
      node.append(cell);
    });
    return node;
  }

  // Mark the column by which the table is sorted.
  function mark(order) {
    for (const button of document.querySelectorAll("#listing [data-order]")) {
      const own = button.dataset.order === order.replace("-", "");
      if (own) {
        const way = order.startsWith("-") ? "descending" : "ascending";
        button.parentElement.setAttribute("aria-sort", way);
      } else button.parentElement.removeAttribute("aria-sort");
    }
  }

  function orderBy(key) {
    const select = form.elements.order;
    const now = select.value;
    const order = now === key ? `-${key}` : key;
    if (![...select.options].some((option) => option.value === order)) {
      select.add(new Option(order.replace("-", "falling ").replace("_", " "), order));
    }
    select.value = order;
    refresh().catch(camaudit.trouble);
  }

  // #suspects?class=cat&kind=shortcut sets the filter, #suspect-12 opens one.
  async function follow() {
    const hash = decodeURI(location.hash);
    const one = hash.match(/^#suspect-(\d+)$/);
    if (one) {
      await fetchList(Number(one[1]));
      if (all[one[1] - 1]) viewer.open(all[one[1] - 1]);
    } else if (hash.startsWith("#suspects?")) {
      form.reset();
      for (const [key, value] of new URLSearchParams(location.hash.slice(10))) {
        if (form.elements[key]) form.elements[key].value = value;
      }
      await refresh();
      document.querySelector("#suspects").scrollIntoView();
    }
  }

  async function start() {
    await fetchList(PIECE);
    await review.ready;
    form.hidden = document.querySelector("#toolbar").hidden = false;
    if (plain(wanted()) && wanted().view === "gallery") {
      chosen = all;
      shown = gallery.children.length;
      for (const node of gallery.children) decorate(node, all[node.dataset.rank - 1]);
      tell();
    } else await refresh(); // after a reload the browser may have restored a choice
    await follow();
    addEventListener("hashchange", () => follow().catch(camaudit.trouble));
  }

  let waiting;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    const typing = event.target.type === "search" ? 150 : 0;
    waiting = setTimeout(() => refresh().catch(camaudit.trouble), typing);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => append().catch(camaudit.trouble));
  document.querySelector("#listing").addEventListener("click", (event) => {
    const button = event.target.closest("[data-order]");
    if (button) orderBy(button.dataset.order);
  });
  document.addEventListener("click", (event) => {
    const open = event.target.closest("button.open");
    if (open) viewer.open(all[open.dataset.rank - 1]);
  });

  return {
    start,
    element,
    fragment,
    number,
    // The suspect at a distance from another one in the shown list; undefined beyond its ends.
    beside(entry, steps) {
      return chosen[chosen.indexOf(entry) + steps];
    },
    place: (entry) => [chosen.indexOf(entry) + 1, plain(wanted()) ? number : chosen.length],
    // Update the page after a change of a suspect's decision.
    changed(entry) {
      for (const node of gallery.children) {
        if (Number(node.dataset.rank) === entry.rank) decorate(node, entry);
      }
      for (const node of document.querySelector("#rows").children) {
        if (Number(node.dataset.rank) === entry.rank) node.replaceWith(row(entry));
      }
    },
    async everything() {
      await fetchList(number);
      return all;
    },
  };
})();
