// Sorts and filters the table of Linears. Nothing is loaded; without script the table still reads.
"use strict";
(() => {
  const table = document.getElementById("linears");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({
    row, place,
    text: row.textContent.toLowerCase(),
    encoding: row.dataset.encoding,
    keys: [...row.cells].map((cell) => {
      const text = cell.dataset.v ?? cell.textContent;
      return text !== "" && !isNaN(text) ? Number(text) : text.toLowerCase();
    }),
  }));
  const collator = new Intl.Collator("en", { numeric: true });
  const heads = [...table.tHead.rows[0].cells];

  // Empty cells come last whichever way the rest is sorted.
  const compare = (a, b, way) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number" && typeof b === "number") return way * (a - b);
    return way * collator.compare(a, b);
  };

  const sort = (column) => {
    const old = heads[column].getAttribute("aria-sort");
    const numbers = rows.some(({ keys }) => typeof keys[column] === "number");
    const way = old ? (old === "ascending" ? -1 : 1) : numbers ? -1 : 1;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
    rows.sort((a, b) => compare(a.keys[column], b.keys[column], way) || a.place - b.place);
    body.append(...rows.map(({ row }) => row));
  };

  const filter = document.getElementById("filter");
  const encoding = document.getElementById("encoding");
  const shown = document.getElementById("shown");
  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const one of rows) {
      const keep = words.every((word) => one.text.includes(word)) &&
        (!encoding.value || one.encoding === encoding.value);
      one.row.hidden = !keep;
      count += keep;
    }
    shown.textContent = `${count} of ${rows.length}`;
  };

  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => sort(i)));
  filter.addEventListener("input", narrow);
  encoding.addEventListener("change", narrow);
})();
