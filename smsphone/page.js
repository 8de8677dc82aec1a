"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const rows = new Map(); // from numbers to what the server says of each exchange
const shown = new Map(); // from numbers to what is on the page for it
const unfolded = new Set(); // the steps that are open, by exchange, request and step
const kept = sessionStorage;
let state = { settings: {} };
let person = ""; // whose conversation is shown
const heard = new Set(); // what a screen reader has been told
let waitedFor = 0; // an exchange that this page has sent, and is to be shown

// Whatever came over a wire becomes text: nothing on this page is made from markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}

const span = (kind, ...text) => element("span", { class: kind }, ...text);
function button(text, does, attributes = {}) {
  const made = element("button", { type: "button", class: "quiet", ...attributes }, text);
  made.addEventListener("click", does);
  return made;
}

async function ask(path, wanted = {}) {
  const headers = { "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(wanted) };
  const answer = await fetch(path, request).catch(() => {
    throw new Error("The phone’s own server does not answer: is it still running?");
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function trouble(text = "") {
  find("#trouble").textContent = text;
  find("#trouble").hidden = !text;
}

function toast(text, ...more) {
  find("#toast").replaceChildren(text, ...more);
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => find("#toast").replaceChildren(), more.length ? 20000 : 4000);
}

const clock = (at, second) => new Date(at * 1000).toLocaleTimeString([],
  { hour: "2-digit", minute: "2-digit", second, hour12: false });
const duration = (s) => (s < 10 ? `${Math.ceil(s * 1000).toLocaleString("en")} ms` : `${s.toFixed(1)} s`);
const count = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

// What a row says at a glance.

const main = (row) => row.hops.filter((hop) => hop.kind !== "status" || hop === row.hops[0]);
const path = (url) => url.replace(/^\w+:\/\/[^/]*/, "") || "/";
const kindOf = (hop) => (hop.said ? `status ${hop.said}` : hop.kind);

function trimmed(text, length = 200) {
  const [line] = text.trim().split("\n");
  return line.length > length ? `${line.slice(0, length)}…` : line;
}

function texts(row) {
  return row.messages.map(({ body, media, to }) => [trimmed(body), media.length ? `[${count(media.length, "picture")}]` : "",
    to === row.from ? "" : `(to ${to})`].filter(Boolean).join(" ")).join("  ·  ");
}

function got(row) {
  const made = texts(row) ? [span("texts", element("span", { dir: "auto" }, texts(row)))] : [];
  const [first] = row.hops;
  if (row.trouble) {
    // Where a what if is to be refused, that is no trouble.
    made.push(span(row.finding[0] === "good" ? "soft" : "wrong", element("b", {}, `Error ${row.errors[0].code}. `), row.trouble));
  } else if (!row.done) made.push(span("soft", "waiting for the answer …"));
  else if (first && first.kind !== "message") made.push(span("soft", first.kind === "status" ? "read for its status only" : "no text message"));
  else if (!made.length) made.push(span("soft", "no reply: the answer has no message"));
  return made;
}

function statusOf(hop) {
  if (!hop?.done) return span("status waits", "…");
  return span(hop.status && hop.status < 400 ? "status" : "status no", hop.status || "none");
}

function bar(hop, label = true) {
  const fill = element("i");
  const seconds = hop?.done ? hop.seconds : 0;
  fill.style.inlineSize = `${Math.min(100, Math.max(1.5, seconds / 0.15))}%`;
  const time = hop?.done ? duration(seconds) : "";
  return element("span", { class: hop?.done ? "took" : "took waits", title: `${time} of the 15 s that Twilio waits` },
    label ? span("ms", time) : "", span("bar", fill));
}

function summarise(row, node) {
  const last = main(row).at(-1);
  const label = row.again ? `${row.how}, like exchange ${row.again}` : row.source && `from ${row.source}`;
  find("summary", node).replaceChildren(
    element("time", {}, clock(row.at, "2-digit")), statusOf(last),
    span("what", span("asked", element("bdi", { dir: "auto" }, row.title), label ? span("tag", label) : ""),
      row.finding[1] ? span(`finding ${row.finding[0]}`, row.finding[1]) : "", ...got(row)), bar(last));
  find(".more", node).replaceChildren(...(row.hops.length > 1 ? row.hops : []).map((hop) => element("li", {},
    span("kind", kindOf(hop)), statusOf(hop), span("where", path(hop.url), hop.method === "GET" ? " by GET" : ""), bar(hop))));
}

// An exchange, step by step.

const MEANINGS = {
  Body: "the text", From: "who wrote it", To: "your number", NumMedia: "how many pictures",
  MessageSid: "the same in each try", AccountSid: "whose number it is", NumSegments: "what it is charged as",
  MediaUrl0: "where the picture is", ProfileName: "the name that the person chose", WaId: "the WhatsApp number",
  ExternalUserId: "the person, also without a number", MessageStatus: "what became of your message",
  ErrorCode: "why it failed", ErrorUrl: "what failed",
};
const PLACE = /^(From|To)(City|State|Zip|Country)$/;
const group = (label) => ({ tabindex: 0, role: "group", "aria-label": label });
const code = (label, ...text) => element("pre", group(label), ...text);
const stage = (text) => element("span", { title: "examples/lesson/README.md" }, ` Lesson, ${text}.`);

function folded(key, line, attributes, ...content) {
  const node = element("details", { ...attributes, open: unfolded.has(key) }, element("summary", {}, ...line), ...content);
  node.addEventListener("toggle", () => (node.open ? unfolded.add(key) : unfolded.delete(key)));
  return node;
}

function step(key, number, title, [kind, ...line], about, ...content) {
  return folded(`${key}/${number}`,
    [span("n", number), element("b", {}, title), element("span", { class: `line ${kind}`, dir: "auto" }, ...line)],
    { class: "step" }, element("div", { class: "content" }, element("p", { class: "about" }, ...about), ...content));
}

const table = (fields) => element("table", {}, ...fields.map(([name, value]) => element("tr", {},
  element("th", { scope: "row" }, name), element("td", { class: value ? "" : "soft", dir: "auto" }, value || "blank"),
  element("td", { class: "meaning" }, MEANINGS[name] ?? ""))));
const byMeaning = ([a], [b]) => rank(a) - rank(b);
const rank = (name) => (name in MEANINGS ? Object.keys(MEANINGS).indexOf(name) : 99);

function askedStep(key, hop, who) {
  const fields = hop.fields.filter(([name]) => !PLACE.test(name)).sort(byMeaning);
  const places = hop.fields.filter(([name]) => PLACE.test(name));
  const told = Object.fromEntries(hop.fields);
  const brief = ["Body", "MessageStatus", "From"].filter((name) => told[name]).map((name) => `${name} ${trimmed(told[name], 60)}`);
  const form = hop.method === "POST" ? "the message is the form in its body" : "the message is the query of its URL";
  return step(key, 1, `${who} asked`, ["", [`${hop.method} ${hop.url.split("?")[0]}`, ...brief].join(" · ")],
    [`One request by HTTP to your URL: ${form}.`, stage("stages 1 and 2"),
      hop.unread ? ` Your program did not read ${count(hop.unread, "byte")} of it.` : ""],
    table(fields),
    places.length ? folded(`${key}/places`, [`Places: ${count(places.length, "parameter")}`], { class: "fold" }, table(places)) : "",
    folded(`${key}/wire`, [`All ${hop.sent.toLocaleString("en")} bytes of the request`], { class: "fold" }, code("The request’s bytes", hop.wire)));
}

function signedStep(key, hop, who) {
  const [[url] = [], ...pairs] = hop.signed;
  const against = hop.checked[0] === "wrong" ? "Your program checks the signature against this" : "This is signed";
  const text = hop.signed.length ? [element("p", {}, `${against}, with nothing between the lines:`),
    code("The string that was signed", element("div", { class: "p-url" }, url),
      ...pairs.map(([name, value]) => element("div", {}, span("p-name", name), span("p-value", value))))] : [];
  const hash = /HMAC_SHA256/i.test(hop.settings) ? "SHA256" : "SHA1";
  return step(key, 2, hop.signature ? `${who} signed` : "Nobody signed", hop.checked,
    ["Anybody can find your URL. Twilio signs with the auth token, which only Twilio and you know.", stage("stages 4 and 5")],
    ...text,
    element("p", {}, hop.signature ? `X-Twilio-Signature = base64(HMAC-${hash}(auth token, that string)):`
      : "There is no X-Twilio-Signature."),
    hop.signature ? code("The signature", hop.signature) : "",
    hop.settings ? element("p", { class: "soft" }, `Its settings: ${hop.settings}`) : "");
}

// TwiML in colours: tags, attributes, and the text between them as it is.
function coloured(xml) {
  return xml.split(/(<[^>]*>)/).map((part) => (part.startsWith("<")
    ? span("x-tag", ...part.split(/("[^"]*")/).map((piece) => (piece.startsWith('"') ? span("x-value", piece) : piece)))
    : part));
}

function answeredStep(key, hop, error) {
  if (!hop.answer) {
    return step(key, 3, "You answered", hop.done ? ["wrong", "nothing"] : ["", "not yet"],
      [hop.done ? "No answer came." : "Twilio waits for 15 seconds.", stage("stage 7")], error?.detail ?? "");
  }
  const [line] = hop.answer.split("\n");
  const kind = hop.status && hop.status < 400 ? "" : "wrong";
  const brief = [line.replace(/^HTTP\/\S+ /, ""), hop.type, count(hop.received, "byte"), duration(hop.seconds)];
  const body = hop.answer.split("\n\n").slice(1).join("\n\n");
  return step(key, 3, "You answered", [kind, brief.filter(Boolean).join(" · ")],
    ["TwiML is XML that says what to do. What a person wrote has to be escaped in it.", stage("stage 3")],
    hop.twiml ? code("The TwiML, indented", ...coloured(hop.twiml)) : body ? code("The answer’s body", body) : "",
    element("p", {}, `It took ${duration(hop.seconds)} of the 15 s that Twilio waits. `, bar(hop, false)),
    folded(`${key}/answer`, ["All bytes of the answer"], { class: "fold" }, code("The answer’s bytes", hop.answer)));
}

function gotStep(key, hop, next, row) {
  const about = ["Twilio does what the answer says, once.", stage("stages 6 and 7")];
  if (next) return step(key, 4, "Twilio went on", ["", `${next.kind}: ${next.method} ${next.url}`], about);
  if (hop.kind === "status") return step(key, 4, "Nobody got anything", ["soft", "Twilio reads the status only"], about);
  const [error] = row.errors;
  const line = error ? ["wrong", `${texts(row) || "nothing."} Error ${error.code}: ${error.meaning}`]
    : texts(row) ? ["", texts(row)] : ["soft", row.done ? "nothing, and that is no error" : "nothing yet"];
  return step(key, 4, "The person got", line, about,
    ...row.messages.map(({ body, media, to }) => element("div", { class: "message" }, span("soft", `To ${to}`),
      element("div", { class: "bubble", dir: "auto" }, body, ...media.map(picture)))),
    ...row.errors.map(({ code: number, meaning, detail, cure }) => element("p", { class: "error" },
      element("b", {}, `Error ${number}: ${meaning}.`), detail ? ` Here: ${detail}.` : "", ` What helps: ${cure}.`)));
}

function logged({ level, logger, text, trace }) {
  return element("div", { class: `log ${level}` }, span("soft", `${level} ${logger} `), text, trace ? element("pre", {}, trace) : "");
}

function saidStep(key, hop) {
  if (!hop.watched) {
    return step(key, 5, "Your program said", ["soft", "not seen from here"],
      ["Serve it with smsreply serve: then this page stands beside it, and shows its log and its traceback."]);
  }
  const { failed, lines } = hop;
  const line = failed ? ["wrong", failed] : lines.length ? ["", lines.length > 1 ? `${lines.length} lines: ` : "",
    trimmed(lines.at(-1).text)] : ["soft", "nothing"];
  return step(key, 5, "Your program said", line,
    ["What it logged meanwhile, and the traceback if it failed. (What it prints is on the terminal only.)", stage("stage 8")],
    ...lines.map(logged));
}

function steps(row) {
  const who = ["", "Twilio", "the terminal"].includes(row.source) ? "Twilio" : "A program";
  return row.hops.map((hop, i) => {
    const key = `${row.number}/${i}`;
    const next = row.hops.slice(i + 1).find(({ kind }) => kind !== "status");
    const list = [askedStep(key, hop, who), signedStep(key, hop, who), answeredStep(key, hop, row.errors[0]),
      gotStep(key, hop, hop.kind === "status" ? null : next, row), saidStep(key, hop)];
    return element("section", { class: "hop" }, row.hops.length > 1
      ? element("h3", {}, `${i + 1} of ${row.hops.length}: ${kindOf(hop)}`) : "", ...list);
  });
}

// What is done with an exchange.

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`Copied ${what}.`);
  } catch {
    toast("The browser does not let this page copy. Here it is: ", code(what, text));
  }
}

function save({ copies, number }) {
  const url = URL.createObjectURL(new Blob([copies.saved], { type: "application/jsonl" }));
  element("a", { href: url, download: `message-${number}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  toast(`Saved. smsreply text --replay message-${number}.jsonl sends it again.`);
}

async function again(number, what, more = {}) {
  const answer = await ask("again", { number, what, ...more }).catch((error) => toast(error.message));
  if (answer) arrive(answer.number);
}

const WHAT_IF = [["body", "another text"], ["broken", "a broken signature"], ["unsigned", "no signature"],
  ["url", "a signature of another URL"], ["twice", "the same once more"], ["slowly", "its bytes slowly"]];

function doing(number) {
  const whole = (does) => ask("exchange", { number }).then(does, (error) => toast(error.message));
  return element("div", { class: "doing", role: "group", "aria-label": `What to do with exchange ${number}` },
    button("Deliver again", () => again(number, ""), { class: "" }), button("Change…", () => whole(edit)),
    button("Copy as curl", () => whole(({ copies }) => copy(copies.curl, "a curl command"))),
    button("Copy as a test", () => whole(({ copies }) => copy(copies.test, "a test in Python"))),
    button("Save for replay", () => whole(save)));
}

const whatIf = (number) => element("div", { class: "doing what-if", role: "group", "aria-label": "What if it came with" },
  element("b", {}, "What if it came with"), ...WHAT_IF.map(([what, text]) => button(text, () => again(number, what))));

const reveal = (row) => row.parentNode.scrollIntoView({ block: "nearest" });
async function fill(node, number) {
  const row = await ask("exchange", { number }).catch(() => null);
  if (!row || Number(node.dataset.version) >= row.version) return;
  const first = !node.dataset.version;
  node.dataset.version = row.version;
  const place = [...node.querySelectorAll("summary")].indexOf(document.activeElement);
  find(".inside", node).replaceChildren(...steps(row));
  if (place > 0) node.querySelectorAll("summary")[place]?.focus(); // the step that had it
  if (first && node.open) reveal(node);
}

function rowNode(number) {
  const row = element("details", { class: "row", id: `exchange-${number}` }, element("summary"),
    element("div", { class: "opened" }, doing(number), element("div", { class: "inside" }), whatIf(number)));
  row.addEventListener("toggle", () => row.open && fill(row, number));
  return element("article", { "aria-label": `Exchange ${number}` }, row, element("ul", { class: "more" }));
}

function show(number, focus = true) {
  const row = find(`#exchange-${number}`);
  if (!row) return;
  view("exchanges");
  for (const other of document.querySelectorAll(".row[open]")) other.open = other === row;
  row.open = true;
  row.parentNode.hidden = false;
  requestAnimationFrame(() => reveal(row)); // when it has a place on the page
  if (focus) find("summary", row).focus({ preventScroll: true });
}

// Open what this page itself has sent, as soon as it is there.
function arrive(number = waitedFor) {
  waitedFor = number;
  if (!rows.has(number)) return;
  waitedFor = 0;
  if (innerWidth > 720 || rows.get(number).again) show(number, false);
  scrollDown();
}

// The phone.

function picture({ url, here }) {
  const link = /^https?:/i.test(url) ? element("a", { href: url, target: "_blank", rel: "noreferrer noopener" }, url)
    : element("span", {}, url);
  const image = (src) => {
    const made = element("img", { src, alt: `Picture: ${url}` });
    made.addEventListener("load", scrollDown);
    made.addEventListener("error", () => made.replaceWith(element("div", {}, "This picture cannot be loaded: ", link)));
    return made;
  };
  // What is on this machine is shown; another host would learn that somebody looks.
  if (/^http:\/\/(localhost|127\.0\.0\.1)(:\d+)?\//.test(here)) return image(here);
  const box = element("div", { class: "picture" }, "Picture: ", link);
  if (/^https:/i.test(url)) box.append(" ", button("Show it", () => box.replaceWith(image(url))));
  return box;
}

function bubble(side, text, media, ...meta) {
  return element("div", { class: `message ${side}` },
    element("div", { class: "bubble", dir: "auto" }, text, ...media.map(picture)), element("span", { class: "meta" }, ...meta));
}

function talk(row) {
  const open = (text) => button(text, () => show(row.number), { class: "link" });
  const note = (kind, ...text) => element("p", { class: `note ${kind}` }, ...text);
  const [failed, [error]] = [row.hops.map((hop) => hop.failed).find(Boolean), row.errors];
  const made = row.again && row.how !== "changed" ? [note("", `${row.how}: `, open(`exchange ${row.number}`))]
    : [bubble("mine", row.body, row.media, clock(row.at), " · ", open(`exchange ${row.number}`))];
  for (const { body, media, to, from } of row.messages) {
    made.push(bubble("", body, media, to === row.from && from === row.to ? "" : `${from} to ${to}`));
  }
  if (row.finding[1]) made.push(note(row.finding[0], row.finding[1]));
  else if (error) made.push(note("bad", open(failed ? `Your program failed: ${failed}` : `Error ${error.code}: ${error.meaning}`)));
  else if (row.done && !row.messages.length) made.push(note("", "No reply: the answer has no message."));
  if (!row.done) made.push(element("div", { class: "message" }, element("div", { class: "bubble typing", role: "img", "aria-label": "Waiting for the answer" })));
  return made;
}

function scrollDown() {
  const conversation = find("#conversation");
  conversation.scrollTop = conversation.scrollHeight;
}

const spoken = (row) => row.from && row.hops[0]?.kind !== "status";

function drawTalk(row) {
  const conversation = find("#conversation");
  const node = find(`#talk-${row.number}`) ?? element("div", { class: "talk", id: `talk-${row.number}` });
  const text = JSON.stringify({ ...row, hops: 0, version: 0 });
  if (!spoken(row) || row.from !== person || node.dataset.drawn === text) return;
  const low = conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 80;
  node.dataset.drawn = text;
  node.replaceChildren(...talk(row));
  if (!node.parentNode) conversation.append(node); // where it was sent it stays
  if (low || row.number === waitedFor) scrollDown();
}

function drawPeople() {
  const people = new Set([...rows.values()].filter(spoken).map((row) => row.from));
  people.add(person);
  find("#people").hidden = people.size < 2;
  const drawn = [...people].join("\n") + person;
  if (find("#people").dataset.drawn === drawn) return;
  find("#people").dataset.drawn = drawn;
  find("#people").replaceChildren(...[...people].map((one) => button(one, () => turnTo(one), { "aria-pressed": `${one === person}` })));
  find("#people [aria-pressed=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
}

function turnTo(one) {
  person = one;
  trouble();
  kept.setItem("person", one);
  [find("#number").value, find("#channel").value] = JSON.parse(kept.getItem(`person ${one}`))
    ?? [one.replace(/^\w+:/, ""), /^(whatsapp|rcs)?/.exec(one)[0]];
  find("#conversation").replaceChildren();
  for (const row of rows.values()) drawTalk(row);
  drawPeople();
  scrollDown();
}

async function choosePerson() {
  const [number, channel] = [find("#number").value.trim(), find("#channel").value];
  if (!number) return turnTo(person);
  const found = await ask("sender", { number, channel }).catch((error) => trouble(error.message));
  if (!found) return null;
  kept.setItem(`person ${found.from}`, JSON.stringify([number, channel]));
  return turnTo(found.from);
}

// What comes from the server.

function hear(row) {
  // A screen reader hears each message once, when all of it is there.
  if (!row.done || heard.has(row.number) || !spoken(row)) return;
  heard.add(row.number);
  const said = row.trouble ? `Error ${row.errors[0].code}: ${row.trouble}` : texts(row) || "No reply.";
  find("#news").textContent = `${row.how || row.from} ${row.again ? "" : row.body}: ${said} ${row.finding[1]}`;
}

function draw(row) {
  let node = shown.get(row.number);
  if (!node) {
    node = rowNode(row.number);
    shown.set(row.number, node);
    find("#list").prepend(node); // rows come in their order, the newest last
  }
  summarise(row, node);
  node.hidden = !wanted(row);
  if (find(".row", node).open) fill(find(".row", node), row.number);
  drawTalk(row);
}

function wanted(row) {
  const text = find("#filter").value.trim().toLowerCase();
  if (find("#only-errors").checked && !row.errors.length) return false;
  return !text || JSON.stringify([row.body, row.from, row.source, row.how, row.messages, row.errors, row.hops,
    row.number]).toLowerCase().includes(text);
}

function countAll() {
  for (const one of document.querySelectorAll(".count")) one.textContent = rows.size || "";
  find("#welcome").hidden = rows.size > 0;
  find("#none").hidden = !rows.size || [...rows.values()].some(wanted);
  find("#clear").disabled = !rows.size;
}

function receive({ reset, rows: fresh, first, dropped, server, state: now }) {
  take(now);
  if (reset) {
    rows.clear();
    shown.clear();
    find("#list").replaceChildren();
    find("#conversation").replaceChildren();
  }
  for (const number of [...rows.keys()].filter((n) => n < first)) {
    rows.delete(number);
    shown.get(number).remove();
    shown.delete(number);
    find(`#talk-${number}`)?.remove();
  }
  for (const row of fresh) {
    if (reset && row.done) heard.add(row.number);
    rows.set(row.number, row);
    draw(row);
    hear(row);
  }
  arrive();
  find("#dropped").hidden = !dropped;
  find("#dropped").textContent = `${count(dropped, "older exchange")} dropped: ${rows.size} are kept.`;
  if (server) {
    find("#server").hidden = !server.length;
    find("#server-count").textContent = `${count(server.length, "line")} that belong to no exchange`;
    find("#server-lines").replaceChildren(...server.map(logged));
  }
  drawPeople();
  countAll();
  if (reset) scrollDown();
}

let [events, since] = [null, ""];
// A browser has six connections to a server: a page that nobody sees gives its own back.
function listen() {
  events?.close();
  if (document.hidden) return;
  events = new EventSource(`events?since=${since}`);
  events.onmessage = (event) => {
    since = event.lastEventId;
    receive(JSON.parse(event.data));
  };
  events.onopen = () => { find("#offline").hidden = true; };
  events.onerror = () => {
    find("#offline").hidden = false;
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}
document.addEventListener("visibilitychange", listen);

// What the user does.

function view(name) {
  document.body.dataset.view = name;
  for (const one of document.querySelectorAll("#views button")) one.setAttribute("aria-pressed", one.value === name);
  if (name === "phone") scrollDown();
}

for (const one of document.querySelectorAll("#views button")) one.addEventListener("click", () => view(one.value));

find("#compose").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [body, media] = [find("#body"), find("#media")];
  const sent = [body.value, media.value];
  body.focus();
  if (!sent.join("").trim()) return;
  trouble();
  body.value = "";
  try {
    arrive((await ask("text", { body: sent[0], media: sent[1], from: person })).number);
    media.value = "";
    attach(false);
  } catch (error) {
    trouble(error.message);
    body.value ||= sent[0];
  }
  draft();
});

find("#body").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("#compose").requestSubmit();
});
const draft = () => kept.setItem("draft", JSON.stringify([find("#body").value, find("#media").value]));

function attach(open) {
  find("#picture").hidden = !open;
  find("#attach").setAttribute("aria-expanded", open);
}

find("#attach").addEventListener("click", () => {
  attach(find("#picture").hidden);
  find(find("#picture").hidden ? "#body" : "#media").focus();
});
for (const name of ["#body", "#media"]) find(name).addEventListener("input", draft);
for (const name of ["#number", "#channel"]) find(name).addEventListener("change", choosePerson);
for (const [name, when] of [["#filter", "input"], ["#only-errors", "change"]]) {
  find(name).addEventListener(when, () => {
    for (const row of rows.values()) shown.get(row.number).hidden = !wanted(row);
    countAll();
  });
}

find("#clear").addEventListener("click", async () => {
  await ask("clear");
  const undo = button("Undo", () => ask("undo").then(() => toast("They are back.")));
  toast("Cleared: exchanges and cookies. ", undo);
  undo.focus(); // Clear is disabled now, and cannot keep it
});

// Change: a parameter without a name is left out.

let edited;

function addRow(name = "", value = "") {
  const row = element("div", { class: "param" },
    element("input", { "aria-label": "Name", value: name, spellcheck: "false" }),
    element("textarea", { "aria-label": `Value of ${name || "it"}`, rows: 1, spellcheck: "false", dir: "auto" }, value),
    button("×", () => row.remove(), { "aria-label": `Remove ${name || "this parameter"}` }));
  find("#rows").append(row);
  return row;
}

function edit(row) {
  edited = row.number;
  find("#rows").replaceChildren();
  for (const pair of Object.entries(row.params).sort(byMeaning)) addRow(...pair);
  const { method, signature } = find("#edit form").elements;
  method.value = row.hops[0]?.method ?? "POST";
  signature.value = "";
  find("#edit").showModal();
  find("#rows [aria-label='Value of Body']")?.focus();
}

find("#add-row").addEventListener("click", () => find("input", addRow()).focus());
find("#edit form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { method, signature } = event.target.elements;
  const pairs = [...document.querySelectorAll(".param")].map((row) => [find("input", row).value, find("textarea", row).value]);
  find("#edit").close();
  const params = Object.fromEntries(pairs.filter(([name]) => name));
  again(edited, "edited", { params, method: method.value, signature: signature.value });
});

// Settings.  The token goes to the server, and never comes back.

function take(now) {
  state = now;
  find("#to").textContent = state.settings.to;
  find("#about").textContent = `${state.settings.method} ${state.url}`;
  find("#signing").textContent = state.token ? "signed" : "no token: unsigned";
  find("#signing").className = state.token ? "signed" : "";
  find("#token-state").textContent = state.token
    ? `There is one, from ${state.token}; blank keeps it.` : "There is none, so nothing is signed.";
}

find("#open-settings").addEventListener("click", () => {
  const fields = find("#settings form").elements;
  for (const [name, value] of Object.entries(state.settings)) fields[name].value = value;
  fields.token.value = "";
  fields.unsigned.checked = state.unsigned;
  find("#settings [role=alert]").textContent = "";
  find("#settings").showModal();
});

find("#settings form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const changed = Object.fromEntries(new FormData(event.target));
  try {
    take(await ask("settings", { ...changed, unsigned: event.target.elements.unsigned.checked }));
    find("#settings").close();
  } catch (error) {
    find("#settings [role=alert]").textContent = error.message;
  }
});

for (const one of document.querySelectorAll("[value=cancel]")) one.addEventListener("click", () => one.closest("dialog").close());

async function start() {
  [find("#body").value, find("#media").value] = JSON.parse(kept.getItem("draft")) ?? ["", ""];
  attach(Boolean(find("#media").value));
  take(await ask("state"));
  turnTo(kept.getItem("person") ?? state.number);
  listen();
  find("#body").focus();
}

start().catch((error) => trouble(error.message));
