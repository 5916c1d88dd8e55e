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

function draw() {
  const style = getComputedStyle(document.documentElement);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  return Promise.all(
    Object.entries(charts).map(([id, figure]) => {
      const { data, layout } = coloured(figure, style);
      return Plotly.react(id, data, layout, config);
    }),
  );
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

draw().then(() => (document.documentElement.dataset.drawn = "yes"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
