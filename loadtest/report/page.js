"use strict";
// Draws the charts in the page's colours and again when the viewer's theme changes; a colour in a figure is the name of
// a CSS variable.
const charts = JSON.parse(document.getElementById("charts").textContent);

function coloured(value, style) {
  if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
}

const dark = matchMedia("(prefers-color-scheme: dark)");

async function draw() {
  const theme = dark.matches ? "dark" : "light";
  const style = getComputedStyle(document.documentElement);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  for (const [id, figure] of Object.entries(charts)) {
    const { data, layout } = coloured(figure, style);
    await Plotly.react(id, data, layout, config);
  }
  document.documentElement.dataset.drawn = theme;
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text); // a page from a file may not write to the clipboard
    button.textContent = "Selected: press Ctrl-C";
  }
}

for (const button of document.querySelectorAll("button[data-copies]")) {
  button.addEventListener("click", () => copy(button));
}

draw();
dark.addEventListener("change", draw);
