/* The page of a run: curves, mined negatives through time, strips, the map of the bank. */

/* ---- frames ---- */

const VIDEOS = Object.entries(DATA.videos).map(([number, video]) => ({ number: Number(number), ...video }));
VIDEOS.sort((one, other) => one.first - other.first);

function videoOf(frame) {
  let low = 0;
  let high = VIDEOS.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (VIDEOS[middle].first <= frame) low = middle;
    else high = middle;
  }
  return VIDEOS[low];
}

const labelOf = (frame) => (DATA.labels[frame] || videoOf(frame).label || "");

function seconds(video, frames) {
  return video.rate > 0 ? ` (${(frames / video.rate).toFixed(2)} s)` : "";
}

function frameText(frame) {
  const video = videoOf(frame);
  const label = labelOf(frame);
  return `${video.name}, group ${video.group}, frame ${frame - video.first} of ${video.frames}${label ? `, ${label}` : ""}`;
}

/* A picture of a frame id: as it is stored where the page has it so, else its thumbnail, else a box that says so. */
function picture(frame, width) {
  const name = frameText(frame);
  if (DATA.pictures[frame]) {
    return make("img", { src: DATA.pictures[frame], alt: name, title: name, width, "data-frame": frame });
  }
  const { side, across, atlases, places } = DATA.thumbnails;
  const place = places[frame];
  if (!place) return make("span", { class: "absent", text: "no picture", title: name });
  const [number, w, h] = place;
  const within = number % (across * across);
  const scale = width / Math.max(w, h);
  const x = (within % across) * side * scale;
  const y = Math.floor(within / across) * side * scale;
  const style =
    `width:${w * scale}px;height:${h * scale}px;background-image:url(${atlases[Math.floor(number / (across * across))]});` +
    `background-size:${across * side * scale}px auto;background-position:-${x}px -${y}px`;
  return make("span", { class: "thumbnail", style, role: "img", "aria-label": name, title: name, "data-frame": frame });
}

/* ---- curves ---- */

const CHART = { width: 360, height: 120, left: 48, right: 8, top: 8, bottom: 18 };

function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function drawCurves() {
  const section = document.getElementById("curves");
  const steps = DATA.curves.flatMap((curve) => curve.steps);
  const first = Math.min(...steps);
  const last = Math.max(...steps, first + 1);
  const plot = CHART.width - CHART.left - CHART.right;
  const across = (step) => CHART.left + (plot * (step - first)) / (last - first);
  const charts = [];
  const grid = make("div", { class: "charts" });

  const show = (step) => {
    for (const { curve, cursor, value } of charts) {
      let near = 0;
      curve.steps.forEach((at, place) => {
        if (Math.abs(at - step) < Math.abs(curve.steps[near] - step)) near = place;
      });
      cursor.setAttribute("x1", across(curve.steps[near]));
      cursor.setAttribute("x2", across(curve.steps[near]));
      const [low, high] = [curve.low[near], curve.high[near]];
      value.textContent = `step ${curve.steps[near]}: ${number(curve.values[near])}` + (low < high ? ` (${number(low)} to ${number(high)})` : "");
    }
  };

  for (const curve of DATA.curves) {
    const least = Math.min(...curve.low);
    const most = Math.max(...curve.high);
    const height = CHART.height - CHART.top - CHART.bottom;
    const down = (value) => CHART.top + height * (1 - (most > least ? (value - least) / (most - least) : 0.5));
    const points = (values) => values.map((value, place) => `${across(curve.steps[place]).toFixed(1)},${down(value).toFixed(1)}`);
    const svg = make("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, tabindex: 0, role: "img", "aria-label": curve.title });
    svg.append(make("polygon", { class: "band", points: [...points(curve.high), ...points(curve.low).reverse()].join(" ") }));
    svg.append(make("path", { class: "curve", d: "M" + points(curve.values).join("L") }));
    if (curve.values.length === 1) svg.append(make("circle", { class: "dot", r: 2, cx: across(curve.steps[0]), cy: down(curve.values[0]) }));
    const edge = CHART.height - CHART.bottom;
    svg.append(make("line", { class: "axis", x1: CHART.left, x2: CHART.width - CHART.right, y1: edge, y2: edge }));
    svg.append(make("text", { x: CHART.left - 4, y: CHART.top + 8, "text-anchor": "end", text: number(most) }));
    if (most > least) svg.append(make("text", { x: CHART.left - 4, y: edge, "text-anchor": "end", text: number(least) }));
    svg.append(make("text", { x: CHART.left, y: CHART.height - 4, text: number(first) }));
    svg.append(make("text", { x: CHART.width - CHART.right, y: CHART.height - 4, "text-anchor": "end", text: number(last) }));
    const cursor = make("line", { class: "cursor", x1: -9, x2: -9, y1: CHART.top, y2: edge });
    svg.append(cursor);
    const value = make("span", { class: "note" });
    const stepAt = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * CHART.width;
      return first + ((x - CHART.left) / plot) * (last - first);
    };
    let place = curve.steps.length - 1;
    svg.addEventListener("pointermove", (event) => show(stepAt(event)));
    svg.addEventListener("focus", () => show(curve.steps[place]));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      place = Math.min(Math.max(place + move, 0), curve.steps.length - 1);
      show(curve.steps[place]);
      event.preventDefault();
    });
    grid.append(make("figure", { class: "chart" }, make("figcaption", { text: curve.title }), svg, value));
    charts.push({ curve, cursor, value });
  }
  section.append(make("p", { class: "note", text: "All share one axis of steps: point at one, or focus it and press the arrow keys." }), grid);
  show(last);
}

/* ---- mined negatives ---- */

function openBeside(anchor, frame, words) {
  const dialog = document.getElementById("beside") || document.body.appendChild(make("dialog", { id: "beside" }));
  const stored = (id) => Math.max(videoOf(id).width, 64);
  const side = (title, id) => make("figure", {}, picture(id, stored(id)), make("figcaption", { text: `${title}: ${frameText(id)}` }));
  dialog.replaceChildren(
    make("div", { class: "pair" }, side("Anchor", anchor), side("Negative", frame)),
    make("p", { text: words }),
    make("button", { text: "Close", click: () => dialog.close() }),
  );
  dialog.showModal();
}

function drawNegatives() {
  const section = document.getElementById("negatives");
  const { anchors, moments, mined } = DATA.negatives;
  const blocks = make("div", {});
  const title = make("p", { "aria-live": "polite" });
  const slider = make("input", { type: "range", min: 0, max: moments.length - 1, value: moments.length - 1, "aria-label": "Moment of the run" });

  const card = (anchor, [frame, similarity, weight, marks], inVideo) => {
    const video = videoOf(frame);
    const apart = frame - anchor;
    const where = inVideo ? `${apart > 0 ? "+" : "−"}${Math.abs(apart)} frames${seconds(video, Math.abs(apart))}` : `${video.name} #${frame - video.first}, group ${video.group}`;
    const known = similarity === null ? "similarity unknown" : `similarity ${similarity.toFixed(3)}`;
    const part = weight === null ? "" : `, weight ${weight.toFixed(3)}`;
    const words = `${where}; ${known}${part}${marks.length ? "; " + marks.join("; ") : ""}`;
    return make(
      "button",
      { class: marks.length ? "negative near" : "negative", title: words, click: () => openBeside(anchor, frame, words) },
      picture(frame, 64),
      make("span", { text: where }),
      make("span", { text: (similarity === null ? "?" : similarity.toFixed(2)) + (weight === null ? "" : ` · ${weight.toFixed(2)}`) }),
      marks.length ? make("span", { class: "mark", text: "near-duplicate" }) : null,
    );
  };

  const show = () => {
    const at = Number(slider.value);
    const { step, counted, window: span } = moments[at];
    title.textContent = `After step ${step}: intra-video negatives ${counted ? "count in the loss" : "do not count yet"}; window ${span[0].toFixed(2)} to ${span[1].toFixed(2)} of the video.`;
    blocks.replaceChildren(
      ...anchors.map((anchor, place) => {
        const found = mined[at][place];
        const row = (name, list, inVideo) =>
          list.length ? make("div", {}, make("h4", { text: `${list.length} ${name}` }), make("div", { class: "row" }, ...list.map((one) => card(anchor, one, inVideo)))) : null;
        const near = found.positive_similarity === null ? "" : `, similarity ${found.positive_similarity.toFixed(2)}`;
        const positive = found.positive === anchor ? "the same frame, with other augmentations" : `${found.positive - anchor} frames${near}`;
        return make(
          "article",
          {},
          make("h3", { text: frameText(anchor) }),
          make("p", { class: "note", text: found.written < 0 ? "Not embedded yet: nothing is mined." : `Its row of the bank was written in step ${found.written}.` }),
          make(
            "div",
            { class: "row" },
            make("figure", { class: "anchor" }, picture(anchor, 128), make("figcaption", { text: "anchor" })),
            make("figure", { class: "anchor" }, picture(found.positive, 128), make("figcaption", { text: `positive: ${positive}` })),
          ),
          row("intra-video negatives", found.intra, true),
          row("members of n̂ (similarity · weight)", found.cross, false),
        );
      }),
    );
    drawStrips(at);
  };
  slider.addEventListener("input", show);
  const move = (by) => () => {
    slider.value = Number(slider.value) + by;
    show();
  };
  section.append(
    make("p", {
      class: "note",
      text:
        `The same ${anchors.length} anchors, of different groups, at ${moments.length} moments: what would be mined for each, its row of the bank being the query.` +
        " Red: near-duplicates. Open one to see it beside its anchor.",
    }),
    make("div", { class: "controls" }, make("button", { text: "◀", "aria-label": "Earlier", click: move(-1) }), slider, make("button", { text: "▶", "aria-label": "Later", click: move(1) })),
    title,
    blocks,
  );
  show();
}

function drawStrips(now) {
  const section = document.getElementById("strips");
  const { anchors, moments, mined } = DATA.negatives;
  section.querySelectorAll("figure, .note").forEach((old) => old.remove());
  section.append(make("p", { class: "note", text: "A line a moment, the first one on top: the window (grey), intra-video negatives (dots), the anchor (line), the moment shown above (framed)." }));
  const line = 10;
  anchors.forEach((anchor, place) => {
    const video = videoOf(anchor);
    const own = anchor - video.first;
    const across = (frame) => 4 + (592 * frame) / Math.max(video.frames - 1, 1);
    const svg = make("svg", { viewBox: `0 0 600 ${moments.length * line + 8}`, role: "img", "aria-label": `Negatives of ${frameText(anchor)}` });
    moments.forEach(({ step, window: span }, at) => {
      const top = 4 + at * line;
      for (const side of [-1, 1]) {
        const ends = span.map((share) => Math.min(Math.max(own + side * share * video.frames, 0), video.frames - 1)).sort((a, b) => a - b);
        svg.append(make("rect", { class: "window", x: across(ends[0]), y: top + 1, width: Math.max(across(ends[1]) - across(ends[0]), 0), height: line - 2 }));
      }
      for (const [frame, similarity, , marks] of mined[at][place].intra) {
        const dot = make("circle", { class: marks.length ? "dot near" : "dot", cx: across(frame - video.first), cy: top + line / 2, r: 2.5 });
        dot.append(make("title", { text: `step ${step}: frame ${frame - video.first}, similarity ${similarity}` }));
        svg.append(dot);
      }
      if (at === now) svg.append(make("rect", { class: "now", x: 1, y: top, width: 598, height: line }));
    });
    svg.append(make("line", { class: "cursor", x1: across(own), x2: across(own), y1: 2, y2: moments.length * line + 6 }));
    section.append(make("figure", {}, make("figcaption", { text: frameText(anchor) }), svg));
  });
}

/* ---- map of the bank ---- */

/* Colours as far apart as the golden angle puts them. */
const hue = (number) => `hsl(${(number * 137.508) % 360} 65% 52%)`;
const ramp = (share) => `hsl(${260 - 210 * share} 75% ${35 + 25 * share}%)`;

function drawMap() {
  const section = document.getElementById("map");
  const { frames, x, y, age, of } = DATA.map;
  const names = {
    group: frames.map((frame) => videoOf(frame).group),
    label: frames.map((frame) => labelOf(frame) || "no label"),
    video: frames.map((frame) => videoOf(frame).name),
  };
  const amounts = {
    time: frames.map((frame) => (frame - videoOf(frame).first) / Math.max(videoOf(frame).frames - 1, 1)),
    age: age.map((steps) => steps / Math.max(...age, 1)),
  };
  const size = 640;
  const canvas = make("canvas", { width: size, height: size, tabindex: 0, role: "img", "aria-label": "Map of the bank; arrow keys go from dot to dot" });
  const legend = make("p", { class: "note" });
  const shown = make("div", { class: "shown", "aria-live": "polite" }, make("p", { class: "note", text: "Point at a dot to see its frame." }));
  const at = (place) => [10 + (size - 20) * x[place], 10 + (size - 20) * (1 - y[place])];
  let by = "group";
  let chosen = -1;

  const draw = () => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    const codes = names[by] && new Map([...new Set(names[by])].map((name, number) => [name, number]));
    frames.forEach((_, place) => {
      context.fillStyle = codes ? hue(codes.get(names[by][place])) : ramp(amounts[by][place]);
      context.beginPath();
      context.arc(...at(place), 3, 0, 7);
      context.fill();
    });
    if (chosen >= 0) {
      context.strokeStyle = getComputedStyle(document.body).color;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(...at(chosen), 7, 0, 7);
      context.stroke();
    }
    legend.replaceChildren();
    if (codes && codes.size <= 24) {
      for (const [name, code] of codes) legend.append(make("span", { style: `color:${hue(code)}`, text: "● " }), `${name}  `);
    } else if (codes) legend.textContent = `${codes.size} colours, one for each`;
    else legend.append(make("span", { style: `color:${ramp(0)}`, text: "● " }), by === "time" ? "start of the video  " : "written just now  ", make("span", { style: `color:${ramp(1)}`, text: "● " }), by === "time" ? "its end" : `written ${Math.max(...age)} steps ago`);
  };
  const choose = (place) => {
    if (place === chosen) return;
    chosen = place;
    draw();
    const frame = frames[place];
    shown.replaceChildren(
      picture(frame, 128),
      make("p", { text: `${frameText(frame)}; written ${age[place]} steps ago` }),
    );
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [px, py] = [((event.clientX - box.left) / box.width) * size, ((event.clientY - box.top) / box.height) * size];
    let best = -1;
    let least = 15 ** 2;
    frames.forEach((_, place) => {
      const [dx, dy] = at(place);
      const distance = (dx - px) ** 2 + (dy - py) ** 2;
      if (distance < least) [best, least] = [place, distance];
    });
    if (best >= 0) choose(best);
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!move) return;
    choose((chosen + move + frames.length) % frames.length);
    event.preventDefault();
  });
  const colours = [["group", "group"], ["label", "label"], ["video", "video"], ["time", "time in the video"], ["age", "age of the row"]];
  section.append(
    make("p", { class: "note", text: `${frames.length.toLocaleString("en")} of ${of.toLocaleString("en")} rows shown, drawn evenly over the videos, in two dimensions by t-SNE.` }),
    make("div", { class: "controls" }, choice("Coloured by", colours, (value) => ((by = value), draw()))),
    make("div", { class: "map" }, canvas, shown),
    legend,
  );
  draw();
}

/* ---- */

drawCurves();
if (DATA.negatives) drawNegatives();
else if (document.getElementById("negatives")) for (const name of ["negatives", "strips"]) document.getElementById(name).append(make("p", { class: "note", text: "Nothing has been mined yet." }));
if (DATA.map) drawMap();
else if (document.getElementById("map")) document.getElementById("map").append(make("p", { class: "note", text: "Too few rows are written, or all are alike." }));
addCopyButtons();
