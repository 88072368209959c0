"use strict";
(() => {
  // Words of a mark, under the pointer or beside the focus.
  const tip = document.getElementById("tip");
  const marks = [...document.querySelectorAll(".mark")];
  let on = null;
  for (const mark of marks) {
    const title = mark.querySelector("title");
    mark.dataset.tip = title ? title.textContent : mark.getAttribute("aria-label");
    if (title) title.remove(); // else the browser shows it a second time
  }
  function place(x, y) {
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(x + 14, 8), innerWidth - box.width - 8);
    const below = y + 16 + box.height < innerHeight;
    tip.style.left = Math.max(left, 8) + "px";
    tip.style.top = (below ? y + 16 : Math.max(y - box.height - 12, 8)) + "px";
  }
  function show(mark, x, y) {
    if (on) on.classList.remove("on");
    on = mark;
    mark.classList.add("on");
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    place(x, y);
  }
  function hide() {
    if (on) on.classList.remove("on");
    on = null;
    tip.hidden = true;
  }
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest ? event.target.closest(".mark") : null;
    if (mark) show(mark, event.clientX, event.clientY);
    else if (on && on !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return hide();
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
    const box = mark.getBoundingClientRect();
    show(mark, box.left + box.width / 2, box.top + Math.min(box.height / 2, 80));
  });
  document.addEventListener("scroll", () => { if (on && on !== document.activeElement) hide(); }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const mark = event.target.closest(".chart .mark");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const edge = { Home: 0, End: -1 }[event.key];
    if (!mark || (step === undefined && edge === undefined)) return;
    const all = [...mark.closest(".chart").querySelectorAll(".mark")];
    const at = edge === undefined ? all.indexOf(mark) + step : edge;
    const next = all.at(at % all.length);
    mark.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    event.preventDefault();
  });

  // Tables: a button in each heading that sorts, and a filter.
  function valueOf(row, column, kind) {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (kind !== "number") return text.toLowerCase();
    const number = text === "" || text === "–" ? NaN : Number(text);
    return Number.isNaN(number) ? null : number;
  }
  function sort(head) {
    const body = head.closest("table").tBodies[0];
    const kind = head.dataset.sort;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) if (other.dataset.sort) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [valueOf(row, head.cellIndex, kind), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // what is not known stays below
      const order = kind === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  }
  for (const head of document.querySelectorAll("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  }
  for (const input of document.querySelectorAll("input[data-table]")) {
    const rows = [...document.getElementById(input.dataset.table).querySelectorAll("tbody tr, li.block")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const told = input.parentElement.querySelector("output");
    const filter = () => {
      const wanted = input.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach((row, at) => { shown += !(row.hidden = !texts[at].includes(wanted)); });
      told.textContent = wanted ? `${shown} of ${rows.length}` : "";
    };
    input.addEventListener("input", filter);
    input.parentElement.hidden = false;
  }

  // The network: all rows of a chosen group.
  const chosen = document.getElementById("chosen");
  if (!chosen) return;
  const blocks = [...document.querySelectorAll(".block")];
  function choose(group, chip) {
    let touched = 0;
    for (const block of blocks) {
      const inside = block.dataset.groups.split(" ").includes(group);
      block.classList.toggle("in", group !== null && inside);
      block.classList.toggle("out", group !== null && !inside);
      touched += inside;
    }
    chosen.hidden = group === null;
    if (group === null) return;
    document.getElementById("net").style.setProperty("--chosen", chip.style.getPropertyValue("--hue"));
    const row = document.getElementById("group-" + group);
    const [, name, channels, macs, made, read] = [...row.cells].map((cell) => cell.textContent.trim());
    chosen.firstElementChild.textContent =
      `Group ${group}, ${name}: ${channels} channels, made by ${made}, read by ${read}, ${macs} of the MACs; touches ${touched} rows.`;
  }
  document.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (!chip) return;
    event.preventDefault();
    choose(chip.dataset.group, chip);
    const first = blocks.find((block) => block.classList.contains("in"));
    if (first && !chip.closest(".block")) first.scrollIntoView({ block: "center" });
  });
  chosen.querySelector("button").addEventListener("click", () => choose(null));
  for (const button of document.querySelectorAll("[data-open], [data-close]")) {
    button.addEventListener("click", () => {
      for (const details of document.querySelectorAll("#net details")) details.open = "open" in button.dataset;
    });
  }
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = target ? target.querySelector("details") : null;
    if (details && target.classList.contains("block")) details.open = true;
  });
})();
