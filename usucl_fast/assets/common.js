"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);

/* Makes an element: attributes by name, `text` as text alone, handlers as functions, then children. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "circle", "text", "g", "title", "polygon"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/* A labelled field of choices; `changed` gets the value. */
function choice(label, options, changed) {
  const select = make("select", { change: () => changed(select.value) });
  for (const [value, text] of options) select.append(make("option", { value, text }));
  return make("label", {}, label + " ", select);
}

/* A button at every text that is there to be copied. */
function addCopyButtons() {
  for (const text of document.querySelectorAll("pre.copied")) {
    const copy = () => {
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    };
    text.before(make("button", { text: "Copy", click: copy }));
  }
}
