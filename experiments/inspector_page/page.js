// The page: which episode and step are shown, keys, the address, and news while episodes are played.

const LIVE = document.documentElement.dataset.live === "true";
let index = JSON.parse(byId("index").textContent);
const shown = { name: null, step: 0, episode: null, player: null };

const entryOf = (name) => index.episodes.find((each) => each.name === name);
const lastStep = () => (shown.episode ? shown.episode.executed.length - 1 : 0);

// An episode's frames and plans; null when none were kept.
async function fetchEpisode(name) {
  if (!LIVE) {
    const script = document.querySelector(`script[data-episode="${CSS.escape(name)}"]`);
    return script ? JSON.parse(script.textContent) : null;
  }
  const answer = await fetch(`episodes/${encodeURIComponent(name)}.json`);
  return answer.ok ? answer.json() : null;
}

async function choose(name, step = null, { again = false } = {}) {
  if (!entryOf(name) || (name === shown.name && !again)) return known(step) && shown.episode ? goTo(step) : undefined;
  if (!again) stop();
  shown.name = name;
  shown.running = Boolean(entryOf(name).running);
  const episode = await fetchEpisode(name);
  if (shown.name !== name) return; // another one was chosen meanwhile
  if (shown.episode) setTimeout(URL.revokeObjectURL, 10_000, shown.episode.url); // it may still be on its way to a box
  shown.episode = episode && { ...episode, url: address(episode.sprite) };
  mark(name);
  showFacts(entryOf(name));
  byId("pictures").hidden = !episode;
  byId("absent").hidden = Boolean(episode);
  byId("absent").textContent = entryOf(name).pictures === "left out"
    ? "Its pictures were left out to keep this file small; make the page again with a larger --max-megabytes."
    : "No pictures of this episode were kept.";
  byId("step").max = lastStep();
  if (episode) goTo(step ?? 0);
}

function goTo(step) {
  shown.step = Math.max(0, Math.min(lastStep(), step));
  const { episode, step: at } = shown, seen = foreseenAt(episode, at);
  byId("step").value = at;
  byId("step").setAttribute("aria-valuetext", `step ${at} of ${lastStep()}`);
  byId("at").textContent = `${at} / ${lastStep()}`;
  byId("back").disabled = at === 0;
  byId("forth").disabled = at === lastStep();
  show(byId("executed"), episode, episode.executed[at], `executed at step ${at}`);
  show(byId("foreseen"), episode, seen?.frame ?? null, seen ? `imagined for step ${at}` : `nothing was imagined for step ${at}`);
  show(byId("goal"), episode, episode.goal, "goal");
  byId("executed-note").textContent = `at step ${at}, ${centimetres(episode.distances[at])} cm from the goal`;
  byId("foreseen-note").textContent = seen ? `for step ${at}, ${seen.ahead} ahead, error ${fixed(seen.plan.error[seen.ahead - 1], 3)}` : "nothing yet";
  showPlan(episode, at, goTo);
  byId("episode-charts").replaceChildren(...episodeCharts(episode, at));
  const hash = `#${shown.name}@${at}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

function episodeCharts(episode, now) {
  const ahead = episode.plans.filter((plan) => plan.error.length);
  const options = { last: lastStep(), now, xName: "step", click: goTo };
  const charts = [chart("Distance to the goal, cm", [{ name: "distance", points: episode.distances.map((each, step) => [step, known(each) ? 100 * each : null]) }], { ...options, digits: 1 })];
  if (!episode.plans.length) return charts;
  const next = (name) => ahead.map((plan) => [plan.step + 1, plan[name][0]]);
  return [
    ...charts,
    chart("Error of the next frame", [{ name: "imagined", points: next("error") }, { name: "if nothing moved", points: next("still") }], options),
    chart("Cost of plans", [{ name: "chosen", points: episode.plans.map((plan) => [plan.step, plan.cost]) },
      { name: "mean of the first candidates", points: episode.plans.map((plan) => [plan.step, plan.iterations[0]?.mean]) }], options),
    chart("Seconds per plan", [{ name: "seconds", points: episode.plans.map((plan) => [plan.step, plan.seconds]) }], { ...options, bars: true, digits: 2 }),
  ];
}

function showFacts(entry) {
  byId("name").textContent = `${entry.category} ${entry.instance}`;
  badge(byId("outcome"), entry);
  const facts = [["row", entry.planner ? `${entry.row} (${entry.planner})` : entry.row], ["scene", entry.scene], ["seed", entry.seed],
    ["start", `${centimetres(entry.start_distance)} cm`], ["closest", `${centimetres(entry.best_distance)} cm`],
    ["final", `${centimetres(entry.final_distance)} cm`], ["steps", known(entry.steps) ? entry.steps : "–"],
    ["s/plan", fixed(entry.plan_seconds, 2)], ["seconds", fixed(entry.seconds, 1)]];
  byId("facts").replaceChildren(...facts.map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: String(value) }))));
  const same = index.episodes.filter((each) => each.instance === entry.instance && each.name !== entry.name);
  byId("same").replaceChildren(...(same.length ? ["The same goal: "] : []), ...same.flatMap((each) => [
    make("a", { href: `#${each.name}`, textContent: `${each.row}${each.seed === entry.seed ? "" : `, seed ${each.seed}`}: ${outcome(each)}` }), "  "]));
}

function refresh() {
  const episodes = chosenEpisodes(index);
  byId("count").textContent = `${episodes.length} shown`;
  showEpisodes(episodes, shown.name, refresh, choose);
  return episodes;
}

function turn(by) {
  const names = chosenEpisodes(index).map((each) => each.name), at = names.indexOf(shown.name);
  const next = at < 0 ? names[0] : names[at + by];
  if (next) choose(next);
}

function stop() {
  clearInterval(shown.player);
  shown.player = null;
  byId("play").textContent = "▶ play";
}

function play() {
  if (shown.player) return stop();
  if (shown.step === lastStep()) goTo(0);
  byId("play").textContent = "❚❚ pause";
  shown.player = setInterval(() => (shown.step < lastStep() ? goTo(shown.step + 1) : stop()), 250); // the robot's 4 Hz
}

function keys(event) {
  const within = event.target, typing = within.matches("select, input:not([type=range])");
  if (typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.key === " " && within.matches("button, a")) return;
  const step = (to) => shown.episode && (stop(), goTo(to));
  const actions = { ArrowLeft: () => step(shown.step - 1), ArrowRight: () => step(shown.step + 1), ArrowUp: () => turn(-1),
    ArrowDown: () => turn(1), Home: () => step(0), End: () => step(lastStep()), " ": () => shown.episode && play() };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

function fromAddress() {
  const [name, step] = decodeURIComponent(location.hash.slice(1)).split("@");
  return entryOf(name) ? { name, step: /^\d+$/.test(step ?? "") ? Number(step) : null } : null;
}

function showIndex() {
  byId("title").textContent = index.title;
  const done = index.episodes.filter((each) => !each.running).length;
  byId("progress").textContent = done < index.total ? `${done} of ${index.total} episodes finished` : `${done} episodes`;
  showSummary(index);
  showFilters(index);
  return refresh();
}

// Something has changed: the lists anew, and the episode that is being played.
async function news() {
  index = await (await fetch("index.json")).json();
  const episodes = showIndex(), running = index.episodes.find((each) => each.running);
  const atEnd = shown.step === lastStep(), followed = byId("follow").checked && running;
  if (followed && running.name !== shown.name) return choose(running.name, Infinity);
  if (!shown.name && episodes.length) return choose(episodes[0].name);
  const entry = entryOf(shown.name);
  if (entry && (entry.running || shown.running)) await choose(entry.name, atEnd ? Infinity : shown.step, { again: true });
}

function listen() {
  let busy = false, waiting = false;
  const events = new EventSource("events");
  events.onmessage = async () => {
    if (busy) return void (waiting = true);
    busy = true;
    do {
      waiting = false;
      try { await news(); } catch (error) { byId("progress").textContent = `no news: ${error.message}`; }
    } while (waiting);
    busy = false;
  };
  events.onerror = () => { byId("title").textContent = `${index.title} (the evaluation does not answer)`; };
}

function begin() {
  for (const name of ["category", "row", "outcome"]) byId(`filter-${name}`).addEventListener("change", refresh);
  byId("step").addEventListener("input", (event) => { stop(); goTo(Number(event.target.value)); });
  byId("back").addEventListener("click", () => { stop(); goTo(shown.step - 1); });
  byId("forth").addEventListener("click", () => { stop(); goTo(shown.step + 1); });
  byId("play").addEventListener("click", play);
  byId("earlier").addEventListener("click", () => turn(-1));
  byId("later").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", () => { const to = fromAddress(); if (to) choose(to.name, to.step); });
  byId("follow-label").hidden = !LIVE;
  const episodes = showIndex(), running = index.episodes.find((each) => each.running);
  const first = running ? { name: running.name, step: Infinity } : episodes.length ? { name: episodes[0].name } : null;
  const wanted = fromAddress() ?? first;
  byId("pictures").hidden = true;
  if (wanted) choose(wanted.name, wanted.step);
  else byId("name").textContent = "No episode yet";
  if (LIVE) listen();
}

begin();
