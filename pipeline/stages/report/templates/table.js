// Sorts a table by the column whose button is pressed; cells without a number stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (row) => row.cells[column].textContent.trim();
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
