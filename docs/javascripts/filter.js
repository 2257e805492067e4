// The table of all keys shows the rows that hold every word of the filter.
document.querySelectorAll("input.key-filter").forEach((input) => {
  const rows = [...document.querySelectorAll(".all-keys tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach(([row, text]) => {
      row.hidden = !words.every((word) => text.includes(word));
    });
  });
});
