"use strict";
// Small ways of making elements, and frames as windows on an episode's one picture.

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const known = (value) => value !== null && value !== undefined;
const fixed = (value, digits) => (known(value) ? value.toFixed(digits) : "–");
const centimetres = (value) => (known(value) ? (100 * value).toFixed(1) : "–");
const short = (value) => (known(value) ? String(Number(value.toPrecision(4))) : "–");

// Where frame `number` begins in the sheet, as background-position takes it.
function place(episode, number) {
  const share = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0);
  const column = number % episode.columns, row = Math.floor(number / episode.columns);
  return `${share(column, episode.columns)}% ${share(row, episode.rows)}%`;
}

// Shows frame `number`, or what differs between it and frame `other`, or nothing (null).
function show(element, episode, number, label, other = null) {
  const some = known(number);
  element.classList.toggle("none", !some);
  element.classList.toggle("difference", some && other !== null);
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  element.title = label;
  element.dataset.frame = some ? number : "";
  element.style.aspectRatio = `${episode.size[1]} / ${episode.size[0]}`;
  const shown = !some ? [] : other === null ? [number] : [number, other];
  element.style.backgroundImage = shown.map(() => `url("${episode.url}")`).join(", ");
  element.style.backgroundPosition = shown.map((each) => place(episode, each)).join(", ");
  element.style.backgroundSize = `${100 * episode.columns}% ${100 * episode.rows}%`;
}

// The sheet as an address that only this page knows.
function address(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
}
