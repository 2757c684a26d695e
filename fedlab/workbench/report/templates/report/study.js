"use strict";
(() => {
  const table = document.getElementById("runs"), body = table.tBodies[0], rows = [...body.rows];
  const form = document.getElementById("filters"), said = document.getElementById("shown");
  const words = document.getElementById("words"), heads = [...table.tHead.rows[0].cells];
  const value = (row, place) => row.cells[place].dataset.v ?? row.cells[place].textContent;
  const all = rows.length.toLocaleString("en");
  let texts, sorted = "";

  const fits = (field, row) => {
    const found = value(row, field.dataset.column);
    if (!field.dataset.end) return field.value === "=" + found;
    if (found === "") return false;
    return field.dataset.end === "low" ? +found >= +field.value : +found <= +field.value;
  };
  const show = () => {
    texts ??= rows.map(row => [...row.cells].map(cell => cell.textContent).join("\n").toLowerCase());
    const wanted = words.value.toLowerCase().split(" ").filter(Boolean);
    const fields = [...form.querySelectorAll("[data-column]")].filter(field => field.value !== "");
    let count = 0;
    rows.forEach((row, i) => {
      const fine = wanted.every(word => texts[i].includes(word)) && fields.every(f => fits(f, row));
      row.hidden = !fine;
      count += fine;
    });
    said.textContent = `${count.toLocaleString("en")} of ${all} runs shown${sorted}`;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", {numeric: true}) : a - b;
  };
  const sort = (head, place) => {
    const down = head.ariaSort === "ascending", sign = down ? -1 : 1;
    for (const other of heads) other.ariaSort = "none";
    head.ariaSort = down ? "descending" : "ascending";
    const keys = rows.map((row, i) => [value(row, place), i]);
    // What has no value stays at the end, whichever way.
    keys.sort(([a, i], [b, j]) => (a && b ? sign : 1) * compare(a, b) || i - j);
    body.append(...keys.map(([, i]) => rows[i]));
    sorted = `, by ${head.textContent}, ${head.ariaSort}`;
    show();
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, place));
    head.append(button);
    head.ariaSort = "none";
  });
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  show();
})();
