"use strict";
// The page of `llmsched explore`. The server computes; here are dials, charts, and who waits for whom.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const machines = new Map(data.machines.map((machine) => [machine.name, machine]));
  const known = new Map(data.policies.map((policy) => [policy.text, policy]));
  const byLabel = new Map(data.policies.map((policy) => [policy.label, policy]));
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const NAMES = ["A", "B"];

  // Where the dials stand. Policies and seed are the same on both sides, so that colours and requests are.
  const { policies, seed, ...first } = data.setting;
  const state = { two: false, policies: [...policies], seed, sides: [{ ...first }], answers: [], loads: [], log: false };
  const sides = () => (state.two ? [0, 1] : [0]);
  const setting = (k) => ({ ...state.sides[k], policies: state.policies, seed: state.seed });
  const unit = (k) => (machines.get(state.sides[k].machine).seconds ? "s" : "rounds");

  // For tests and the console: what is drawn, and how many milliseconds each move of a dial took to be seen.
  const explorer = { views: {}, answers: state.answers, latencies: [] };
  window.explorer = explorer;

  // Elements and numbers ----------------------------------------------------------------------------------------------

  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  }

  const FORMATS = [0, 1, 2, 3].map((digits) => new Intl.NumberFormat("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits }));
  function number(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    return FORMATS[size >= 1000 || Number.isInteger(value) ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3].format(value);
  }
  const percent = (value, digits = 0) => (value === null ? "–" : `${(100 * value).toFixed(digits)} %`);
  const atMost = (gap) => (gap === null ? "…" : `≤ ${Math.ceil(100 * gap)} %`); // a bound is rounded up
  const rounded = (value, digits) => Number(value.toPrecision(digits));

  // Dials: a slider and a field for the same number ---------------------------------------------------------------------

  const STEPS = 400;
  const linear = (low, high, step) => ({
    at: (value) => (value - low) / (high - low), value: (place) => rounded(Math.round((low + place * (high - low)) / step) * step, 6),
  });
  const logarithmic = (low, high, digits, whole) => ({
    at: (value) => Math.log(value / low) / Math.log(high / low),
    value: (place) => {
      const value = rounded(low * (high / low) ** place, digits);
      return whole ? Math.min(Math.max(Math.round(value), low), high) : value;
    },
  });

  function dial(label, name, scale, { get, set, text = number, least, step = "any" }) {
    const slider = element("input", { type: "range", min: 0, max: STEPS, step: 1, name });
    const field = element("input", { type: "number", step, min: least, name: `${name}-exactly` });
    const words = element("span", { "aria-hidden": "true" });
    const made = element("div", { className: "dial" }, words, slider, field);
    const show = (moved) => {
      const value = get();
      words.textContent = label();
      slider.setAttribute("aria-label", label());
      field.setAttribute("aria-label", `${label()}, exactly`);
      if (moved !== slider) slider.value = Math.round(STEPS * Math.min(Math.max(scale().at(value), 0), 1));
      if (moved !== field) field.value = value;
      slider.setAttribute("aria-valuetext", text(value));
    };
    slider.addEventListener("input", (event) => { set(scale().value(slider.value / STEPS), event); show(slider); });
    field.addEventListener("input", (event) => {
      if (field.value === "" || !field.checkValidity()) return;
      set(Number(field.value), event);
      show(field);
    });
    return { made, show };
  }

  function choice(label, name, options, { get, set }) {
    const select = element("select", { "aria-label": label, name }, ...options.map(([value, words]) => element("option", { value }, words)));
    select.addEventListener("input", (event) => set(select.value, event));
    const made = element("div", { className: "dial" }, element("span", { "aria-hidden": "true" }, label), select);
    return { made, show: () => { select.value = get(); } };
  }

  // A side: what one setting says ---------------------------------------------------------------------------------------

  // What a predictor says, as --intervals spells it, from its kind and its dials.
  const PREDICTORS = {
    ...(data.given ? { given: { words: "as the requests bring", rule: () => null } } : {}),
    constant: { words: "nothing", rule: () => `constant:1,${data.longest}` },
    realistic: { words: "a real predictor (BERT)", rule: () => "realistic" },
    noisy: { words: "intervals that may miss", rule: (d) => `noisy:${d.coverage},${d.width}`, dials: ["coverage", "width"] },
    buckets: { words: "the right bucket", rule: (d) => `buckets:${d.bucket}`, dials: ["bucket"] },
    relative: { words: "the truth, give or take", rule: (d) => `relative:${d.share}`, dials: ["share"] },
    exact: { words: "the truth", rule: () => "exact" },
  };

  function form(k) {
    const side = state.sides[k];
    const kept = k ? structuredClone(forms[0]) : null; // B begins as a copy of A
    const predictor = kept?.predictor ?? { kind: side.intervals === null ? "given" : "buckets", bucket: 100, share: 0.5, coverage: 0.9, width: 0.5 };
    const arrivals = kept?.arrivals ?? { rate: machines.get(side.machine).seconds ? 5 : 0.7 };
    forms[k] = { predictor, arrivals };
    const moved = (event) => { show(); changed(k, event); };
    const told = (event) => { side.intervals = PREDICTORS[predictor.kind].rule(predictor); moved(event); };
    const timed = () => machines.get(side.machine).seconds;
    const per = () => (timed() ? "second" : "round");
    const items = {
      machine: choice("Machine", "machine", data.machines.map((one) => [one.name, one.seconds ? one.name : "rounds: each takes 1"]), {
        get: () => side.machine,
        set: (value, event) => {
          const was = timed();
          side.machine = value;
          side.memory = machines.get(value).memory;
          if (was !== timed()) { arrivals.rate = timed() ? 5 : 0.7; if (side.rate !== null) side.rate = arrivals.rate; }
          moved(event);
        },
      }),
      memory: dial(() => "KV cache (tokens)", "memory", () => {
        const { least, memory } = machines.get(side.machine);
        return logarithmic(least, 8 * memory, 3, true);
      }, { get: () => side.memory, set: (value, event) => { side.memory = Math.round(value); moved(event); }, step: 1, least: 1, text: (value) => `${number(value)} tokens` }),
      arrivals: choice("Arrivals", "arrivals", [["given", data.arrives ? "as in the trace" : "all at once"], ["poisson", "Poisson, at the rate below"]], {
        get: () => (side.rate === null ? "given" : "poisson"),
        set: (value, event) => { side.rate = value === "given" ? null : arrivals.rate; moved(event); },
      }),
      rate: dial(() => `Load (requests per ${per()})`, "rate", () => (timed() ? logarithmic(0.1, 100, 3) : logarithmic(0.02, 20, 3)), {
        get: () => side.rate ?? arrivals.rate, set: (value, event) => { side.rate = arrivals.rate = value; moved(event); },
        text: (value) => `${value} requests per ${per()}`, least: 0,
      }),
      replicas: dial(() => "Replicas", "replicas", () => linear(1, 16, 1), {
        get: () => side.replicas, set: (value, event) => { side.replicas = Math.round(value); moved(event); }, step: 1, least: 1,
      }),
      router: choice("Router", "router", data.routers.map((one) => [one.name, one.name]), {
        get: () => side.router, set: (value, event) => { side.router = value; moved(event); },
      }),
      predictor: choice("What is known of output lengths", "predictor", Object.entries(PREDICTORS).map(([kind, { words }]) => [kind, words]), {
        get: () => predictor.kind, set: (value, event) => { predictor.kind = value; told(event); },
      }),
    };
    const quality = (key, label, scale, step, text) => {
      items[key] = dial(() => label, key, () => scale, { get: () => predictor[key], set: (value, event) => { predictor[key] = value; told(event); }, step, least: key === "bucket" ? 1 : 0, text });
    };
    quality("bucket", "Width of a bucket (tokens)", logarithmic(1, 1000, 2, true), 1, (value) => `${value} tokens`);
    quality("share", "Give or take", linear(0, 1, 0.01), 0.01, (value) => percent(value));
    quality("coverage", "Coverage: intervals that hold the truth", linear(0, 1, 0.01), 0.01, (value) => percent(value));
    quality("width", "Width of an interval, of the length", linear(0, 2, 0.01), 0.01, (value) => percent(value));
    const show = () => {
      for (const one of Object.values(items)) one.show(document.activeElement);
      items.rate.made.classList.toggle("off", side.rate === null);
      items.router.made.hidden = side.replicas === 1;
      for (const key of ["bucket", "share", "coverage", "width"]) items[key].made.hidden = !(PREDICTORS[predictor.kind].dials ?? []).includes(key);
    };
    show();
    return element("fieldset", { className: "setting", "aria-label": `Setting ${NAMES[k]}`, id: `setting-${NAMES[k]}` }, element("h3", {}, NAMES[k]), ...Object.values(items).map((one) => one.made));
  }
  const forms = [];

  function policyChips() {
    const hold = $("policies");
    hold.replaceChildren(...data.policies.map((policy) => {
      const box = element("input", { type: "checkbox", checked: state.policies.includes(policy.text), value: policy.text });
      box.addEventListener("input", (event) => {
        const chosen = data.policies.map((one) => one.text).filter((text) => (text === policy.text ? box.checked : state.policies.includes(text)));
        if (!chosen.length || chosen.length > data.most) { box.checked = !box.checked; say(chosen.length ? `At most ${data.most} policies` : "At least one policy"); return; }
        state.policies = chosen;
        for (const k of sides()) changed(k, event);
      });
      return element("label", { className: "chip" }, box, swatch(policy), policy.label);
    }));
  }

  // Asking ------------------------------------------------------------------------------------------------------------

  const waiting = new Map(); // side -> when the first of the moves was made that its picture does not show yet
  let busy = false, turn = 0;

  function changed(k, event) {
    document.documentElement.dataset.drawn = "no";
    if (!waiting.has(k)) waiting.set(k, event ? event.timeStamp : performance.now());
    if (!busy) work();
  }

  async function ask(name, question) {
    const answer = await fetch(name, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) }).catch(() => null);
    return answer === null ? { error: "llmsched explore does not answer: was it ended?" } : answer.json().catch(() => ({ error: `the server said ${answer.status}` }));
  }

  // The question about where the dials are now: moves that come meanwhile are answered together. null: none is open.
  function question() {
    for (const [k, since] of waiting) {
      waiting.delete(k);
      if (!sides().includes(k)) continue;
      const asked = setting(k);
      return ask("picture", asked).then((answer) => ({ k, since, asked, answer }));
    }
    return null;
  }

  // One question at a time; while a picture is drawn, the next one is simulated.
  async function work() {
    busy = true;
    turn += 1;
    let open = question();
    while (open) {
      const { k, since, asked, answer } = await open;
      state.answers[k] = { ...answer, asked };
      open = question();
      await draw(inView);
      await new Promise((seen) => requestAnimationFrame(() => setTimeout(seen)));
      const took = performance.now() - since;
      explorer.latencies.push(took);
      if (!answer.error) $("took").textContent = `${took.toFixed(0)} ms from the move to the picture, of which ${answer.took.toFixed(0)} ms simulated.`;
      open ??= question();
      if (open) continue;
      await draw(); // what is out of sight, too
      open = question();
    }
    busy = false;
    if (sides().some((k) => state.answers[k].bounded === false)) later("gap", 60, gaps);
    else document.documentElement.dataset.drawn = "all";
    later("said", 700, () => say(inWords()));
    if ($("load-on").checked) later("load", 250, drawLoad);
  }

  // The lower bound can take longer than all simulations: it is asked for when the dials rest, and then shown.
  async function gaps() {
    const mine = turn;
    for (const name of ["gap", "picture"]) {
      for (const k of sides()) {
        const asked = setting(k), answer = await ask(name, asked);
        if (busy || turn !== mine) return;
        if (name === "picture") state.answers[k] = { ...answer, asked };
      }
    }
    await draw();
    if (!busy && turn === mine) document.documentElement.dataset.drawn = "all";
  }

  const timers = {};
  function later(name, milliseconds, what) {
    clearTimeout(timers[name]);
    timers[name] = setTimeout(what, milliseconds);
  }
  const say = (text) => { $("said").textContent = text; };
  const inWords = () => sides().map((k) => {
    const answer = state.answers[k], name = state.two ? `Setting ${NAMES[k]}: ` : "";
    return name + (answer?.error ?? `mean latency in ${answer.unit}: ${answer.rows.filter((row) => row.finished).map((row) => `${row.policy} ${number(row.mean_latency)}`).join(", ")}`);
  }).join(". ");

  // Charts ------------------------------------------------------------------------------------------------------------

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const ink = (policy) => (darkness.matches ? policy.dark : policy.light);
  const labels = () => state.policies.map((text) => known.get(text).label);

  function swatch(policy) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of Object.entries({ class: "swatch", viewBox: "0 0 26 8", "aria-hidden": "true" })) made.setAttribute(key, value);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [key, value] of Object.entries({ d: "M1 4H25", stroke: ink(policy), "stroke-width": 3, "stroke-dasharray": policy.dash[1] ? policy.dash.join(" ") : "none" })) line.setAttribute(key, value);
    made.append(line);
    return made;
  }

  function config() {
    const text = { labelColor: colour("soft"), titleColor: colour("soft"), labelFontSize: 11, titleFontSize: 12 };
    return {
      background: "transparent", font: getComputedStyle(document.body).fontFamily, view: { stroke: null }, aria: false,
      axis: { ...text, titleFontWeight: "normal", gridColor: colour("grid"), domainColor: colour("line"), tickColor: colour("line") },
    };
  }

  function byPolicy() {
    const shown = labels().map((label) => byLabel.get(label));
    const domain = shown.map((policy) => policy.label);
    return {
      color: { field: "policy", type: "nominal", legend: null, scale: { domain, range: shown.map(ink) } },
      strokeDash: { field: "policy", type: "nominal", legend: null, scale: { domain, range: shown.map((policy) => policy.dash) } },
    };
  }

  const latencyTitle = (k, what = "latency") => `${what} (${unit(k) === "s" ? "seconds" : "rounds"})`;
  const upTo = (name) => ({ domain: { expr: `[0, ${name}]` }, nice: false });

  // Chart -> its specification, the rows of its data sets, what its scales end at, and its height.
  const CHARTS = {
    curve: {
      height: () => (matchMedia("(max-width: 999px)").matches ? 200 : 300),
      spec: (k) => ({
        data: { name: "points", values: [] }, params: [{ name: "most", value: 1 }, { name: "least", value: 0.5 }],
        mark: { type: "line", interpolate: "step-after", strokeWidth: 2, clip: true },
        encoding: {
          x: { field: "x", type: "quantitative", scale: state.log ? { type: "log", domain: { expr: "[least, most]" }, nice: false } : upTo("most"), axis: { title: latencyTitle(k), tickCount: 6 } },
          y: { field: "y", type: "quantitative", scale: { domain: [0, 1] }, axis: { title: null, format: "%", tickCount: 5, minExtent: 40 } }, ...byPolicy(),
        },
      }),
      rows: (answer) => ({ points: Object.entries(answer.curves).flatMap(([policy, { x, y }]) => x.map((value, i) => ({ policy, x: value, y: y[i] }))) }),
      signals: (answers) => {
        const curves = answers.flatMap((answer) => Object.values(answer.curves)).filter((curve) => curve.x.length);
        return { most: Math.max(...curves.map(({ x }) => x[x.length - 1]), 1e-9), least: Math.max(Math.min(...curves.map(({ x }) => x[0])), 1e-3) };
      },
      words: (answer) => `Share of requests by latency. ${answer.rows.filter((row) => row.finished).map((row) => `${row.policy}: half within ${number(row.p50_latency)}, 99 % within ${number(row.p99_latency)} ${answer.unit}`).join("; ")}`,
    },
    cache: {
      height: () => 34 + 62 * state.policies.length,
      spec: (k) => {
        const names = labels(), n = names.length, full = names.map((name, i) => ({ y: n - 1 - i + 0.82, y2: n - 1 - i, name }));
        const y = { type: "quantitative", scale: { domain: [-0.14, n - 0.14], nice: false } };
        const axis = { title: null, grid: false, ticks: false, domain: false, values: full.map((row) => row.y2 + 0.4), labelExpr: `${JSON.stringify([...names].reverse())}[round(datum.value - 0.4)]`, labelLimit: 120 };
        return {
          params: [{ name: "end", value: 1 }],
          layer: [
            { data: { name: "used", values: [] }, mark: { type: "area", interpolate: "step-after", opacity: 0.75, clip: true },
              encoding: { x: { field: "t", type: "quantitative", scale: upTo("end"), axis: { title: `time (${unit(k) === "s" ? "seconds" : "rounds"})`, grid: false, tickCount: 6 } }, y: { ...y, field: "top", axis }, y2: { field: "base" }, color: byPolicy().color } },
            { data: { values: full }, mark: { type: "rule", color: colour("soft"), opacity: 0.6, strokeDash: [3, 3] }, encoding: { y: { ...y, field: "y", axis } } },
            { data: { name: "evicted", values: [] }, mark: { type: "rule", color: colour("evict"), strokeWidth: 1.5 },
              encoding: { x: { field: "t", type: "quantitative" }, y: { ...y, field: "top", axis }, y2: { field: "base" }, opacity: { field: "share", type: "quantitative", scale: { domain: [0, 1], range: [0.3, 1] }, legend: null } } },
          ],
        };
      },
      rows: (answer, end) => {
        const used = [], evicted = [], names = labels();
        const most = Math.max(1, ...Object.values(answer.timelines).flatMap((line) => line.evictions));
        for (const [policy, line] of Object.entries(answer.timelines)) {
          const base = names.length - 1 - names.indexOf(policy), step = answer.end / line.used.length;
          line.used.forEach((share, i) => used.push({ policy, t: i * step, base, top: base + 0.82 * share }));
          line.evictions.forEach((count, i) => { if (count) evicted.push({ t: (i + 0.5) * step, base: base - 0.1, top: base - 0.03, share: count / most }); });
        }
        return { used, evicted };
      },
      signals: (answers) => ({ end: Math.max(...answers.map((answer) => answer.end), 1e-9) }),
      words: (answer) => `The cache over time. ${answer.rows.filter((row) => row.finished).map((row) => `${row.policy}: at most ${percent(row.peak_share)} full, ${number(row.evictions)} evictions`).join("; ")}`,
    },
    waits: {
      height: () => 240,
      spec: (k) => ({
        data: { name: "points", values: [] }, params: [{ name: "most", value: 1 }, { name: "shortest", value: 1 }, { name: "longest", value: 2 }],
        mark: { type: "line", point: { size: 36, filled: true }, strokeWidth: 2, clip: false },
        encoding: {
          x: { field: "output", type: "quantitative", scale: { type: "log", domain: { expr: "[shortest, longest]" }, nice: false }, axis: { title: "length of the answer (tokens)", tickCount: 4, format: "~s", grid: false } },
          y: { field: "wait", type: "quantitative", scale: upTo("most"), axis: { title: latencyTitle(k, "wait"), tickCount: 5, minExtent: 44 } }, ...byPolicy(),
          tooltip: [{ field: "policy" }, { field: "lengths", title: "answer" }, { field: "wait", format: ",.4~g" }],
        },
      }),
      rows: (answer) => ({ points: Object.entries(answer.waits).flatMap(([policy, one]) => one.wait.map((wait, i) => ({ policy, wait, output: one.output[i], lengths: `${one.shortest[i]} to ${one.longest[i]} tokens` }))) }),
      signals: (answers) => {
        const all = (key) => answers.flatMap((answer) => Object.values(answer.waits).flatMap((one) => one[key]));
        const shortest = Math.min(...all("output"));
        return { most: Math.max(...all("wait"), 1e-9) * 1.05, shortest, longest: Math.max(...all("output"), shortest + 1) };
      },
      words: (answer) => `Mean wait by length of the answer. ${Object.entries(answer.waits).map(([policy, { wait }]) => `${policy}: shortest tenth ${number(wait[0])}, longest ${number(wait[wait.length - 1])} ${answer.unit}`).join("; ")}`,
    },
    gap: {
      height: () => 46 + 34 * state.policies.length,
      spec: (k) => ({
        data: { name: "bars", values: [] }, params: [{ name: "most", value: 1 }],
        encoding: { y: { field: "policy", type: "nominal", sort: labels(), scale: { domain: labels() }, axis: { title: null, ticks: false, domain: false, labelLimit: 120 } } },
        layer: [
          { mark: { type: "bar", height: { band: 0.6 } }, encoding: { x: { field: "mean", type: "quantitative", scale: upTo("most"), axis: { title: latencyTitle(k, "mean latency"), tickCount: 6 } }, color: byPolicy().color } },
          { mark: { type: "tick", thickness: 3, color: colour("evict"), height: { band: 0.9 } }, encoding: { x: { field: "bound", type: "quantitative" } } },
          { mark: { type: "text", align: "left", dx: 6, color: colour("ink") }, encoding: { x: { field: "mean", type: "quantitative" }, text: { field: "gap" } } },
        ],
      }),
      rows: (answer) => ({ bars: answer.rows.filter((row) => row.finished).map((row) => ({ policy: row.policy, mean: row.mean_latency, bound: answer.bounds[row.policy], gap: atMost(row.gap) })) }),
      signals: (answers) => ({ most: 1.3 * Math.max(...answers.flatMap((answer) => answer.rows.map((row) => row.mean_latency ?? 0)), 1e-9) }),
      words: (answer) => `Gap of the mean latency to the lower bound. ${answer.rows.filter((row) => row.finished).map((row) => `${row.policy}: ${atMost(row.gap)} above`).join("; ")}`,
    },
  };

  function place(id, k) {
    const hold = $(id);
    while (hold.children.length > sides().length) hold.lastChild.remove();
    while (hold.children.length < sides().length) {
      const name = NAMES[hold.children.length];
      hold.append(element("div", { className: "side" }, element("h3", {}, name), element("div", { className: "inside" })));
    }
    return hold.children[k].lastChild;
  }

  // An image with words for those who do not see it; what Vega makes is hidden from them.
  function chartPlace(hold) {
    const made = element("div", { className: "chart", role: "img" }, element("div", { "aria-hidden": "true" }));
    hold.replaceChildren(made);
    return made;
  }

  const drawn = new Map(); // chart and side -> the view, and what it was made for

  async function chart(id, k, answers) {
    const { spec, rows, signals, words, height } = CHARTS[id], hold = place(id, k), width = hold.clientWidth;
    const made = JSON.stringify([width, state.policies, state.two, state.log, darkness.matches, unit(k)]);
    let one = drawn.get(`${id} ${k}`);
    if (one?.made !== made || one.hold !== hold) {
      one?.view.finalize();
      const inside = chartPlace(hold);
      const whole = { width, height: height(), autosize: { type: "fit", contains: "padding" }, padding: { left: 2, top: 5, right: 14, bottom: 5 }, config: config(), ...spec(k) };
      const { view } = await vegaEmbed(inside.firstChild, whole, { mode: "vega-lite", renderer: "canvas", actions: false });
      one = { view, made, hold, inside };
      drawn.set(`${id} ${k}`, one);
      explorer.views[`${id} ${NAMES[k]}`] = view;
    }
    const answer = state.answers[k];
    for (const [name, value] of Object.entries(signals(answers))) one.view.signal(name, value);
    for (const [name, values] of Object.entries(rows(answer))) one.view.data(name, values);
    one.inside.setAttribute("aria-label", words(answer));
    await one.view.runAsync();
  }

  const inView = (id) => { const at = $(id).getBoundingClientRect(); return at.bottom > 0 && at.top < innerHeight; };

  // Draw the charts that `which` is true of; a moving slider does not wait for those that are out of sight.
  async function draw(which = () => true) {
    document.body.classList.toggle("two", state.two);
    const good = sides().filter((k) => state.answers[k] && !state.answers[k].error && ready(k));
    for (const k of sides()) {
      table(k);
      take(k);
    }
    legend();
    const answers = good.map((k) => state.answers[k]);
    await Promise.all(Object.keys(CHARTS).filter(which).flatMap((id) => good.map((k) => chart(id, k, answers))));
  }

  // Whether an answer is about the policies that are chosen now: until the next one is there, the last picture stays.
  const ready = (k) => state.answers[k].asked.policies.join() === state.policies.join() && state.answers[k].unit === unit(k);

  function legend() {
    $("legend").replaceChildren(...labels().map((label) => element("span", {}, swatch(byLabel.get(label)), label)));
  }

  // The table ---------------------------------------------------------------------------------------------------------

  const COLUMNS = [
    ["mean", (row) => number(row.mean_latency)],
    ["p50", (row) => number(row.p50_latency), "less"],
    ["p99", (row) => number(row.p99_latency)],
    ["gap", (row) => atMost(row.gap)],
    ["evicted", (row) => number(row.evictions)],
    ["wasted", (row) => percent(row.wasted_share, 1), "less"],
    ["cache", (row) => percent(row.peak_share), "less"],
    ["makespan", (row) => number(row.makespan), "less"],
  ];

  function table(k) {
    const hold = place("tables", k), answer = state.answers[k];
    if (!answer) return;
    if (answer.error) { hold.replaceChildren(element("p", { className: "note", role: "alert" }, answer.error)); return; }
    const others = k ? new Map((state.answers[0]?.rows ?? []).map((row) => [row.policy, row.mean_latency])) : null;
    const same = others && state.answers[0]?.unit === answer.unit;
    const versus = (row) => {
      const share = row.mean_latency / others.get(row.policy) - 1;
      return Number.isFinite(share) ? `${share > 0 ? "+" : share < 0 ? "−" : "±"}${Math.abs(100 * share).toFixed(0)} %` : "–";
    };
    const columns = same ? [COLUMNS[0], ["to A", versus], ...COLUMNS.slice(1)] : COLUMNS;
    const head = ["policy", ...columns.map(([name]) => name)].map((name, i) => element("th", { scope: "col", className: i ? columns[i - 1][2] ?? "" : "" }, name));
    const rows = answer.rows.map((row) => {
      const name = element("th", { scope: "row" }, swatch(byLabel.get(row.policy)), row.policy);
      if (!row.finished) return element("tr", {}, name, element("td", { colSpan: columns.length, className: "why" }, row.error));
      return element("tr", {}, name, ...columns.map(([, show, className]) => element("td", { className: className ?? "" }, show(row))));
    });
    const caption = element("caption", { className: "hidden" }, `Latency in ${answer.unit === "s" ? "seconds" : "rounds"}`);
    hold.replaceChildren(element("div", { className: "scroll" }, element("table", {}, caption, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows))),
      element("p", { className: "soft" }, `Latency in ${answer.unit === "s" ? "seconds" : "rounds"}: mean, p50, p99.`));
  }

  // Taking it along -----------------------------------------------------------------------------------------------------

  function take(k) {
    const hold = place("take", k);
    if (!hold.children.length) {
      const copy = (words, key) => {
        const button = element("button", { type: "button", "data-copy": key }, words);
        button.addEventListener("click", async () => {
          await navigator.clipboard.writeText(state.answers[k].texts[key]);
          button.textContent = "Copied";
          say("Copied");
          later(`${key} ${k}`, 1500, () => { button.textContent = words; });
        });
        return button;
      };
      const save = element("button", { type: "button", "data-save": "study" }, "Save as study");
      save.addEventListener("click", () => {
        const link = element("a", { href: URL.createObjectURL(new Blob([state.answers[k].texts.study], { type: "application/toml" })), download: "study.toml" });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      });
      hold.replaceChildren(element("div", { className: "take" }, copy("Copy as command line", "command"), copy("Copy as Python", "python"), save), element("pre", { tabIndex: 0, "aria-label": "The command" }));
    }
    const texts = state.answers[k]?.texts;
    if (texts) hold.lastChild.textContent = texts.command;
    for (const button of hold.querySelectorAll("button")) button.disabled = !texts;
  }

  // Latency against load --------------------------------------------------------------------------------------------------

  async function drawLoad() {
    if (busy) return; // asked again when the dials rest
    const answers = [];
    for (const k of sides()) {
      answers[k] = await ask("load", { setting: setting(k), most: 1.5 * (state.sides[k].rate ?? forms[k].arrivals.rate) });
      if (busy) return;
    }
    state.loads = answers;
    await paintLoad();
    document.documentElement.dataset.load = "drawn";
  }

  async function paintLoad() {
    const answers = state.loads;
    const rows = answers.map((answer) => Object.entries(answer.curves ?? {}).flatMap(([policy, one]) => one.rate.map((rate, i) => ({ policy, rate, mean: one.mean[i], p99: one.p99[i] }))));
    const most = Math.max(...rows.flat().map((row) => row.mean ?? 0), 1e-9);
    for (const k of sides()) {
      const hold = place("load", k), answer = answers[k];
      if (!answer || answer.error) { hold.replaceChildren(element("p", { className: "note", role: "alert" }, answer?.error ?? "…")); continue; }
      const words = Object.entries(answer.curves).map(([policy, one]) => `${policy}: ${number(one.mean[0])} at ${one.rate[0]}, ${number(one.mean.at(-1))} at ${one.rate.at(-1)}`);
      const inside = chartPlace(hold);
      inside.setAttribute("aria-label", `Mean latency against load. ${words.join("; ")}`);
      const { view } = await vegaEmbed(inside.firstChild, {
        width: hold.clientWidth, height: 260, autosize: { type: "fit", contains: "padding" }, config: config(),
        data: { name: "points", values: rows[k] }, mark: { type: "line", point: { size: 36, filled: true }, strokeWidth: 2 },
        encoding: {
          x: { field: "rate", type: "quantitative", scale: { zero: true }, axis: { title: `requests per ${unit(k) === "s" ? "second" : "round"}`, grid: false, tickCount: 6 } },
          y: { field: "mean", type: "quantitative", scale: { domain: [0, most] }, axis: { title: latencyTitle(k, "mean latency"), tickCount: 5 } }, ...byPolicy(),
          tooltip: [{ field: "policy" }, { field: "rate" }, { field: "mean", format: ",.4~g" }, { field: "p99", format: ",.4~g" }],
        },
      }, { mode: "vega-lite", renderer: "canvas", actions: false });
      explorer.views[`load ${NAMES[k]}`]?.finalize();
      explorer.views[`load ${NAMES[k]}`] = view;
    }
  }

  // The page ------------------------------------------------------------------------------------------------------------

  function settings() {
    $("settings").replaceChildren(...sides().map(form));
  }

  $("requests").textContent = `${data.requests}.`;
  $("two").checked = false;
  $("two").addEventListener("input", (event) => {
    state.two = $("two").checked;
    if (state.two && state.sides.length < 2) {
      state.sides.push({ ...state.sides[0] });
      state.answers[1] = state.answers[0];
      $("settings").append(form(1));
    }
    for (const [at, one] of [...$("settings").children].entries()) one.hidden = at > 0 && !state.two;
    for (const id of [...Object.keys(CHARTS), "tables", "take"]) place(id, 0);
    document.body.classList.toggle("two", state.two);
    for (const k of sides()) changed(k, event);
  });
  $("seed").addEventListener("input", (event) => {
    if ($("seed").value === "" || !$("seed").checkValidity()) return;
    state.seed = Number($("seed").value);
    for (const k of sides()) changed(k, event);
  });
  $("log").addEventListener("input", () => { state.log = $("log").checked; draw(); });
  $("load-on").addEventListener("input", () => {
    if ($("load-on").checked) drawLoad();
    else $("load").replaceChildren();
  });
  const again = () => {
    if (!state.answers[0]) return;
    draw();
    if ($("load-on").checked && state.loads[0]) paintLoad();
  };
  darkness.addEventListener("change", () => { policyChips(); again(); });
  let width = 0;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    later("width", 120, again);
  }).observe(document.body);
  // On a narrow screen the curves stay in sight as long as there are sliders to move (see the style).
  const inSight = new Set();
  new IntersectionObserver((seen) => {
    for (const one of seen) inSight[one.isIntersecting ? "add" : "delete"](one.target);
    document.body.classList.toggle("moving", inSight.size > 0);
  }).observe($("settings"));

  settings();
  policyChips();
  legend();
  changed(0);
})();
