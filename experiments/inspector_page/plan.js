// The plan in force at a step: imagined frames beside those that followed, its search, its actions and codes.

const ACTION_NAMES = ["x", "y", "z", "turn x", "turn y", "turn z", "gripper"];

// The latest plan made on or before `step`; null before there is one.
const planAt = (episode, step) => episode.plans.findLast((plan) => plan.step <= step) ?? null;

// What the latest plan made before `step` imagined for it, as {frame, ahead, plan}; null where none reaches it.
function foreseenAt(episode, step) {
  const plan = planAt(episode, step - 1);
  const ahead = plan ? step - plan.step : 0;
  return plan && ahead <= plan.imagined.length ? { frame: plan.imagined[ahead - 1], ahead, plan } : null;
}

function showPlan(episode, step, goTo) {
  const plan = planAt(episode, step);
  byId("plan-heading").textContent = plan ? `Plan made on frame ${plan.step}` : "Plan";
  byId("film").replaceChildren(...(plan ? film(episode, plan, step, goTo) : []));
  byId("plan-charts").replaceChildren(...(plan ? searchCharts(plan) : []));
  byId("planned").replaceChildren(...(plan ? [actionTable(plan), codeTable(plan)].filter(Boolean) : []));
  byId("plan-note").textContent = plan ? sentence(plan, step) : nothing(episode);
}

function nothing(episode) {
  if (!episode.plans.length) return "This episode has no plans: its actions were not searched for in an imagined world.";
  return `No plan yet: the world waits for its context frames until frame ${episode.plans[0].step}.`;
}

function sentence(plan, step) {
  const ago = step - plan.step, later = ago ? `The latest plan, ${ago} step${ago > 1 ? "s" : ""} ago. ` : "";
  const dropped = plan.rejected ? ` ${plan.rejected} candidates had no finite cost.` : "";
  return `${later}Cost ${short(plan.cost)} after ${plan.iterations.length} iteration${plan.iterations.length > 1 ? "s" : ""} in ${fixed(plan.seconds, 2)} s.` +
    `${dropped} Later columns are compared with what followed, which later plans may have changed.`;
}

function film(episode, plan, step, goTo) {
  const head = make("tr", {}, make("th", { scope: "row", textContent: "step" }));
  const rows = ["imagined", "followed", "difference, 3 times as bright"].map((name) =>
    make("tr", {}, make("th", { scope: "row", textContent: name })));
  const measured = make("tr", {}, make("th", { scope: "row", textContent: "error" }));
  plan.imagined.forEach((frame, index) => {
    const at = plan.step + 1 + index, real = episode.executed[at];
    const title = known(real) ? `Go to step ${at}` : `Step ${at} was not reached`;
    const button = make("button", { type: "button", textContent: `${at}`, title, disabled: !known(real) });
    button.setAttribute("aria-label", title);
    button.addEventListener("click", () => goTo(at));
    if (at === step) button.setAttribute("aria-current", "step");
    head.append(make("th", { scope: "col" }, button));
    const cells = [
      [frame, `imagined for step ${at}`, null],
      [real, known(real) ? `executed at step ${at}` : `step ${at} was never reached`, null],
      [known(real) ? frame : null, `difference at step ${at}, three times as bright`, real],
    ];
    cells.forEach(([number, label, other], row) => {
      const picture = make("div", { className: "frame" });
      show(picture, episode, number, label, other);
      rows[row].append(make("td", {}, picture));
    });
    measured.append(make("td", { textContent: fixed(plan.error[index], 3) }));
  });
  return [make("thead", {}, head), make("tbody", {}, ...rows, measured)];
}

function searchCharts(plan) {
  const series = (name, key) => ({ name, points: plan.iterations.map((record, index) => [index, record[key]]) });
  const options = { last: plan.iterations.length - 1, xName: "iteration", first: 1 };
  return [
    chart("Cost by iteration", [series("best", "best"), series("mean", "mean"), series("elites", "elite")], options),
    chart("Spread by iteration", [series("elites", "elite_spread"), series("drawn from", "std")], options),
  ];
}

function actionTable(plan) {
  if (!plan.actions) return null;
  const width = plan.actions[0].length, largest = Math.max(1e-9, ...plan.actions.flat().map(Math.abs));
  const names = width === ACTION_NAMES.length ? ACTION_NAMES : plan.actions[0].map((_, index) => `a${index}`);
  const rows = names.map((name, row) => make("tr", {}, make("th", { scope: "row", textContent: name }),
    ...plan.actions.map((action) => heat(action[row], largest))));
  return make("table", {}, make("caption", { textContent: "Planned actions" }), steps(plan), make("tbody", {}, ...rows));
}

function heat(value, largest) {
  const cell = make("td", { textContent: fixed(value, 2), className: value === 0 ? "zero" : "" });
  const strength = (0.45 * Math.abs(value ?? 0)) / largest;
  cell.style.backgroundColor = `rgba(var(--${value < 0 ? "down" : "up"}), ${strength.toFixed(3)})`;
  return cell;
}

function codeTable(plan) {
  if (!plan.codes) return null;
  const rows = plan.codes[0].map((_, token) => make("tr", {}, make("th", { scope: "row", textContent: `token ${token}` }),
    ...plan.codes.map((codes) => make("td", { className: "code", textContent: String(codes[token]) }))));
  return make("table", {}, make("caption", { textContent: "Codes of the plan" }), steps(plan), make("tbody", {}, ...rows));
}

function steps(plan) {
  const count = (plan.actions ?? plan.codes).length;
  const heads = Array.from({ length: count }, (_, index) =>
    make("th", { scope: "col", textContent: `${plan.step + index}→${plan.step + index + 1}` }));
  return make("thead", {}, make("tr", {}, make("td"), ...heads));
}
