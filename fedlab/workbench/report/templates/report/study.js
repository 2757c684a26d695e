"use strict";
(() => {
  const table = document.getElementById("runs"), body = table.tBodies[0], rows = [...body.rows];
  const form = document.getElementById("filters"), said = document.getElementById("shown");
  const words = document.getElementById("words"), heads = [...table.tHead.rows[0].cells];
  const value = (row, place) => {
    const cell = row.children[place];
    return cell.getAttribute("data-v") ?? cell.textContent;
  };
  const all = rows.length.toLocaleString("en");
  let texts, sorted = "";

  const fits = (field, row) => {
    const found = value(row, field.dataset.column);
    if (!field.dataset.end) return field.value === "=" + found;
    if (found === "") return false;
    return field.dataset.end === "low" ? +found >= +field.value : +found <= +field.value;
  };
  const show = () => {
    const wanted = words.value.toLowerCase().split(" ").filter(Boolean);
    if (wanted.length)
      texts ??= rows.map(row => [...row.cells].map(cell => cell.textContent).join("\n").toLowerCase());
    const fields = [...form.querySelectorAll("[data-column]")].filter(field => field.value !== "");
    let count = 0;
    rows.forEach((row, i) => {
      const fine = wanted.every(word => texts[i].includes(word)) && fields.every(f => fits(f, row));
      if (row.hidden === fine) row.hidden = !fine;
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
  const field = (kind, words, place, end = "") => {
    const label = document.createElement("label"), made = document.createElement(kind);
    Object.assign(made.dataset, {column: place}, end && {end});
    if (end) Object.assign(made, {type: "number", step: "any"});
    label.append(words, made);
    form.lastElementChild.before(label);
    return made;
  };
  heads.forEach((head, place) => {
    const asked = "filter" in head.dataset ? rows : [];
    const found = new Map(asked.map(row => [value(row, place), row.children[place].textContent]));
    if (found.size && found.size <= 30) {
      const select = field("select", head.textContent, place);
      select.add(new Option("any", ""));
      for (const [exact, text] of [...found].sort(([a], [b]) => compare(a, b)))
        select.add(new Option(text, "=" + exact));
    } else if (found.size && ![...found.keys()].some(isNaN)) {
      field("input", `${head.textContent} from`, place, "low");
      field("input", `${head.textContent} to`, place, "high");
    }
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
