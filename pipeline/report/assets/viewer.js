// The large view of one suspect: its heatmaps, its statistics, and the decision.
"use strict";

const viewer = (() => {
  const dialog = document.querySelector("#viewer");
  if (!dialog || !suspects) return null;

  const detail = dialog.querySelector("#detail");
  const marks = dialog.querySelector("#marks");
  const note = marks.elements.note;
  let entry = null;

  async function open(wanted) {
    const made = await suspects.fragment(wanted);
    entry = wanted;
    detail.replaceChildren(made ? suspects.element(made[1]) : undrawn(wanted));
    prepare();
    const [place, total] = suspects.place(entry);
    dialog.querySelector("#position").textContent = `${place} of ${total.toLocaleString("en")}`;
    dialog.querySelector("#before").disabled = !suspects.beside(entry, -1);
    dialog.querySelector("#after").disabled = !suspects.beside(entry, 1);
    showMark();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    try {
      history.replaceState(null, "", `#suspect-${entry.rank}`);
    } catch {
      // a page from disk may not change its address
    }
  }

  function undrawn(wanted) {
    const node = document.createElement("div");
    const title = document.createElement("h2");
    title.id = "viewer-title";
    title.textContent = `${wanted.rank} ${wanted.pred}`;
    const id = document.createElement("p");
    id.textContent = wanted.image_id;
    const words = document.createElement("p");
    words.textContent = `${wanted.reasons} It has no picture: report.suspects is smaller.`;
    node.append(title, id, words);
    return node;
  }

  function prepare() {
    const slider = detail.querySelector("[name=alpha]");
    if (!slider) return;
    const large = detail.querySelector(".large");
    const picture = large.querySelector("img");
    large.style.setProperty("--ratio", picture.getAttribute("width") / picture.getAttribute("height"));
    const begin = getComputedStyle(document.documentElement).getPropertyValue("--alpha");
    slider.value = dialog.dataset.alpha ?? begin.trim();
    const lay = () => large.style.setProperty("--alpha", slider.value);
    slider.addEventListener("input", () => {
      dialog.dataset.alpha = slider.value;
      lay();
    });
    lay();
    for (const choice of detail.querySelectorAll("[name=map]")) {
      choice.addEventListener("change", () => (large.dataset.map = choice.value));
    }
  }

  function showMark() {
    const { mark, note: text } = review.of(entry);
    for (const button of marks.querySelectorAll("[data-mark]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
    }
    note.value = text ?? "";
  }

  // Pressing the current mark withdraws the decision.
  function press(mark) {
    const now = review.of(entry).mark;
    review.decide(entry, now === mark ? null : mark, note.value);
    showMark();
  }

  function step(steps) {
    const next = suspects.beside(entry, steps);
    if (next) open(next).catch(camaudit.trouble);
  }

  marks.addEventListener("submit", (event) => event.preventDefault());
  marks.addEventListener("click", (event) => {
    const button = event.target.closest("[data-mark]");
    if (button) press(button.dataset.mark);
  });
  note.addEventListener("change", () => {
    const { mark } = review.of(entry);
    if (mark) review.decide(entry, mark, note.value);
  });
  dialog.querySelector("#before").addEventListener("click", () => step(-1));
  dialog.querySelector("#after").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // a click outside the frame
  });
  dialog.addEventListener("close", () => {
    try {
      history.replaceState(null, "", "#suspects");
    } catch {
      // as in open
    }
    document.querySelector(`.open[data-rank="${entry.rank}"]`)?.focus();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input[name=note], input[type=range], input[type=radio]")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else {
      const button = marks.querySelectorAll("[data-mark]")[Number(event.key) - 1];
      if (button) press(button.dataset.mark);
    }
  });

  return { open: (wanted) => open(wanted).catch(camaudit.trouble) };
})();

if (suspects) {
  suspects
    .start()
    .then(() => review.tell())
    .catch(camaudit.trouble);
}
