// Every drive is one entry of a JSON object, with one list for each value; two menus and the slider say what is shown.
const data = JSON.parse(document.getElementById('data').textContent);
const words = {NONE: 'no restriction', UNKNOWN: 'no valid hint'};
const text = (name) => words[name] ?? name.toLowerCase().replaceAll('_', ' ');
const WIDTH = 1000, CAR = [4.4, 1.9], AHEAD = 1.4, PERSON = [0.9, 0.9];
const FREE = 8, HORIZON = 5; // m/s on a free road; s beyond which nobody is met

const shown = () => data.drives[`${element('world').value} ${element('source').value}`];
const current = () => Number(element('slider').value);

function lane(name, label, height, ...shapes) {
  const svg = draw('svg', {viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label});
  svg.append(...shapes);
  const strip = make('div', {class: 'strip', style: `height:${height}px`}, svg, make('div', {class: 'cursor'}));
  element('lanes').append(make('div', {class: 'lane', 'data-name': name}, make('span', {title: label}, name), strip));
}

function line(values, highest) {
  const x = (i) => WIDTH * (i + 0.5) / values.length, y = (value) => 34 - 32 * Math.min(1, value / highest);
  return draw('polyline', {class: 'line', points: values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(' ')});
}

function bars(values, name, kind, top, height) {
  const found = [], x = (i) => WIDTH * i / values.length;
  for (let i = 0, first = null; i <= values.length; i++) {
    if (i < values.length && values[i] === name) first ??= i;
    else if (first !== null) {
      found.push(draw('rect', {class: kind, x: x(first).toFixed(1), y: top, width: (x(i) - x(first)).toFixed(1), height}));
      first = null;
    }
  }
  return found;
}

function lanes(drive) {
  element('lanes').replaceChildren(make('h3', {}, 'Over time: the bar is the hint that holds, the striped one the truth'));
  for (const name of ['STOP', 'SLOW_DOWN', 'NONE', 'UNKNOWN']) {
    const told = bars(drive.hint, name, 'was', 0, 8), truth = name === 'UNKNOWN' ? [] : bars(drive.truth, name, 'true', 10, 8);
    lane(text(name), `${text(name)}: the hint in ${drive.hint.filter((one) => one === name).length} of ${drive.t.length} steps`, 18, ...told, ...truth);
  }
  lane(`speed, to ${FREE} m/s`, 'speed of the ego vehicle', 36, line(drive.speed, FREE));
  lane('planner\'s limit', 'highest speed that the planner allows', 36, line(drive.limit, FREE));
  lane(`time to collision, to ${HORIZON} s`, 'time to collision', 36, line(drive.ttc, HORIZON));
}

// North is up in an SVG only with y turned round.
function box([length, width], x, y, yaw, kind) {
  return draw('rect', {class: kind, x: -length / 2, y: -width / 2, width: length, height: width, rx: 0.3,
    transform: `translate(${x} ${-y}) rotate(${-yaw * 180 / Math.PI})`});
}

function map(drive, step) {
  const [x, y, yaw] = drive.ego[step], {block, half, stop_line: stop, near} = data.roads, shapes = [];
  element('map').setAttribute('viewBox', `${x - near} ${-y - 0.75 * near} ${2 * near} ${1.5 * near}`);
  const first = (at) => Math.round(at / block) - 1;
  for (let i = 0; i < 3; i++) {
    const road = (first(y) + i) * block, across = (first(x) + i) * block;
    shapes.push(draw('rect', {class: 'road', x: x - 2 * near, y: -road - half, width: 4 * near, height: 2 * half}));
    shapes.push(draw('rect', {class: 'road', x: across - half, y: -y - 2 * near, width: 2 * half, height: 4 * near}));
  }
  for (let i = 0; i < 9; i++) {
    const mx = (first(x) + i % 3) * block, my = (first(y) + Math.floor(i / 3)) * block;
    for (const sign of [1, -1]) {
      const red = (axis) => drive.red[step].includes(axis) ? 'off' : 'go';
      shapes.push(draw('rect', {class: red(0), x: mx - sign * stop - 0.3, y: -my + (sign > 0 ? 0 : -half), width: 0.6, height: half}));
      shapes.push(draw('rect', {class: red(1), y: -my + sign * stop - 0.3, x: mx + (sign > 0 ? 0 : -half), height: 0.6, width: half}));
    }
  }
  shapes.push(draw('polyline', {class: 'line', points: drive.ego.map(([ex, ey]) => `${ex},${-ey}`).join(' ')}));
  for (const [kind, ax, ay, turn] of drive.actors[step]) shapes.push(box(kind ? CAR : PERSON, ax, ay, turn, kind ? 'k6' : 'k1'));
  shapes.push(box(CAR, x + AHEAD * Math.cos(yaw), y + AHEAD * Math.sin(yaw), yaw, 'was'));
  element('map').replaceChildren(...shapes);
}

function show(step) {
  const drive = shown();
  step = Math.max(0, Math.min(drive.t.length - 1, step));
  element('slider').value = step;
  element('slider').setAttribute('aria-valuetext', `${drive.t[step].toFixed(2)} s, ${text(drive.hint[step])}`);
  element('said').textContent = `${text(drive.hint[step])} at ${drive.t[step].toFixed(2)} s`;
  element('truth').textContent = drive.truth[step] === 'UNKNOWN' ? 'not known' : text(drive.truth[step]);
  element('speed').textContent = `${drive.speed[step].toFixed(1)} m/s`;
  element('limit').textContent = `${drive.limit[step].toFixed(1)} m/s`;
  element('ttc').textContent = drive.ttc[step] < HORIZON ? `${drive.ttc[step].toFixed(1)} s` : `over ${HORIZON} s`;
  map(drive, step);
  for (const cursor of document.querySelectorAll('.cursor')) cursor.style.left = `${100 * (step + 0.5) / drive.t.length}%`;
}

function choose() {
  const drive = shown();
  element('slider').max = drive.t.length - 1;
  lanes(drive);
  element('measures').replaceChildren(...Object.entries(drive.measures).flatMap(([name, value]) =>
    [make('dt', {}, data.labels[name]), make('dd', {}, value === null ? 'n/a' : String(value))]));
  const events = drive.events.map((event) => {
    const button = make('button', {type: 'button'}, `${event.t.toFixed(2)} s: ${event.kind}`);
    button.addEventListener('click', () => show(drive.t.findLastIndex((t) => t <= event.t + 1e-6)));
    return make('li', {}, button);
  });
  element('events').replaceChildren(...(events.length ? events : [make('li', {class: 'soft'}, 'nothing')]));
  show(current());
}

function begin() {
  addStripes();
  for (const menu of ['world', 'source']) element(menu).addEventListener('change', choose);
  element('slider').addEventListener('input', () => show(current()));
  element('previous').addEventListener('click', () => show(current() - 1));
  element('next').addEventListener('click', () => show(current() + 1));
  element('lanes').addEventListener('click', (event) => {
    const strip = event.target.closest('.strip');
    if (!strip) return;
    const box = strip.getBoundingClientRect();
    show(Math.floor(shown().t.length * (event.clientX - box.left) / box.width));
  });
  choose();
}

begin();
