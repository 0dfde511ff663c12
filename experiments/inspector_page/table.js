// The tables: success with its intervals, and the list of episodes, sorted and filtered.

const COLUMNS = [
  { key: "outcome", name: "outcome", value: (each) => ({ running: 0, missed: 1, reached: 2 })[outcome(each)], word: true },
  { key: "task", name: "task", value: (each) => each.category, text: (each) => `${each.category} ${each.instance}`, word: true },
  { key: "row", name: "row", value: (each) => rowOrder.indexOf(each.row), text: (each) => each.row, word: true },
  { key: "seed", name: "seed", value: (each) => each.seed, hidden: () => new Set(index.episodes.map((each) => each.seed)).size < 2 },
  { key: "start", name: "start", value: (each) => each.start_distance, text: (each) => centimetres(each.start_distance), title: "distance at the start, cm" },
  { key: "closest", name: "closest", value: (each) => each.best_distance, text: (each) => centimetres(each.best_distance), title: "closest distance, cm" },
  { key: "steps", name: "steps", value: (each) => each.steps },
  { key: "plan", name: "s/plan", value: (each) => each.plan_seconds, text: (each) => fixed(each.plan_seconds, 2), title: "median seconds per plan" },
  { key: "seconds", name: "s", value: (each) => each.seconds, text: (each) => fixed(each.seconds, 1), title: "seconds of the whole episode" },
];
const sorting = { key: "outcome", down: false };
let rowOrder = [];

const outcome = (episode) => (episode.running ? "running" : episode.success ? "reached" : "missed");
const MARKS = { running: "● running", missed: "✕ missed", reached: "✓ reached" };

function badge(element, episode) {
  element.className = `badge ${outcome(episode)}`;
  element.textContent = MARKS[outcome(episode)];
  return element;
}

// Equal values: in the order of rows, then of instances. What has no value comes last either way.
function sorted(episodes) {
  const { value } = COLUMNS.find((column) => column.key === sorting.key), sign = sorting.down ? -1 : 1;
  const order = (a, b) => (known(b) - known(a)) || (a < b ? -sign : a > b ? sign : 0);
  const plain = (a, b) => rowOrder.indexOf(a.row) - rowOrder.indexOf(b.row) || a.instance - b.instance || a.seed - b.seed;
  return [...episodes].sort((a, b) => order(value(a), value(b)) || plain(a, b));
}

function chosenEpisodes(index) {
  const wanted = { category: byId("filter-category").value, row: byId("filter-row").value, outcome: byId("filter-outcome").value };
  return sorted(index.episodes.filter((each) =>
    (!wanted.category || each.category === wanted.category) && (!wanted.row || each.row === wanted.row) &&
    (!wanted.outcome || outcome(each) === wanted.outcome)));
}

function showFilters(index) {
  rowOrder = [...new Set(["planner", "inverse", "random", "expert", ...index.episodes.map((each) => each.row)])];
  const options = { category: (each) => each.category, row: (each) => each.row, outcome };
  for (const [name, read] of Object.entries(options)) {
    const select = byId(`filter-${name}`), kept = select.value, counts = new Map();
    for (const each of index.episodes) counts.set(read(each), (counts.get(read(each)) ?? 0) + 1);
    select.replaceChildren(make("option", { value: "", textContent: `all (${index.episodes.length})` }),
      ...[...counts].map(([value, count]) => make("option", { value, textContent: `${value} (${count})` })));
    select.value = counts.has(kept) ? kept : "";
  }
}

function showEpisodes(episodes, current, refresh, choose) {
  const columns = COLUMNS.filter((column) => !column.hidden?.());
  const heads = columns.map((column) => {
    const active = sorting.key === column.key, arrow = active ? (sorting.down ? " ▾" : " ▴") : "";
    const button = make("button", { type: "button", textContent: column.name + arrow, title: column.title ?? "" });
    button.addEventListener("click", () => {
      Object.assign(sorting, { key: column.key, down: active && !sorting.down });
      refresh();
      byId("episodes").querySelectorAll("thead button")[columns.indexOf(column)].focus();
    });
    const head = make("th", { scope: "col", className: column.word ? "word" : "" }, button);
    if (active) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    return head;
  });
  const rows = episodes.map((each) => {
    const cells = columns.map((column) => make("td", {
      className: column.word ? "word" : "", textContent: column.text ? column.text(each) : known(column.value(each)) ? column.value(each) : "–",
    }));
    cells[0].replaceChildren(make("a", { href: `#${each.name}` }, badge(make("span"), each)));
    const row = make("tr", { title: each.scene }, ...cells);
    row.dataset.name = each.name;
    if (each.name === current) row.setAttribute("aria-current", "true");
    row.addEventListener("click", () => choose(each.name));
    return row;
  });
  byId("episodes").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

function mark(name) {
  for (const row of byId("episodes").tBodies[0].rows) {
    row.toggleAttribute("aria-current", false);
    if (row.dataset.name !== name) continue;
    row.setAttribute("aria-current", "true");
    const area = row.closest(".scroll"), from = row.offsetTop - 34, to = row.offsetTop + row.offsetHeight;
    if (from < area.scrollTop) area.scrollTop = from;
    else if (to > area.scrollTop + area.clientHeight) area.scrollTop = to - area.clientHeight;
  }
}

// Over everything, and by category where there are several.
function showSummary(index) {
  const categories = [...new Set(index.table.map((each) => each.category))];
  const whole = categories.includes("all") ? "all" : categories[0], others = categories.filter((each) => each !== whole);
  successTable(byId("summary"), index.table, whole ? [whole] : []);
  successTable(byId("by-category"), index.table, others);
  byId("tests").replaceChildren(...pairedTests(index.tests, [whole]));
  byId("category-tests").replaceChildren(...pairedTests(index.tests, others));
  byId("detail").hidden = others.length === 0;
}

function successTable(table, entries, categories) {
  const heads = ["", "reached", "Wilson 95 %", "", "closest", "s/plan"];
  const percent = (value) => `${Math.round(100 * value)}`;
  const rowOf = (each) => {
    const words = [`${each.successes}/${each.episodes}`, `${percent(each.rate)} % [${percent(each.wilson_low)}, ${percent(each.wilson_high)}]`,
      "", centimetres(each.median_best_distance), fixed(each.seconds_per_plan, 2)];
    const row = make("tr", { title: `median of the closest distances ${centimetres(each.median_best_distance)} cm, of ${centimetres(each.median_start_distance)} cm at the start` },
      make("th", { scope: "row", textContent: each.row }), ...words.map((textContent) => make("td", { textContent })));
    row.cells[3].append(interval(each));
    return row;
  };
  const bodies = categories.map((category) => make("tbody", {},
    make("tr", {}, make("th", { className: "group", colSpan: heads.length, scope: "rowgroup", textContent: category })),
    ...entries.filter((each) => each.category === category).map(rowOf)));
  const head = make("tr", {}, ...heads.map((textContent) => make("th", { scope: "col", textContent })));
  table.replaceChildren(make("thead", {}, head), ...bodies);
}

function pairedTests(tests, categories) {
  return tests.filter((test) => categories.includes(test.category)).map((test) => make("p", { textContent:
    `${test.category}: ${test.first} against ${test.second}, ${test.test} p = ${Number(test.p_value.toPrecision(3))} ` +
    `(${test.only_first} won only by ${test.first}, ${test.only_second} only by ${test.second})` }));
}

function interval(entry) {
  const x = (value) => 3 + 78 * value;
  return svg("svg", { class: "interval", viewBox: "0 0 84 12", "aria-hidden": "true" },
    svg("rect", { x: 3, y: 5.5, width: 78, height: 1 }),
    svg("line", { x1: x(entry.wilson_low), x2: x(entry.wilson_high), y1: 6, y2: 6 }),
    svg("circle", { cx: x(entry.rate), cy: 6, r: 3 }));
}
