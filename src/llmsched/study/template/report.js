"use strict";
// The page of a study's report. All numbers are in the element `data`, as columns over the cells; nothing is loaded.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const factors = new Map(data.factors.map((factor) => [factor.name, factor]));
  const metrics = new Map(data.metrics.map((metric) => [metric.name, metric]));
  const policies = factors.get("policy").levels;
  const varied = data.factors.filter((factor) => factor.levels.length > 1);
  const baseline = policies.indexOf(data.against);
  const all = [...data.factors[0].cells.keys()];
  const percent = `${+(100 * data.confidence).toPrecision(4)} %`;
  const narrow = () => document.body.clientWidth < 640;
  const PANELS = 6, ROWS = 100;

  const state = {
    metric: data.metric, along: data.along, scale: null, setting: 0, search: "", sort: null, descending: false,
    panels: PANELS, rows: ROWS, hidden: new Map(data.factors.map((factor) => [factor.name, new Set()])),
  };

  // Elements and numbers ----------------------------------------------------------------------------------------------

  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-") || key === "role") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  }

  function number(value, metric) {
    if (value === null || value === undefined) return "–";
    if (metric && metric.share) return `${(100 * value).toFixed(Math.abs(value) < 0.1 ? 2 : 1)} %`;
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e15) return value.toLocaleString("en-US");
    const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : size >= 0.01 ? 3 : 5;
    return value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 3) });
  }

  const ratio = (value) => (value === null ? "–" : value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 }));
  const range = (low, high, show) => (low === null && high === null ? "unknown" : `${show(low)} to ${show(high)}`);
  const title = (metric) => metric.label[0].toUpperCase() + metric.label.slice(1);
  const withUnit = (metric) => (metric.unit ? `${metric.label} (${metric.unit})` : metric.label);
  const level = (factor, k) => {
    const value = factor.levels[k];
    return typeof value === "number" ? value.toLocaleString("en-US") : String(value);
  };
  const spelled = (factor, k) => (factor.levels.some((value) => typeof value === "number") ? `${factor.name} ${level(factor, k)}` : level(factor, k));
  const count = (n, one, many) => `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`;

  // Cells and settings ------------------------------------------------------------------------------------------------

  function shownCells(ignored = null) {
    const active = data.factors.filter((factor) => factor.name !== ignored && state.hidden.get(factor.name).size);
    return all.filter((k) => active.every((factor) => !state.hidden.get(factor.name).has(factor.cells[k])));
  }

  // Cells by what they have in common when some factors are left out: name -> cells, in the study's order.
  function grouped(cells, without) {
    const kept = varied.filter((factor) => !without.includes(factor.name));
    const groups = new Map();
    for (const k of cells) {
      const name = kept.map((factor) => spelled(factor, factor.cells[k])).join(" · ");
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(k);
    }
    return groups;
  }

  // Looks -------------------------------------------------------------------------------------------------------------

  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const policyColours = () => data.styles.map((style) => (darkness.matches ? style.dark : style.light));

  function config() {
    const text = { labelColor: colour("soft"), titleColor: colour("soft"), labelFontSize: 11, titleFontSize: 12 };
    return {
      background: "transparent", font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null }, facet: { spacing: { row: 22, column: 22 } }, aria: false,
      axis: { ...text, titleFontWeight: "normal", gridColor: colour("grid"), domainColor: colour("line"), tickColor: colour("line") },
      header: { title: null, labelColor: colour("ink"), labelFontSize: 12, labelFontWeight: 600, labelAnchor: "start", labelLimit: 340, labelPadding: 6 },
    };
  }

  function swatch(k) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("class", "swatch");
    made.setAttribute("viewBox", "0 0 26 10");
    made.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", "M1 5H25");
    line.setAttribute("stroke", policyColours()[k]);
    line.setAttribute("stroke-width", "3");
    line.setAttribute("stroke-dasharray", data.styles[k].dash.join(" "));
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
    mark.setAttribute("d", { circle: "M9 5a4 4 0 1 0 8 0a4 4 0 1 0-8 0", square: "M9.5 1.5h7v7h-7Z", "triangle-up": "M13 .5l4.5 8h-9Z", diamond: "M13 0l4.5 5-4.5 5-4.5-5Z" }[data.styles[k].shape]);
    mark.setAttribute("fill", policyColours()[k]);
    made.append(line, mark);
    return made;
  }

  // Charts ------------------------------------------------------------------------------------------------------------

  const embedded = new Map();

  // `make` has the width of a panel; how much the axes take beside them is known once they have been drawn.
  async function embed(id, make, columns, label) {
    const place = $(id), room = place.clientWidth;
    place.setAttribute("aria-label", label);
    let width = Math.max(100, Math.floor((room - columns * 50) / columns));
    for (let again = 0; again < 3; again++) {
      const settled = await vegaEmbed(place, { config: config(), ...make(width) }, { mode: "vega-lite", renderer: "svg", actions: false });
      embedded.get(id)?.finalize();
      embedded.set(id, settled);
      const svg = place.querySelector("svg");
      svg.setAttribute("aria-hidden", "true"); // the place has the label
      const left = room - svg.getBoundingClientRect().width;
      if ((left >= 0 && left < 4 * columns) || width + left / columns < 60) break;
      width += Math.floor(left / columns);
    }
  }

  function nothing(id, text) {
    embedded.get(id)?.finalize();
    embedded.delete(id);
    $(id).removeAttribute("aria-label");
    $(id).replaceChildren(element("p", { className: "soft" }, text));
  }

  const byPolicy = () => {
    const shown = policies.map((name, k) => k).filter((k) => !state.hidden.get("policy").has(k));
    const names = shown.map((k) => policies[k]);
    return {
      color: { field: "policy", type: "nominal", legend: null, scale: { domain: names, range: shown.map((k) => policyColours()[k]) } },
      shape: { field: "policy", type: "nominal", legend: null, scale: { domain: names, range: shown.map((k) => data.styles[k].shape) } },
      strokeDash: { field: "policy", type: "nominal", legend: null, scale: { domain: names, range: shown.map((k) => data.styles[k].dash) } },
    };
  };

  function isLog() {
    if (state.scale) return state.scale === "log";
    const { mean } = metrics.get(state.metric).values;
    const spreads = [...grouped(shownCells(), ["policy", state.along]).values()].map((cells) => {
      const values = cells.map((k) => mean[k]).filter((value) => value !== null);
      const least = Math.min(...values);
      return values.length && least > 0 ? Math.max(...values) / least : 1;
    }).sort((a, b) => a - b);
    return (spreads[spreads.length >> 1] ?? 1) > 30;
  }

  // Small multiples: a quantity against the factor, a panel per setting of the others, a line per policy.
  function multiples(id, metric, keys, options = {}) {
    const factor = factors.get(state.along);
    const groups = grouped(shownCells(), ["policy", state.along]);
    const names = [...groups.keys()].slice(0, state.panels);
    const show = options.plain ? ratio : (value) => number(value, metric);
    const log = options.log ?? isLog();
    const values = [];
    for (const name of names) {
      for (const k of groups.get(name)) {
        let [middle, low, high] = keys.map((key) => metric.values[key][k]);
        if (low !== null && options.floor !== undefined) low = Math.max(low, options.floor);
        if (options.domain) [low, high] = [low, high].map((limit) => limit === null ? null : Math.min(Math.max(limit, options.domain[0]), options.domain[1]));
        if (middle === null || (log && middle <= 0) || (options.skip ?? -1) === factors.get("policy").cells[k]) continue;
        values.push({
          panel: name, policy: policies[factors.get("policy").cells[k]], x: factor.scale ? factor.scale.values[factor.cells[k]] : level(factor, factor.cells[k]), level: level(factor, factor.cells[k]),
          y: middle, low: low === null || (log && low <= 0) ? middle : low, high: high ?? middle,
          what: show(middle), interval: range(metric.values[keys[1]][k], metric.values[keys[2]][k], show), n: metric.values.n[k],
        });
      }
    }
    if (!values.length) return nothing(id, options.empty ?? "There is nothing to show: choose more above.");
    const smallest = Math.min(options.rule ?? Infinity, ...values.map((row) => row.low)), largest = Math.max(...values.map((row) => row.high));
    const width = Math.max($(id).clientWidth, 240);
    const columns = names.length === 1 ? 1 : Math.min(names.length, width < 560 ? 1 : width < 900 || names.length === 4 ? 2 : 3);
    const height = names.length === 1 ? 300 : 190;
    const floor = options.floor ?? -Infinity; // intervals of what cannot be less may reach below it: these are cut
    const yScale = log ? { type: "log", nice: false } : { zero: options.rule === undefined && smallest >= 0 && (smallest < 0.6 * largest || floor === 0), nice: true };
    if (options.domain || (smallest === 0 && largest === 0)) yScale.domain = options.domain ?? [0, 1];
    const yAxis = { title: names.length === 1 ? options.title : null, format: metric.share && !options.plain ? "~%" : ticks(largest), tickCount: 5, domain: false, ticks: false };
    if (log && leastSpread(values) >= 10) yAxis.values = logTicks(smallest, largest);
    else if (log) yAxis.labelOverlap = "greedy";
    const layer = [];
    const tooltip = [
      { field: "policy", title: "policy" }, { field: "level", title: factor.name },
      { field: "what", title: options.short ?? metric.label }, { field: "interval", title: percent }, { field: "n", title: "replications", format: "," },
    ];
    const look = byPolicy();
    const y = { field: "y", type: "quantitative", scale: yScale, axis: yAxis };
    let x;
    if (factor.scale) {
      const levels = factor.scale.values.filter((_, k) => !state.hidden.get(factor.name).has(k));
      const sorted = [...levels].sort((a, b) => a - b), last = sorted.length - 1;
      const logX = sorted[0] > 0 && sorted[last] / sorted[0] >= 6 && sorted[last] - sorted[last - 1] > 3 * (sorted[1] - sorted[0]);
      x = { field: "x", type: "quantitative", scale: { ...(logX ? { type: "log" } : { zero: false }), nice: false, padding: 10 },
        axis: { title: factor.scale.title, values: levels, format: ".3~s", labelOverlap: "greedy", grid: false } };
      layer.push(
        { mark: { type: "area", opacity: 0.17 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: look.color } },
        { mark: { type: "line", strokeWidth: 1.8 }, encoding: { x, y, color: look.color, strokeDash: look.strokeDash } },
        { mark: { type: "point", filled: true, size: 34, opacity: 1 }, encoding: { x, y, color: look.color, shape: look.shape, tooltip } },
      );
    } else {
      const domain = factor.levels.map((_, k) => level(factor, k)).filter((_, k) => !state.hidden.get(factor.name).has(k));
      const long = domain.join("").length * 6.5 + domain.length * 12 > width / columns - 50;
      x = { field: "x", type: "nominal", scale: { domain, paddingInner: 0.25 }, axis: { title: factor.name, labelAngle: long ? -32 : 0, labelLimit: 120, grid: false, domain: false, ticks: false } };
      const offset = factor.name === "policy" ? {} : { xOffset: { field: "policy", type: "nominal", scale: { domain: look.color.scale.domain } } };
      layer.push(
        { mark: { type: "rule", strokeWidth: 2, opacity: 0.75 }, encoding: { x, ...offset, y: { ...y, field: "low" }, y2: { field: "high" }, color: look.color } },
        { mark: { type: "point", filled: true, size: 42, opacity: 1 }, encoding: { x, ...offset, y, color: look.color, shape: look.shape, tooltip } },
      );
    }
    if (options.rule !== undefined) layer.unshift({ mark: { type: "rule", color: colour("soft"), strokeDash: [4, 3] }, encoding: { y: { datum: options.rule, type: "quantitative", scale: yScale } } });
    const only = names.length === 1 && !names[0];
    const make = (inner) => only
      ? { data: { values }, width: inner, height, layer }
      : { data: { values }, columns, facet: { field: "panel", type: "nominal", sort: names, header: {} }, spec: { width: inner, height, layer },
          resolve: { scale: { y: options.domain ? "shared" : "independent" }, axis: { x: "independent", y: "independent" } } };
    return embed(id, make, columns, `${options.title} against ${state.along}, ${count(names.length, "panel", "panels")}. The table of all cells has the numbers.`);
  }

  const ticks = (largest) => (largest >= 1e5 ? ".3~s" : ",.6~r");

  // Largest over smallest value of the panel in which they are nearest: Vega knows better ticks for less than a decade.
  function leastSpread(values) {
    const ends = new Map();
    for (const { panel, low, high } of values) {
      const [least, most] = ends.get(panel) ?? [low, high];
      ends.set(panel, [Math.min(least, low), Math.max(most, high)]);
    }
    return Math.min(...[...ends.values()].map(([least, most]) => most / least));
  }

  function logTicks(least, most) {
    const ticks = [], digits = most / least < 100 ? [1, 2, 5] : most / least < 1e4 ? [1, 3] : [1];
    for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(most)); power++)
      for (const digit of digits) ticks.push(digit * 10 ** power);
    return ticks.filter((tick) => tick >= least * 0.99 && tick <= most * 1.01);
  }

  const charts = {
    means() {
      const metric = metrics.get(state.metric);
      return multiples("means", metric, ["mean", "low", "high"], { title: withUnit(metric), ...(metric.values.mean.every((value) => value === null || value >= 0) ? { floor: 0 } : {}) });
    },
    ratio() {
      const metric = metrics.get(state.metric);
      return multiples("ratio", metric, ["ratio", "ratio_low", "ratio_high"],
        { title: `ratio to ${data.against}`, short: "ratio", plain: true, rule: 1, skip: baseline,
          empty: `There is no ratio to show: the mean of ${data.against} is 0 in all that is chosen above, or nothing is.` });
    },
    memory() {
      const metric = metrics.get(data.memoryUse);
      return metric && multiples("memory", metric, ["mean", "low", "high"], { title: withUnit(metric), log: false, ...(metric.share ? { domain: [0, 1] } : {}) });
    },
    evictions() {
      const metric = metrics.get(data.evictionRate);
      return metric && multiples("evictions", metric, ["mean", "low", "high"], { title: withUnit(metric), log: false, floor: 0 });
    },
    detail() {
      const metric = metrics.get(state.metric), policy = factors.get("policy");
      const show = (value) => number(value, metric);
      const groups = grouped(shownCells("policy"), ["policy"]);
      const cells = [...groups.values()][state.setting] ?? [];
      const reference = cells.find((k) => policy.cells[k] === baseline);
      $("detail-lead").textContent = reference === undefined || metric.values.mean[reference] === null
        ? `${data.against} has no value here, so there is nothing to compare with.`
        : `${title(metric)} minus that of ${data.against}, which is ${show(metric.values.mean[reference])} ` +
          `(${range(metric.values.low[reference], metric.values.high[reference], show)}). Replications are paired: each ` +
          `policy saw the same requests, so an interval that leaves out 0 is a difference. On the right: the ratio.`;
      const values = cells.filter((k) => k !== reference && !state.hidden.get("policy").has(policy.cells[k]) && metric.values.difference[k] !== null)
        .map((k) => {
          const v = metric.values;
          return {
            policy: policies[policy.cells[k]], x: v.difference[k], low: v.difference_low[k] ?? v.difference[k], high: v.difference_high[k] ?? v.difference[k],
            what: show(v.difference[k]), interval: range(v.difference_low[k], v.difference_high[k], show), mean: show(v.mean[k]), n: v.n[k],
            ratio: v.ratio[k] === null ? "" : `× ${ratio(v.ratio[k])}` + (narrow() ? "" : ` (${range(v.ratio_low[k], v.ratio_high[k], ratio)})`),
            verdict: data.verdicts[v.verdict[k]] ?? "knows the truth",
          };
        }).sort((a, b) => a.x - b.x);
      if (!values.length) return nothing("detail", "There is no other policy to compare here.");
      const y = { field: "policy", type: "nominal", sort: null, scale: { domain: values.map((row) => row.policy) }, axis: { title: null, domain: false, ticks: false, labelColor: colour("ink"), labelFontSize: 12, labelLimit: narrow() ? 110 : 170, grid: true } };
      const x = { field: "x", type: "quantitative", scale: { nice: true, padding: 8 }, axis: { title: (narrow() ? "difference" : `${metric.label}: difference to ${data.against}`) + (metric.unit ? ` (${metric.unit})` : ""), format: metric.share ? "~%" : ticks(Math.max(...values.map((row) => row.high))), tickCount: 5, grid: true } };
      const { color, shape } = byPolicy();
      const tooltip = [["policy", "policy"], ["mean", metric.label], ["what", "difference"], ["interval", percent], ["ratio", "ratio"], ["verdict", "verdict"], ["n", "replications"]]
        .map(([field, name]) => ({ field, title: name }));
      return embed("detail", (width) => ({
        data: { values }, width, height: { step: 30 },
        layer: [
          { mark: { type: "rule", color: colour("soft"), strokeDash: [4, 3] }, encoding: { x: { datum: 0, type: "quantitative" } } },
          { mark: { type: "rule", strokeWidth: 3, opacity: 0.8, strokeCap: "round" }, encoding: { y, x: { ...x, field: "low" }, x2: { field: "high" }, color } },
          { mark: { type: "point", filled: true, size: 80, opacity: 1 }, encoding: { y, x, color, shape, tooltip } },
          { mark: { type: "text", align: "left", dx: 10, fontSize: 12, color: colour("soft") }, encoding: { y, x: { value: "width" }, text: { field: "ratio" } } },
        ],
      }), 1, `Differences of ${metric.label} to ${data.against} in one setting: ${values.map((row) => `${row.policy} ${row.what}`).join(", ")}.`);
    },
  };

  // Charts are drawn when they come near the window, and again when something has changed.
  const stale = new Set(), near = new Set();
  let drawing = Promise.resolve();

  function draw(names) {
    for (const name of names) stale.add(name);
    for (const name of Object.keys(charts)) {
      if (stale.has(name) && near.has(name)) {
        stale.delete(name);
        drawing = drawing.then(() => charts[name]()).catch((error) => console.error(error));
      }
    }
    document.documentElement.dataset.drawn = "no";
    drawing.then(() => { document.documentElement.dataset.drawn = [...stale].every((name) => $(name).offsetParent === null) ? "all" : "near"; });
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) near[isIntersecting ? "add" : "delete"](target.id);
    draw([]);
  }, { rootMargin: "300px" });

  // What is said beside the charts ------------------------------------------------------------------------------------

  function heads() {
    const metric = metrics.get(state.metric), along = state.along;
    const groups = grouped(shownCells(), ["policy", along]).size;
    $("means-title").textContent = `${title(metric)} against ${along}`;
    const unit = metric.unit ? ` (${metric.unit})` : "";
    $("means-lead").textContent = `Means over the replications${unit}; ${factors.get(along).scale ? "bands" : "bars"} are ${percent} confidence intervals.` +
      (groups > 1 ? " A panel for each setting of the other factors, with its own scale." : "");
    $("ratio-title").textContent = `Ratio to ${data.against}`;
    $("ratio-lead").textContent = `${title(metric)} divided by that of ${data.against} in the same replications, with ${percent} confidence intervals (Fieller).` +
      (metric.moreIsBetter ? " More is better." : "");
    for (const id of ["ratio-card", "detail-card", "best-card"]) $(id).hidden = policies.length < 2;
    const legend = policies.map((name, k) => k).filter((k) => !state.hidden.get("policy").has(k));
    for (const place of document.querySelectorAll(".legend")) {
      place.replaceChildren(...legend.map((k) => element("span", {}, swatch(k), policies[k])));
    }
    for (const [name, key] of [["memory", data.memoryUse], ["evictions", data.evictionRate]]) {
      $(`${name}-card`).hidden = !metrics.has(key);
      if (metrics.has(key)) $(`${name}-title`).textContent = name === "memory" ? `Memory use: ${metrics.get(key).label}` : `${title(metrics.get(key))}`;
    }
    const more = $("more");
    more.hidden = groups <= PANELS;
    more.textContent = state.panels >= groups ? `Show ${PANELS} panels` : `Show all ${groups} panels (${PANELS} are shown)`;
    const cells = shownCells();
    $("shown").textContent = `${cells.length.toLocaleString("en-US")} of ${count(all.length, "cell", "cells")}`;
    $("scale").value = isLog() ? "log" : "linear";
  }

  function best() {
    const metric = metrics.get(state.metric), policy = factors.get("policy");
    const settings = grouped(shownCells("policy"), ["policy"]);
    const tally = policies.map((_, k) => ({ k, alone: 0, among: 0 }));
    let compared = 0;
    for (const cells of settings.values()) {
      compared += cells.some((k) => metric.values.verdict[k] === 0 || metric.values.verdict[k] === 1);
      for (const k of cells) {
        tally[policy.cells[k]].alone += metric.values.verdict[k] === 0;
        tally[policy.cells[k]].among += metric.values.verdict[k] === 1;
      }
    }
    const winners = tally.filter((row) => row.alone + row.among).sort((a, b) => b.alone - a.alone || b.among - a.among);
    const wise = policies.filter((_, k) => data.clairvoyant[k]);
    $("best-lead").textContent = `${metric.moreIsBetter ? "Largest" : "Smallest"} ${metric.label} in ${count(compared, "setting", "settings")}` +
      (wise.length ? `, not counting ${wise.join(" and ")}, which know${wise.length > 1 ? "" : "s"} the true lengths` : "") +
      `. Full colour: shown to be the best. Pale: may be the best, as may others. What is said of one setting holds jointly with ${percent} confidence.`;
    $("best").replaceChildren(...winners.map((row) => element("div", { className: "row" },
      element("span", { className: "policy" }, swatch(row.k), policies[row.k]),
      element("span", { className: "bar", "aria-hidden": "true" },
        element("span", { className: "alone", style: `width:${(100 * row.alone) / compared}%` }),
        element("span", { className: "among", style: `width:${(100 * row.among) / compared}%` })),
      element("span", { className: "count" }, `best in ${row.alone}, may be in ${row.among}`),
    )));
    if (!winners.length) $("best").replaceChildren(element("p", { className: "soft" }, "No two policies can be compared here."));
    const chosen = $("setting");
    state.setting = Math.min(state.setting, Math.max(settings.size - 1, 0));
    chosen.replaceChildren(...[...settings.keys()].map((name, k) => element("option", { value: k }, name || "the only one")));
    chosen.value = state.setting;
  }

  // Table -------------------------------------------------------------------------------------------------------------

  function columns() {
    const metric = metrics.get(state.metric);
    const { values } = metric;
    const inUnits = (value) => number(value, metric);
    const of = (name, key, shown = name, show = inUnits) => ({ name, shown, value: (k) => values[key][k], text: (k) => show(values[key][k]) });
    const between = (name, prefix, show) => { // sorted by its width
      const low = values[`${prefix}low`], high = values[`${prefix}high`];
      return {
        name, shown: `${percent} interval`, hint: "sorts by width", value: (k) => (low[k] === null || high[k] === null ? null : high[k] - low[k]),
        text: (k) => (low[k] === null && high[k] === null ? "–" : range(low[k], high[k], show)), parts: { [`${name} from`]: low, [`${name} to`]: high },
      };
    };
    const also = [data.memoryUse, data.evictionRate].filter((name) => metrics.has(name) && name !== state.metric).map((name) => {
      const other = metrics.get(name);
      return { name, shown: other.label, value: (k) => other.values.mean[k], text: (k) => number(other.values.mean[k], other) };
    });
    const verdict = (k) => data.verdicts[metric.values.verdict[k]] ?? "knows the truth";
    return [
      ...[factors.get("policy"), ...varied.filter((factor) => factor.name !== "policy")].map((factor) => ({ name: factor.name, factor, shown: factor.name, left: !factor.numeric, value: (k) => (factor.numeric ? factor.levels[factor.cells[k]] : factor.cells[k]), text: (k) => level(factor, factor.cells[k]) })),
      of("n", "n", "n", (value) => number(value)),
      of(metric.name, "mean", "mean"), between(`interval of ${metric.name}`, "", inUnits), of("p10", "p10"), of("p90", "p90"),
      of(`ratio to ${data.against}`, "ratio", undefined, ratio), between("interval of the ratio", "ratio_", ratio),
      of(`difference to ${data.against}`, "difference"),
      ...also,
      { name: "verdict", shown: "verdict", left: true, value: (k) => { const v = metric.values.verdict[k]; return v < 0 ? 9 : v; }, text: verdict, badge: (k) => ["best", "among"][metric.values.verdict[k]] },
    ];
  }

  function tableCells() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    const found = shownCells().filter((k) => {
      const text = data.factors.map((factor) => `${factor.levels[factor.cells[k]]} ${level(factor, factor.cells[k])}`).join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const column = columns().find((one) => one.name === state.sort);
    if (!column) return found;
    const sign = state.descending ? -1 : 1;
    const keyed = found.map((k) => [column.value(k), k]);
    keyed.sort(([a, j], [b, k]) => (a === null) - (b === null) || (a === null ? 0 : sign * (a - b)) || j - k);
    return keyed.map(([, k]) => k);
  }

  function table() {
    const shown = columns(), cells = tableCells();
    const head = element("tr", {}, ...shown.map((column) => {
      const sorted = state.sort === column.name ? (state.descending ? "descending" : "ascending") : "none";
      const button = element("button", { type: "button", onclick: () => sortBy(column.name) }, column.shown);
      button.dataset.column = column.name;
      if (column.shown !== column.name) button.setAttribute("aria-label", [column.shown, column.name, column.hint].filter(Boolean).join(", "));
      return element("th", { scope: "col", className: column.left ? "text" : "", "aria-sort": sorted }, button);
    }));
    const rows = cells.slice(0, state.rows).map((k) => element("tr", {}, ...shown.map((column) => {
      const badge = column.badge?.(k);
      const content = badge ? element("span", { className: `badge ${badge}` }, column.text(k)) : column.text(k);
      return element("td", { className: (column.left ? "text " : "") + (column.badge && !badge ? "soft" : ""), "data-label": column.shown }, content);
    })));
    const focused = document.activeElement?.dataset?.column;
    $("cells").tHead.replaceChildren(head);
    $("cells").tBodies[0].replaceChildren(...rows);
    if (focused) head.querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
    $("all").hidden = cells.length <= ROWS;
    $("all").textContent = state.rows >= cells.length ? `Show ${ROWS} rows` : `Show all ${count(cells.length, "row", "rows")} (${ROWS} are shown)`;
    $("table-title").textContent = `Every cell: ${withUnit(metrics.get(state.metric))}`;
  }

  function sortBy(name) {
    state.descending = state.sort === name && !state.descending;
    state.sort = name;
    table();
  }

  function saveCsv() {
    const shown = columns();
    const quoted = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
    const fields = shown.flatMap((column) => column.parts
      ? Object.entries(column.parts).map(([name, values]) => [name, (k) => values[k] ?? ""])
      : [[column.name, (k) => (column.factor ? column.factor.levels[column.factor.cells[k]] : column.badge ? column.text(k) : column.value(k) ?? "")]]);
    const lines = [fields.map(([name]) => quoted(name)), ...tableCells().map((k) => fields.map(([, value]) => quoted(String(value(k)))))];
    const link = element("a", { href: URL.createObjectURL(new Blob([lines.map((line) => line.join(",") + "\n").join("")], { type: "text/csv" })) });
    link.download = `${data.name.replace(/[^\w.-]+/g, "-")}-${state.metric}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // The address tells what is shown, so that it can be kept, sent and reloaded.
  function remember() {
    const kept = new URLSearchParams();
    if (state.metric !== data.metric) kept.set("metric", state.metric);
    if (state.along !== data.along) kept.set("along", state.along);
    if (state.scale) kept.set("scale", state.scale);
    for (const [name, hidden] of state.hidden) if (hidden.size) kept.set(`without-${name}`, [...hidden].join("."));
    history.replaceState(null, "", kept.size ? `#${kept}` : location.href.split("#")[0]);
  }

  function recall() {
    const kept = new URLSearchParams(location.hash.slice(1));
    if (metrics.has(kept.get("metric"))) state.metric = kept.get("metric");
    if (factors.has(kept.get("along"))) state.along = kept.get("along");
    if (["linear", "log"].includes(kept.get("scale"))) state.scale = kept.get("scale");
    for (const [name, hidden] of state.hidden) {
      for (const text of kept.get(`without-${name}`)?.split(".") ?? []) if (factors.get(name).levels[text] !== undefined) hidden.add(+text);
    }
  }

  // Controls ----------------------------------------------------------------------------------------------------------

  function update(what = Object.keys(charts)) {
    remember();
    heads();
    best();
    table();
    draw(what);
  }

  function filters() {
    $("filters").replaceChildren(...varied.map((factor) => element("fieldset", {}, element("legend", {}, factor.name),
      element("div", { className: "chips" }, ...factor.levels.map((_, k) => {
        const hidden = state.hidden.get(factor.name);
        const box = element("input", { type: "checkbox", checked: !hidden.has(k) });
        box.dataset.factor = factor.name;
        box.dataset.level = level(factor, k);
        box.addEventListener("change", () => { hidden[box.checked ? "delete" : "add"](k); update(); });
        return element("label", { className: "chip" }, box, ...(factor.name === "policy" ? [swatch(k)] : []), level(factor, k));
      })))));
  }

  function controls() {
    $("metric").replaceChildren(...data.metrics.map((metric) => element("option", { value: metric.name }, metric.label)));
    $("metric").value = state.metric;
    $("along").replaceChildren(...data.factors.filter((factor) => factor.levels.length > 1 || factor.name === "policy").map((factor) => element("option", { value: factor.name }, factor.name)));
    $("along").value = state.along;
    const changed = (id, act) => $(id).addEventListener(id === "search" ? "input" : "change", (event) => act(event.target.value));
    changed("metric", (value) => { state.metric = value; state.scale = null; update(); });
    changed("along", (value) => { state.along = value; state.panels = PANELS; update(); });
    changed("scale", (value) => { state.scale = value; remember(); draw(["means", "ratio"]); });
    changed("setting", (value) => { state.setting = +value; draw(["detail"]); });
    changed("search", (value) => { state.search = value; table(); });
    $("reset").addEventListener("click", () => {
      for (const hidden of state.hidden.values()) hidden.clear();
      Object.assign(state, { metric: data.metric, along: data.along, scale: null, search: "", sort: null, panels: PANELS, rows: ROWS });
      for (const id of ["metric", "along", "search"]) $(id).value = state[id];
      filters();
      update();
    });
    $("more").addEventListener("click", () => { state.panels = state.panels > PANELS ? PANELS : Infinity; heads(); draw(["means", "ratio", "memory", "evictions"]); });
    $("all").addEventListener("click", () => { state.rows = state.rows > ROWS ? ROWS : Infinity; table(); });
    $("csv").addEventListener("click", saveCsv);
    if (narrow()) $("controls").open = false;
  }

  // What does not change ----------------------------------------------------------------------------------------------

  async function copy(text, button) {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it and copy";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  function fixed() {
    $("name").textContent = data.name;
    $("description").textContent = data.description;
    const fact = (value, words) => element("li", {}, element("b", {}, value.toLocaleString("en-US")), ` ${words}`);
    $("facts").append(...varied.map((factor) => fact(factor.levels.length, { policy: "policies", memory: "memories", intervals: "interval settings", max_batch: "batch limits", block: "block sizes", prefill_budget: "prefill budgets" }[factor.name] ?? `${factor.name}s`)),
      fact(all.length, all.length === 1 ? "cell" : "cells"), fact(data.simulations, "simulations"));
    if (data.failures) $("facts").append(element("li", { className: "note" }, `${count(data.failures, "simulation", "simulations")} without a result`));
    if (data.equal) $("facts").append(element("li", { className: "note" }, data.equal));
    if (data.unfinished) $("facts").append(element("li", { className: "note" }, data.unfinished));
    const repeat = data.repeat;
    $("commands").append(...repeat.commands.map((command) => {
      const button = element("button", { type: "button" }, "Copy the command");
      button.addEventListener("click", () => copy(command, button));
      return element("div", {}, element("pre", { tabIndex: 0 }, element("code", {}, command)), button);
    }));
    $("text").textContent = repeat.text;
    $("file").hidden = !repeat.text;
    document.querySelector("[data-copy]").addEventListener("click", (event) => copy(repeat.text, event.target));
    $("provenance").append(...repeat.facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
    $("method").append(...[
      `Every cell was simulated n times. Intervals of means are Student's t at ${percent}; where replications were added until a precision was reached, the interval that stays valid under that rule (Stein's two-stage procedure, repeated).`,
      "p10 and p90: a tenth of the replications were below, above. They tell how much single runs differ, not how well the mean is known.",
      `Replication k of every cell has the same requests, so policies are compared pair by pair. Differences: paired t. Ratios: of means, Fieller's interval; none where the mean of ${data.against} cannot be told from 0.`,
      `Verdicts: multiple comparisons with the best, paired, Bonferroni (Edwards and Hsu 1983). In each setting, with ${percent} confidence, the best policy is among those called “best” or “among the best”. Over many settings some verdicts will be wrong.`,
      "A simulation that did not finish has no value: n is smaller, and what is compared is left to the replications that both finished.",
    ].map((text) => element("li", {}, text)));
    $("footer").textContent = `llmsched ${data.version}`;
  }

  recall();
  fixed();
  controls();
  filters();
  update();
  for (const name of Object.keys(charts)) watcher.observe($(name));
  darkness.addEventListener("change", () => { filters(); update(); });
  let width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    draw(Object.keys(charts));
  }).observe(document.body);
  addEventListener("beforeprint", () => { for (const name of Object.keys(charts)) near.add(name); draw([]); });
})();
