// The decisions on suspects: kept in the browser, and saved as decisions.csv.
"use strict";

const review = (() => {
  const gallery = document.querySelector("#gallery");
  if (!gallery) return null;

  const COLUMNS = [
    "image_id", "mark", "note", "label", "pred", "kind", "finding_id", "confidence", "image_width",
    "image_height", "image_brightness", "decided",
  ];
  const SAME = ["label", "pred", "kind", "finding_id", "image_width", "image_height"];
  const CONFIDENCE = 0.01; // MAX_CONFIDENCE_CHANGE in pipeline/analysis/ranking/decisions.py
  const key = `camaudit ${gallery.dataset.run}`;
  let kept = {}; // decisions of this browser by image id; mark null: withdrawn
  let earlier = []; // decisions of the file that the rank stage read
  let stays = true;

  try {
    kept = JSON.parse(localStorage.getItem(key)) ?? {};
  } catch {
    stays = false; // this browser stores nothing for pages from disk
  }

  const ready = camaudit.load("decisions").then((rows) => {
    earlier = rows;
  });

  // A decision of this browser is valid while the row is the same.
  const holds = (decision, entry) =>
    decision &&
    SAME.every((name) => decision[name] === entry[name]) &&
    Math.abs(decision.confidence - entry.confidence) <= CONFIDENCE;

  function of(entry) {
    const own = kept[entry.image_id];
    if (holds(own, entry)) return { mark: own.mark, note: own.note };
    return { mark: entry.decision, note: entry.note ?? "" };
  }

  function decide(entry, mark, note) {
    const seen = Object.fromEntries(COLUMNS.map((name) => [name, entry[name] ?? null]));
    const decided = new Date().toISOString().slice(0, 19) + "Z";
    kept[entry.image_id] = { ...seen, mark, note, decided };
    try {
      localStorage.setItem(key, JSON.stringify(kept));
    } catch {
      stays = false;
    }
    suspects.changed(entry);
    tell().catch(camaudit.trouble);
  }

  async function tell() {
    const all = await suspects.everything();
    const open = all.filter((entry) => !of(entry).mark).length;
    document.querySelector("#reviewed").textContent =
      `${(all.length - open).toLocaleString("en")} decided, ${open.toLocaleString("en")} open` +
      (stays ? "" : "; this browser keeps no decisions, save them before you close the page");
    document.querySelector("#tile-open").textContent = open.toLocaleString("en");
  }

  function cell(value) {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  // The saved file also holds earlier decisions, including those on images that are no suspects now.
  async function csv() {
    const all = await suspects.everything();
    const rows = new Map(earlier.map((row) => [row.image_id, row]));
    for (const entry of all) {
      const own = kept[entry.image_id];
      if (!holds(own, entry)) continue;
      if (own.mark) rows.set(entry.image_id, own);
      else rows.delete(entry.image_id);
    }
    const lines = [...rows.values()].map((row) => COLUMNS.map((name) => cell(row[name])).join(","));
    return [COLUMNS.join(","), ...lines].join("\n") + "\n";
  }

  async function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await csv()], { type: "text/csv" }));
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  document.querySelector("#save").addEventListener("click", () => save().catch(camaudit.trouble));
  return { of, decide, tell, ready };
})();
