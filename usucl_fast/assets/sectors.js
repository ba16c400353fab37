/* The page of sectors: every video before and after, and a choice of which are shown. */

function card(video) {
  const place = ["first", "middle", "last"];
  const frame = ([number, src], at) => {
    const words = video.stored.length === 3 ? `${place[at]}, ${number}` : String(number);
    const image = make("img", { src, alt: `frame ${number} of ${video.name}` });
    return make("figure", {}, image, make("figcaption", { text: words }));
  };
  const alt = `${video.name}: before with the outline of what is kept, and as stored`;
  const size = `${video.frames} frames of ${video.width} × ${video.height} pixels`;
  return make(
    "section",
    { class: "video" },
    make("h2", { text: video.name }),
    video.pair
      ? make("img", { src: video.pair, alt, width: 324, height: 120 })
      : make("p", { class: "note", text: `Packed before there were pages: for before and after, see ${DATA.sheets}` }),
    make("p", {}, make("span", { class: video.how === DATA.marked ? "mark" : null, text: video.how }), `; ${size}`),
    video.warning ? make("p", { class: "mark", text: `Warning: ${video.warning}` }) : null,
    make("div", { class: "row" }, ...video.stored.map(frame)),
  );
}

const cards = DATA.videos.map((video) => ({ video, element: card(video) }));
const wanted = { name: "", how: "", warning: "" };
const count = make("span", { role: "status" });

function show(name, value) {
  wanted[name] = value;
  let shown = 0;
  for (const { video, element } of cards) {
    const fits =
      video.name.toLowerCase().includes(wanted.name.toLowerCase()) &&
      (!wanted.how || video.how === wanted.how) &&
      (!wanted.warning || (wanted.warning === "some") === (video.warning !== ""));
    element.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${cards.length} shown`;
}

const found = [...new Set(DATA.videos.map((video) => video.how))].sort();
const name = make("input", { type: "search", input: (event) => show("name", event.target.value) });
document.getElementById("videos").append(
  make(
    "div",
    { class: "controls" },
    make("label", {}, "Name ", name),
    choice("Found by", [["", "all"], ...found.map((how) => [how, how])], (value) => show("how", value)),
    choice("Warnings", [["", "all"], ["some", "with"], ["none", "without"]], (value) => show("warning", value)),
    count,
  ),
  make("div", { class: "videos" }, ...cards.map(({ element }) => element)),
);
show("name", "");
