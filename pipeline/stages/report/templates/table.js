// Sorts a table by the column whose button is pressed; cells without a number stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (row) => row.cells[column].textContent.trim().replace("−", "-");
    const isNumeric = header.classList.contains("n");
    const compare = (a, b) => {
      if (!isNumeric) return direction * key(a).localeCompare(key(b), undefined, { numeric: true });
      const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return direction * (x - y);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  }));
}

// Leaves the rows that have every word of the filter in a cell that is not a number.
for (const filter of document.querySelectorAll(".filter")) {
  const input = filter.querySelector("input"), count = filter.querySelector("output");
  const rows = [...document.getElementById(input.getAttribute("aria-controls")).rows];
  const texts = new Map(rows.map((row) => [row, [...row.cells].filter((cell) => !cell.classList.contains("n"))
    .map((cell) => cell.textContent).join(" ").toLowerCase()]));
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => texts.get(row).includes(word));
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  input.addEventListener("input", apply);
  filter.hidden = false;
  apply();
}

// A link into what is folded unfolds it first.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details");
  if (!details) return;
  details.open = true;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
};
addEventListener("hashchange", unfold);
unfold();
