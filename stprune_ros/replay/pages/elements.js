'use strict';
// What the scripts of all pages make their pictures and lists of; it comes before each of them.
const element = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  found.append(...children);
  return found;
}

function draw(tag, attributes) {
  const found = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  return found;
}

// The pattern that style.css fills bars of the truth with.
function addStripes() {
  const stripes = draw('pattern', {id: 'stripes', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)'});
  stripes.append(draw('line', {class: 'stripe', x1: 0, x2: 0, y1: 0, y2: 6}));
  const holder = draw('svg', {width: 0, height: 0, style: 'position:absolute', 'aria-hidden': 'true'});
  holder.append(stripes);
  document.body.append(holder);
}
