// All ticks lie in one JSON object, one list for each value; the slider says which one is shown.
const data = JSON.parse(document.getElementById('data').textContent);
const count = data.seconds.length;
const text = (name) => name === 'NONE' ? 'no restriction' : name.toLowerCase().replaceAll('_', ' ');
const shown = (value, unit, digits = 0) => value === null ? 'n/a' : value.toFixed(digits) + unit;
const percent = (share) => Math.round(100 * (share ?? 0)) + ' %';
const withPicture = Object.keys(data.pictures).map(Number);
const WIDTH = 1000;

// Each tick lasts until the next one, the last as long as the mean of the others.
const step = count > 1 ? (data.seconds[count - 1] - data.seconds[0]) / (count - 1) || 1 : 1;
const span = count ? data.seconds[count - 1] - data.seconds[0] + step : 1;
const start = (tick) => tick < count ? WIDTH * (data.seconds[tick] - data.seconds[0]) / span : WIDTH;
const middle = (tick) => (start(tick) + start(tick + 1)) / 2;

function lane(group, name, label, height, ...shapes) {
  const svg = draw('svg', {viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label});
  svg.append(...shapes);
  const strip = make('div', {class: 'strip', style: `height:${height}px`}, svg);
  const row = make('div', {class: 'lane', 'data-lane': group, 'data-name': name}, make('span', {title: label}, name), strip);
  element('lanes').append(row);
}

function line(values, highest, top, bottom) {
  const y = (value) => bottom - (bottom - top) * Math.min(1, (value ?? 0) / (highest || 1));
  return draw('polyline', {class: 'line', points: values.map((value, i) => `${middle(i).toFixed(1)},${y(value).toFixed(1)}`).join(' ')});
}

function bars(isOn, kind, top, height) {
  const found = [];
  for (let i = 0, first = null; i <= count; i++) {
    if (i < count && isOn(i)) first ??= i;
    else if (first !== null) {
      found.push(draw('rect', {class: kind, x: start(first).toFixed(1), y: top, width: (start(i) - start(first)).toFixed(1), height}));
      first = null;
    }
  }
  return found;
}

const title = (words) => element('lanes').append(make('h3', {}, words));

function hints() {
  title('Hint and probabilities');
  const names = [...new Set([...Object.keys(data.shares), ...data.said, ...data.truth.filter(Boolean)])];
  for (const name of names) {
    const said = data.said.filter((one) => one === name).length, truth = data.truth.filter((one) => one === name).length;
    const shapes = [...bars((i) => data.said[i] === name, 'was', 0, 8), ...bars((i) => data.truth[i] === name, 'true', 30, 8)];
    if (data.shares[name]) shapes.push(line(data.shares[name], 1, 10, 28));
    lane('hint', text(name), `${text(name)}: the hint in ${said} ticks, the truth in ${truth}`, 38, ...shapes);
  }
}

function stages() {
  const names = Object.keys(data.stages), sums = new Array(count).fill(0), shapes = [], key = make('ul', {class: 'key'});
  const highest = Math.max(1, ...data.seconds.map((_, i) => names.reduce((sum, name) => sum + (data.stages[name][i] ?? 0), 0)));
  const y = (value) => (90 - 88 * value / highest).toFixed(1);
  names.forEach((name, number) => {
    const below = [...sums];
    data.stages[name].forEach((value, i) => { sums[i] += value ?? 0; });
    const points = [...sums.map((sum, i) => `${middle(i).toFixed(1)},${y(sum)}`),
      ...below.map((sum, i) => `${middle(i).toFixed(1)},${y(sum)}`).reverse()];
    shapes.push(draw('polygon', {class: `k${number % 7}`, points: points.join(' '), 'data-stage': name}));
    const swatch = draw('svg', {viewBox: '0 0 1 1', 'aria-hidden': 'true'});
    swatch.append(draw('rect', {class: `k${number % 7}`, width: 1, height: 1}));
    key.append(make('li', {}, swatch, name));
  });
  title('Time in stages, one upon the other');
  element('lanes').append(key);
  lane('stages', `up to ${highest.toFixed(0)} ms`, `time of each tick, at most ${highest.toFixed(0)} ms`, 92, ...shapes);
}

function cameras() {
  title('Tokens kept in each view');
  const most = Math.max(1, ...Object.values(data.kept).flat());
  for (const [camera, kept] of Object.entries(data.kept))
    lane('tokens', camera, `${camera}: ${Math.min(...kept)} to ${Math.max(...kept)} tokens kept`, 22, line(kept, most, 2, 21));
  title('Cameras: where there is a bar, the state is not OK; of ticks that failed nothing is known');
  for (const [camera, states] of Object.entries(data.state)) {
    const others = [...new Set(states)].filter((state) => state !== 'OK').map(text);
    lane('state', camera, `${camera}: ${others.length ? others.join(', ') + ' at times' : 'always ok'}`, 12,
      ...bars((i) => !['OK', 'UNKNOWN'].includes(states[i]), 'off', 0, 12));
  }
  title('Keep ratio');
  const highest = Math.max(...data.ratio);
  lane('ratio', `up to ${highest}`, `keep ratio, ${Math.min(...data.ratio)} to ${highest}`, 22, line(data.ratio, highest, 3, 21));
}

function show(tick) {
  const slider = element('slider'), said = data.said[tick], sure = data.confidence[tick];
  slider.value = tick;
  const time = `${data.seconds[tick].toFixed(2)} s`;
  slider.setAttribute('aria-valuetext', `tick ${tick + 1} of ${count}, ${time}, ${text(said)}`);
  element('said').textContent = text(said) + (sure === null ? '' : `, ${percent(sure)}`) + ` at ${time}`;
  const truth = data.truth[tick], verdict = element('verdict');
  verdict.textContent = !truth ? '' : truth === said ? '\u2713 so is the truth' : `\u2717 truth: ${text(truth)}`;
  verdict.className = `small ${truth === said ? 'good' : 'bad'}`;
  element('shares').replaceChildren(...Object.keys(data.shares).flatMap((name) => {
    const share = data.shares[name][tick];
    const fill = make('i', {class: name === said ? 'chosen' : '', style: `width:${100 * (share ?? 0)}%`});
    return [make('span', {}, text(name)), make('div', {class: 'track', 'aria-hidden': 'true'}, fill), make('span', {}, percent(share))];
  }));
  element('text').textContent = data.texts[data.text[tick]];
  const trueText = data.texts[data.true_text[tick]];
  element('truth').textContent = trueText && `truth: ${trueText}`;
  element('stamp').textContent = data.stamp[tick];
  element('status').textContent = data.status[tick];
  element('speed').textContent = shown(data.speed[tick], ' m/s', 1);
  element('ratio').textContent = shown(data.ratio[tick], '', 3);
  element('hint_ms').textContent = shown(data.hint_ms[tick], ' ms');
  element('stages').textContent = Object.keys(data.stages).map((name) => `${name} ${shown(data.stages[name][tick], '')}`).join(', ');
  element('tokens').textContent = Object.keys(data.kept).map((camera) => {
    const state = data.state[camera][tick], tokens = `${camera} ${data.kept[camera][tick]}/${data.full[camera][tick]}`;
    return state === 'OK' ? tokens : `${tokens} (${text(state)})`;
  }).join(', ');
  element('notes').replaceChildren(...data.notes[tick].map((note) => make('li', {}, data.texts[note])));
  element('command').textContent = data.command.replaceAll(data.stamp_word, data.stamp[tick]);
  const picture = data.pictures[tick];
  element('shown').hidden = !picture;
  element('unpictured').hidden = Boolean(picture);
  if (picture) {
    element('picture').src = picture;
    element('picture').alt = `the ring of cameras with its kept tokens at ${time}: ${text(said)}`;
  } else {
    const nearest = withPicture.reduce((best, one) => Math.abs(one - tick) < Math.abs(best - tick) ? one : best);
    element('nearest').textContent = `Show the nearest one, at ${data.seconds[nearest].toFixed(2)} s`;
    element('nearest').onclick = () => show(nearest);
  }
  for (const cursor of document.querySelectorAll('.cursor')) cursor.style.left = `${middle(tick) / WIDTH * 100}%`;
}

function begin() {
  addStripes();
  hints();
  stages();
  cameras();
  for (const strip of document.querySelectorAll('.strip')) strip.append(make('div', {class: 'cursor'}));
  const current = () => Number(element('slider').value);
  const go = (tick) => show(Math.max(0, Math.min(count - 1, tick)));
  element('slider').addEventListener('input', () => go(current()));
  element('previous').addEventListener('click', () => go(current() - 1));
  element('next').addEventListener('click', () => go(current() + 1));
  element('lanes').addEventListener('click', (event) => {
    const strip = event.target.closest('.strip');
    if (!strip) return;
    const box = strip.getBoundingClientRect(), x = WIDTH * (event.clientX - box.left) / box.width;
    go(data.seconds.findLastIndex((_, i) => start(i) <= x));
  });
  for (const button of document.querySelectorAll('[data-tick]')) {
    const tick = Number(button.dataset.tick);
    button.querySelector('.time').textContent = `${data.seconds[tick].toFixed(2)} s`;
    button.addEventListener('click', () => { go(tick); element('slider').focus(); });
  }
  document.addEventListener('keydown', (event) => {
    const other = event.target.closest('input, pre, .scroll, .events') || event.altKey || event.ctrlKey || event.metaKey;
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (other || !by) return;
    event.preventDefault();
    go(current() + by);
  });
  show(withPicture[0] ?? 0);
}

if (count) begin();
