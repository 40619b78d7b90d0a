// The server sends what is new; times are seconds of its clock. What comes late must not pass for new, and clocks drift:
// so the server is asked for its time again and again, and a hint ends by its clock, heard or not.
const LOST_S = 2, OLD_S = 3, AGES_S = 120, RETRY_MS = 1000, ASK_MS = 1000, LATE_MS = 10000;
const words = (name) => name === 'NONE' ? 'no restriction' : name.toLowerCase().replaceAll('_', ' ');
const shown = (value, unit, digits = 0) => value === null || value === undefined ? 'n/a' : value.toFixed(digits) + unit;
const percent = (share) => shown((share ?? null) && 100 * share, ' %');
const local = () => performance.now() / 1000;
const opened = local();
let state = {}, source = null, heard = null, fresh = true;
let apart = Infinity, asking = null, timed = false;  // apart: seconds that our clock is ahead of the server's
let loading = false, pictured = null, ages = [], wasOld = null;  // pictured: what is said of the picture that is seen

const now = () => local() - apart;
const isLost = () => !timed || heard === null || local() - heard > LOST_S;
const since = (at) => `${Math.max(0, now() - at).toFixed(1)} s`;
const isOld = (section) => isLost() || !section || now() - section.at > OLD_S;

function put(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function open() {
  if (source || document.hidden) return;
  source = new EventSource('events');
  fresh = true;
  source.onmessage = (event) => receive(JSON.parse(event.data));
  source.onerror = () => {
    close();
    setTimeout(open, RETRY_MS);
  };
}

function close() {
  source?.close();
  source = null;
}

// What the server answers was its time when it was asked, or later: ages are too high by what the way took, never too low.
async function ask() {
  if (!source || asking === source) return;
  const asked = asking = source, began = local();
  try {
    const answer = await fetch('now', {signal: AbortSignal.timeout(LATE_MS)}), time = Number(await answer.text());
    if (asked === source && answer.ok) [apart, timed] = [began - time, true];
  } catch { /* the stream says whether the link is lost */ }
  if (asking === asked) asking = null;
}

function receive(message) {
  if (fresh) {
    [state, apart, timed, fresh, pictured] = [{}, Infinity, false, false, pictured && {...pictured, number: 0}];
    ask();
  }
  apart = Math.min(apart, local() - message.now);  // a message is of the past: where ours stood still, as asleep, it is set
  heard = local();
  Object.assign(state, message);
  if (message.answer) showAnswer(message.answer);
  if (message.cost) showCost(message.cost);
  if (message.text) put('text', message.text.text + (message.text.cut ? ' ...' : ''));
  if (message.picture) showPicture();
  if (message.log) showLog(message.log.lines);
  if (message.states) showStates(message.states.states);
  if (message.cost || message.states) showCameras();
  tick();
}

// What depends on the time.
function tick() {
  const hint = state.hint && !isLost() && now() < state.hint.until ? state.hint : null;
  element('hint').className = hint ? 'hint' : 'hint off';
  put('said', hint ? `${words(hint.said)}, ${percent(hint.confidence)}` : 'no hint');
  put('since', hint ? '' : (state.last_hint ?? null) === null ? ' yet' : ` since ${since(state.last_hint)}`);
  put('verdict', hint ? `${words(hint.status)}, valid for another ${(hint.until - now()).toFixed(1)} s; ${words(hint.source)}` : '');
  put('stamp', hint ? hint.stamp : 'n/a');
  showShares(hint);
  const spoke = Math.max(state.answer?.at ?? 0, state.states?.at ?? 0);
  const trouble = isLost() ? 'No connection to stprune view: nothing here is current.'
    : state.node?.problem || (spoke && now() - spoke > OLD_S ? 'Nothing is heard of the node any more.' : state.fault || lifecycle());
  element('trouble').hidden = !trouble || (!timed && local() - opened < LOST_S);
  put('trouble', trouble);
  const answer = state.answer;
  put('status', answer ? `${words(answer.status)}, ${since(answer.at)} ago` : 'n/a');
  const problem = state.picture?.problem, oldPicture = !hint || !pictured || problem || now() - pictured.at > OLD_S;
  element('shown').className = oldPicture ? 'old' : '';
  put('pictured', [problem, pictured && `${oldPicture ? 'Not current: the' : 'The'} picture is of ${pictured.stamp} and came ${since(pictured.at)} ago.`].filter(Boolean).join('. '));
  const text = state.text, oldText = isLost() || !text || now() > text.until;
  element('text').className = oldText ? 'text soft' : 'text';
  put('written', text ? `${oldText ? 'Not current: written' : 'Written'} ${since(text.at)} ago.` : '');
  const cost = state.cost, states = state.states;
  put('rig-age', !cost && !states ? 'Nothing was heard of them yet.' : `${cost ? `Last answer ${since(cost.at)} ago` : 'No answer yet'}, diagnostics ${states ? `${since(states.at)} ago` : 'not yet'}`);
  put('states-age', states ? `${isOld(states) ? 'Not current: heard' : 'Heard'} ${since(states.at)} ago` : 'Nothing was heard of them yet.');
  const old = `${isOld(cost)} ${isOld(states)}`;
  if (old !== wasOld) {
    wasOld = old;
    showCameras();
    showStates(states?.states ?? {});
  }
}

// What the node says of itself where it does not work.
function lifecycle() {
  const said = state.states?.states.lifecycle;
  return !said || said.level === 'ok' ? '' : `The node says: ${said.message}.`;
}

function showShares(hint) {
  const key = JSON.stringify(hint?.shares ?? null), holder = element('shares');
  if (holder.dataset.key === key) return;
  holder.dataset.key = key;
  holder.replaceChildren(...(hint?.shares ?? []).flatMap(([name, share]) => {
    const fill = make('i', {class: name === hint.said ? 'chosen' : '', style: `width:${Math.min(100, 100 * (share ?? 0))}%`});
    return [make('span', {}, words(name)), make('div', {class: 'track', 'aria-hidden': 'true'}, fill), make('span', {}, percent(share))];
  }));
}

function showAnswer(answer) {
  put('model', [answer.model, answer.prompt, answer.method, `keeping ${shown(answer.keep_ratio, '', 3)} of the visual tokens`].filter(Boolean).join(' \u00b7 '));
  element('untrained').hidden = answer.trained || !answer.model;
  element('notes').replaceChildren(...answer.notes.map((note) => make('li', {}, note)));
}

function showCost(cost) {
  put('latency', shown(cost.latency_s, ' s', 2));
  put('stages', cost.stages.map(([name, ms]) => `${name} ${shown(ms, '')}`).join(', ') || 'n/a');
  put('tokens', `${cost.kept} of ${cost.full}`);
  if (cost.latency_s !== null && ages.at(-1)?.[0] !== cost.at) ages.push([cost.at, cost.latency_s]);
  const from = cost.at - AGES_S;
  ages = ages.filter(([at]) => at >= from && at <= cost.at);
  if (!ages.length) return;
  const highest = Math.max(...ages.map(([, age]) => age)), place = ([at, age]) =>
    `${(1000 * (at - from) / AGES_S).toFixed(1)},${(57 - 54 * Math.max(0, age) / (highest || 1)).toFixed(1)}`;
  element('ages').firstElementChild.setAttribute('points', ages.map(place).join(' '));
  element('ages').setAttribute('aria-label', `${ages.length} answers, at most ${shown(highest, ' s', 2)} old when they went out`);
  put('highest', `up to ${shown(highest, ' s', 2)}`);
}

function showCameras() {
  const states = state.states?.states ?? {}, cost = state.cost?.cameras ?? [];
  const names = [...new Set([...cost.map((one) => one.name), ...Object.keys(states).filter((name) => name.startsWith('camera ')).map((name) => name.slice(7))])];
  const cell = (text, bad) => make('td', {class: bad ? 'bad' : ''}, text);
  element('cameras').querySelector('tbody').replaceChildren(...names.map((name) => {
    const seen = cost.find((one) => one.name === name), told = states[`camera ${name}`];
    const rate = (key) => isOld(state.states) ? 'n/a' : (told?.values.find(([found]) => found === key)?.[1] ?? 'n/a');
    const row = make('tr', {'data-camera': name}, make('th', {scope: 'row'}, name));
    row.append(
      isOld(state.cost) || !seen ? cell('unknown', true) : cell(words(seen.state), seen.state !== 'OK'),
      cell(isOld(state.cost) || !seen ? 'n/a' : `${seen.kept} of ${seen.full}`, false),
      isOld(state.states) || !told ? cell('unknown', true) : cell(told.message || told.level, told.level !== 'ok'),
      cell(rate('received_hz'), false), cell(rate('used_hz'), false));
    return row;
  }));
}

function showStates(states) {
  const holder = element('states'), old = isOld(state.states);
  const before = new Map([...holder.children].map((node) => [node.dataset.name, node]));
  const nodes = Object.entries(states).map(([name, one]) => {
    const node = before.get(name) ?? make('details', {'data-name': name}, make('summary'), make('dl', {class: 'facts'}));
    const [summary, values] = node.children, bad = old || one.level !== 'ok';
    const level = old ? `unknown, was ${one.level}` : one.level;
    const text = `${name}: ${level}${one.message && one.message.toLowerCase() !== one.level ? `, ${one.message}` : ''}`;
    if (summary.textContent !== text) summary.textContent = text;
    summary.className = bad ? 'bad' : '';
    values.replaceChildren(...one.values.flatMap(([key, value]) => [make('dt', {}, key), make('dd', {}, value)]));
    return node;
  });
  // Left in place where they are the same, so that the keyboard's focus stays where it is.
  if (nodes.length !== before.size || nodes.some((node, i) => node !== holder.children[i])) holder.replaceChildren(...nodes);
}

function showLog(lines) {
  element('log').replaceChildren(...[...lines].reverse().map((line) => make('li', {class: ['info', 'debug'].includes(line.level) ? '' : 'warned'},
    make('code', {}, line.stamp), ` ${line.level}: ${line.text}`)));
}

// One picture at a time: where they load slowly some are left out. What cannot be shown leaves the last one, which gets old.
function showPicture() {
  const picture = state.picture, number = picture?.number;
  if (loading || !number || number === pictured?.number) return;
  loading = true;
  const next = make('img', {id: 'picture', alt: `the ring of cameras with its kept tokens at ${picture.stamp}`});
  next.onload = () => {
    [loading, pictured] = [false, picture];
    element('picture').replaceWith(next);
    element('shown').hidden = false;
    element('unpictured').hidden = true;
    tick();
    showPicture();
  };
  next.onerror = () => { loading = false; };
  next.src = `picture.jpg?${number}`;
}

// A page that nobody sees asks for nothing: browsers hold few connections, and the node draws only for those who look.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    close();
    heard = null;
    tick();
  } else open();
});
setInterval(tick, 100);
setInterval(ask, ASK_MS);
open();
