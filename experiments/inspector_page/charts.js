// Line and bar charts over steps or iterations, with the values at the cursor in the legend.

const WIDTH = 300, HEIGHT = 120, LEFT = 40, RIGHT = 8, TOP = 8, BOTTOM = 20;

// Rounded numbers between low and high.
function ticks(low, high) {
  const step = [1, 2, 5, 10].map((each) => each * 10 ** Math.floor(Math.log10((high - low) / 3 || 1)))
    .find((each) => (high - low) / each <= 3.5);
  const first = Math.ceil(low / step), count = Math.floor(high / step) - first + 1;
  return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

// series: [{name, points: [[x, y], ...]}]; x are whole numbers 0..last. `bars` draws the first one as bars.
// `click(x)` is called with the x nearest to a click; ticks say x + `first`.
function chart(title, series, { last, now = null, xName, digits = 3, bars = false, click = null, first = 0 }) {
  const drawn = series.map((each) => ({ ...each, points: each.points.filter(([, y]) => known(y)) }));
  const values = drawn.flatMap((each) => each.points.map(([, y]) => y));
  const box = make("div", { className: "chart" }, make("h4", { textContent: title }));
  if (!values.length) return box.append(make("p", { className: "quiet", textContent: "nothing to show" })), box;
  const low = Math.min(0, ...values), highest = Math.max(0, ...values), top = highest + (highest - low || 1) * 0.05;
  const inset = bars ? 0.6 : 0, span = Math.max(last, 1) + 2 * inset;
  const x = (value) => LEFT + ((value + inset) / span) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((top - value) / (top - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  for (const tick of ticks(low, top)) {
    root.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
    root.append(svg("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (let tick = 0, by = Math.ceil((last + 1) / 8); tick <= last; tick += by) {
    root.append(svg("text", { x: x(tick), y: HEIGHT - 5, "text-anchor": "middle" }, String(tick + first)));
  }
  if (now !== null) root.append(svg("line", { class: "now", x1: x(now), x2: x(now), y1: TOP, y2: HEIGHT - BOTTOM }));
  drawn.forEach((each, number) => (bars ? drawBars : drawLine)(root, each.points, number, x, y, now, span));
  if (click) {
    root.classList.add("steps");
    root.addEventListener("click", (event) => {
      const area = root.getBoundingClientRect(), scale = area.width / WIDTH;
      const share = ((event.clientX - area.left) / scale - LEFT) / (WIDTH - LEFT - RIGHT);
      click(Math.max(0, Math.min(last, Math.round(share * span - inset))));
    });
  }
  const said = drawn.map((each) => legend(each, now, digits));
  root.setAttribute("aria-label", `${title} by ${xName}: ${drawn.map((each) => summary(each, digits)).join("; ")}`);
  box.append(root, make("div", { className: "legend" }, ...said.map((words, number) => entry(words, number))));
  return box;
}

function drawLine(root, points, number, x, y) {
  root.append(svg("polyline", { class: `line s${number}`, points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }));
  for (const [a, b] of points) root.append(svg("circle", { class: `s${number}`, cx: x(a), cy: y(b), r: 2 }));
}

function drawBars(root, points, number, x, y, now, span) {
  const width = Math.min(26, (0.7 * (WIDTH - LEFT - RIGHT)) / span);
  for (const [a, b] of points) {
    const box = { x: x(a) - width / 2, y: y(b), width, height: Math.max(0, y(0) - y(b)) };
    root.append(svg("rect", { class: a === now ? "bars at" : "bars", ...box }));
  }
}

function legend(series, now, digits) {
  const here = series.points.find(([x]) => x === now) ?? (now === null ? series.points.at(-1) : null);
  return [series.name, here ? fixed(here[1], digits) : "–"];
}

function summary(series, digits) {
  if (!series.points.length) return `${series.name} none`;
  return `${series.name} from ${fixed(series.points[0][1], digits)} to ${fixed(series.points.at(-1)[1], digits)}`;
}

function entry([name, value], number) {
  const key = svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" });
  key.append(svg("line", { class: `line s${number}`, x1: 0, x2: 22, y1: 4, y2: 4 }));
  return make("span", {}, key, `${name} `, make("b", { textContent: value }));
}
