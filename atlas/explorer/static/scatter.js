// Draws points with Plotly's WebGL scatter and tells the server which are hovered, clicked or lassoed, by their numbers.
// The points come as one binary answer: a count n, then n numbers each of x, y and colour, 32 bits every one.

const MOST = 5000; // picked points that are sent
const GREY = "rgba(128,128,128,.25)";

async function columns(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(await answer.text());
  const buffer = await answer.arrayBuffer();
  const n = new Uint32Array(buffer, 0, 1)[0];
  const column = (place) => new Float32Array(buffer, 4 * (1 + place * n), n);
  return { x: column(0), y: column(1), colour: column(2) };
}

function marker(colour, look) {
  const middle = (look.low + look.high) / 2; // of points without a value, which are faint
  const known = colour.map((value) => (Number.isNaN(value) ? middle : value));
  const faint = colour.some(Number.isNaN) && Array.from(colour, (value) => (Number.isNaN(value) ? 0.12 : look.opacity));
  const shown = { size: look.size, color: known, opacity: faint || look.opacity, line: { width: 0 } };
  if (look.scale) Object.assign(shown, { colorscale: look.scale, reversescale: look.reverse, cmin: look.low, cmax: look.high,
    showscale: true, colorbar: { title: { text: look.name, side: "right" }, thickness: 12, outlinewidth: 0 } });
  else Object.assign(shown, { color: "#4c6ef5", showscale: false });
  return shown;
}

function axis(name) {
  return { title: { text: name }, zeroline: false, showgrid: name !== "", gridcolor: GREY, showticklabels: name !== "", automargin: true };
}

export async function draw(id, url, look) {
  const began = performance.now();
  const place = document.getElementById(id);
  const { x, y, colour } = await columns(url);
  const trace = { type: "scattergl", mode: "markers", x, y, hoverinfo: "none", marker: marker(colour, look),
    selected: { marker: { opacity: 1, size: look.size * 1.6 } }, unselected: { marker: { opacity: 0.12 } } };
  const layout = { dragmode: "lasso", hovermode: "closest", margin: { l: 50, r: 10, t: 10, b: 42 }, font: { color: "#8a94a3" },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis(look.x), yaxis: axis(look.y) };
  if (look.square) Object.assign(layout.yaxis, { scaleanchor: "x" });
  await Plotly.newPlot(place, [trace], layout, { responsive: true, scrollZoom: true, displaylogo: false,
    modeBarButtonsToRemove: ["toImage", "autoScale2d"] });
  const numbers = (event) => event.points.map((point) => point.pointNumber);
  let last = null;
  place.on("plotly_hover", (event) => {
    const [number] = numbers(event);
    if (number !== last) emitEvent(`${id}-hover`, (last = number));
  });
  place.on("plotly_click", (event) => emitEvent(`${id}-pick`, { numbers: numbers(event).slice(0, 1), count: 1 }));
  place.on("plotly_selected", (event) => {
    if (!event) return;
    const found = numbers(event);
    emitEvent(`${id}-pick`, { numbers: found.slice(0, MOST), count: found.length });
  });
  place.dataset.seconds = (performance.now() - began) / 1000;
  place.dataset.drawn = x.length;
}

export async function recolour(id, url, look) {
  const place = document.getElementById(id);
  const { colour } = await columns(url);
  await Plotly.restyle(place, { marker: [marker(colour, look)] });
  place.dataset.recoloured = look.name;
}

export async function highlight(id, numbers) {
  await Plotly.restyle(document.getElementById(id), { selectedpoints: [numbers] });
}
