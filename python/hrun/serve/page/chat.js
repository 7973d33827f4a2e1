// Conversations are trees: an edited or regenerated message is a sibling of the one before, and the path to `leaf` is shown.
const $ = (id) => document.getElementById(id);
const STORE = "hrun.conversations", SETTINGS = "hrun.settings", SHOWN = "hrun.shown";
const FIELDS = { temperature: "Temperature", top_p: "Top p", top_k: "Top k", min_p: "Min p", max_tokens: "Longest answer", seed: "Seed" };

const read = (key, fallback) => { try { return JSON.parse(localStorage.getItem(key)) ?? fallback; } catch { return fallback; } };
const write = (key, value) => { try { localStorage.setItem(key, JSON.stringify(value)); } catch { notice("This browser has no room left; export and delete conversations."); } };

let conversations = read(STORE, []);
let settings = read(SETTINGS, {});
let current = null, running = null, props = {};

const save = () => write(STORE, conversations.filter((c) => c.leaf));
const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
const children = (parent) => Object.values(current.nodes).filter((n) => n.parent === parent);

function path() {
  const out = [];
  for (let id = current.leaf; id; id = current.nodes[id].parent) out.unshift(current.nodes[id]);
  return out;
}

function add(parent, role, content) {
  const node = { id: newId(), parent, role, content };
  current.nodes[node.id] = node;
  current.leaf = node.id;
  return node;
}

function deepest(node) {
  for (let below; (below = children(node.id)).length; ) node = below[below.length - 1];
  return node.id;
}

function notice(text) {
  $("notice").textContent = text || "";
  $("notice").hidden = !text;
}

const headers = () => ({ "Content-Type": "application/json", ...(settings.key ? { Authorization: `Bearer ${settings.key}` } : {}) });

// ---- what is shown

function show() {
  const list = $("messages");
  list.replaceChildren();
  const shown = path();
  if (!shown.length) list.append(el("li", { class: "empty" }, props.model ? `Ask ${props.model} something.` : "Ask something."));
  for (const node of shown) list.append(view(node));
  showList();
  toEnd(true);
}

function view(node) {
  const item = el("li", { class: node.role, "data-id": node.id });
  fill(item, node);
  return item;
}

function fill(item, node) {
  const body = el("div", { class: "body" });
  const parts = [];
  if (node.reasoning) {
    const open = item.querySelector("details")?.open ?? false;
    parts.push(el("details", { open }, el("summary", {}, node.content || node.done ? "Thoughts" : "Thinking …"), el("div", {}, node.reasoning)));
  }
  if (node.role === "user") body.append(node.content);
  else body.append(...markdown(node.content || ""));
  for (const call of node.calls || []) body.append(el("code", { class: "call" }, `${call.name}(${call.arguments})`));
  if (node.error) body.append(el("p", { class: "error" }, node.error));
  if (node === running?.node && !node.error) body.classList.add("waiting");
  item.replaceChildren(...parts, body, meta(node));
}

function meta(node) {
  const bar = el("div", { class: "meta" });
  if (node === running?.node) { bar.append(el("span", { class: "stats" }, running.status || "")); return bar; }
  const twins = children(node.parent), at = twins.indexOf(node);
  const button = (text, action, label) => el("button", { class: "quiet", type: "button", onclick: action, "aria-label": label }, text);
  const turn = (step) => () => { if (!running) { current.leaf = deepest(twins[at + step]); save(); show(); } };
  if (twins.length > 1) {
    if (at > 0) bar.append(button("‹", turn(-1), "Version before"));
    bar.append(el("span", {}, `${at + 1}/${twins.length}`));
    if (at < twins.length - 1) bar.append(button("›", turn(1), "Version after"));
  }
  bar.append(copyButton(() => node.content || ""));
  if (node.role === "user") bar.append(button("Edit", () => edit(node)));
  else bar.append(button("Again", () => { if (!running) answer(node.parent); }, "Another answer"));
  if (node.stats) bar.append(el("span", { class: "stats" }, node.stats));
  return bar;
}

function edit(node) {
  if (running) return;
  const item = document.querySelector(`[data-id="${node.id}"]`);
  const area = el("textarea", { "aria-label": "Edit the message" });
  area.value = node.content;
  const send = () => { const text = area.value.trim(); if (text) answer(add(node.parent, "user", text).id); };
  area.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { e.stopPropagation(); show(); }
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
  });
  item.replaceChildren(el("div", { class: "edit" }, area, el("div", { class: "bar end" },
    el("button", { class: "quiet", type: "button", onclick: show }, "Cancel"), el("button", { type: "button", onclick: send }, "Send"))));
  area.focus();
}

function showList() {
  const title = (c) => c.title || "New conversation";
  $("list").replaceChildren(...conversations.map((c) => el("li", { "aria-current": c === current && "true" },
    el("button", { class: "name", type: "button", onclick: () => choose(c) }, title(c)),
    el("button", { class: "drop", type: "button", "aria-label": `Delete ${title(c)}`, onclick: () => drop(c) }, "×"))));
}

function toEnd(always) {
  const box = $("scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 140) box.scrollTop = box.scrollHeight;
}

// ---- conversations

function choose(conversation) {
  if (running) return;
  conversations = conversations.filter((c) => c.leaf || c === conversation);
  current = conversation;
  try { sessionStorage.setItem(SHOWN, current.id); } catch { /* a reload shows a new one */ }
  $("side").classList.remove("open");
  show();
  $("input").focus();
}

function begin() {
  if (running) return;
  conversations = conversations.filter((c) => c.leaf);
  const made = { id: newId(), title: "", nodes: {}, leaf: null };
  conversations.unshift(made);
  choose(made);
}

function drop(conversation) {
  if (running || (conversation.leaf && !confirm("Delete this conversation?"))) return;
  conversations = conversations.filter((c) => c !== conversation);
  save();
  if (conversation === current) conversations.length ? choose(conversations[0]) : begin();
  else showList();
}

function exported() {
  const blob = new Blob([JSON.stringify(conversations.filter((c) => c.leaf), null, 1)], { type: "application/json" });
  const link = el("a", { href: URL.createObjectURL(blob), download: "hrun-conversations.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const isNode = (n) => n && typeof n === "object" && typeof n.id === "string" && typeof n.content === "string" && ["user", "assistant"].includes(n.role);
const isTree = (c) => c && typeof c === "object" && c.nodes && c.nodes[c.leaf] && Object.entries(c.nodes).every(([id, n]) => isNode(n) && n.id === id && (n.parent === null || c.nodes[n.parent]));
const isAcyclic = (c) => Object.values(c.nodes).every((n) => { let steps = 0; for (let id = n.id; id; id = c.nodes[id].parent) if (++steps > 1e5) return false; return true; });

async function imported(file) {
  try {
    const value = JSON.parse(await file.text());
    const good = (Array.isArray(value) ? value : []).filter((c) => isTree(c) && isAcyclic(c));
    if (!good.length) throw new Error();
    conversations = [...good.map((c) => ({ id: newId(), title: String(c.title || "").slice(0, 80), nodes: c.nodes, leaf: c.leaf })), ...conversations];
    save();
    choose(conversations[0]);
  } catch { notice("This file holds no conversations."); }
}

// ---- answers

function request(parent) {
  const messages = settings.system ? [{ role: "system", content: settings.system }] : [];
  const before = [];
  for (let id = parent; id; id = current.nodes[id].parent) before.unshift(current.nodes[id]);
  for (const n of before) if (n.content) messages.push({ role: n.role, content: n.content });
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of Object.keys(FIELDS)) if (settings[name] != null) body[name] = settings[name];
  if (props.reasoning && settings.think === false) body.chat_template_kwargs = { enable_thinking: false };
  return body;
}

async function answer(parent) {
  if (running) return;
  notice("");
  const node = add(parent, "assistant", "");
  running = { node, stop: new AbortController(), status: "Waiting …", start: performance.now() };
  $("send").hidden = true;
  $("stop").hidden = false;
  save();
  show();
  let drawn = false;
  const redraw = () => {
    drawn = false;
    const item = document.querySelector(`[data-id="${node.id}"]`);
    if (item) fill(item, node);
    toEnd(false);
  };
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(request(parent)), signal: running.stop.signal });
    if (!response.ok) throw await failure(response);
    for await (const chunk of events(response.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      take(node, chunk);
      if (!drawn) { drawn = true; requestAnimationFrame(redraw); }
    }
  } catch (error) {
    if (error.name === "AbortError") node.stats = running.n ? `stopped after ${running.n} tokens` : "stopped";
    else node.error = error.message || "The connection was lost.";
  }
  node.done = true;
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  save();
  redraw();
  showList();
}

async function failure(response) {
  let message = `The server answered ${response.status}.`;
  let code = "";
  try { ({ message = message, code } = (await response.json()).error); } catch { /* no JSON */ }
  message = message.charAt(0).toUpperCase() + message.slice(1);
  if (code === "context_length_exceeded") message += ". Edit the message, or begin a new conversation.";
  if (response.status === 401) { openSettings(); $("key").focus(); message = "The server wants an API key."; }
  if (response.status === 429) message = `The server is busy; try again in ${response.headers.get("Retry-After") || "a few"} s. (${message})`;
  return new Error(message);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    for (let at; (at = held.indexOf("\n\n")) >= 0; held = held.slice(at + 2)) {
      const line = held.slice(0, at);
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function take(node, chunk) {
  const now = performance.now(), choice = chunk.choices[0];
  const delta = choice?.delta || {};
  if (delta.reasoning_content) node.reasoning = (node.reasoning || "") + delta.reasoning_content;
  if (delta.content) node.content += delta.content;
  for (const call of delta.tool_calls || []) {
    node.calls = node.calls || [];
    node.calls[call.index] = node.calls[call.index] || { name: "", arguments: "" };
    node.calls[call.index].name += call.function.name || "";
    node.calls[call.index].arguments += call.function.arguments || "";
  }
  if (running && (delta.content || delta.reasoning_content)) {
    running.first = running.first || now;
    running.n = (running.n || 0) + 1;
    running.status = `${running.n} tokens`;
  }
  if (choice?.finish_reason === "length") node.cut = true;
  const t = chunk.timings;
  if (t) {
    const rate = t.predicted_per_second ? `, ${t.predicted_per_second.toFixed(1)} tokens/s` : "";
    const cached = t.cache_n ? `, ${t.cache_n} of ${t.cache_n + t.prompt_n} prompt tokens cached` : "";
    const first = running?.first ? `, first after ${((running.first - running.start) / 1000).toFixed(2)} s` : "";
    node.stats = `${t.predicted_n} tokens${rate}${first}${cached}${node.cut ? ", cut at the limit" : ""}`;
  }
}

// ---- settings

function openSettings() {
  $("system").value = settings.system || "";
  $("key").value = settings.key || "";
  $("think").checked = settings.think !== false;
  for (const name of Object.keys(FIELDS)) $(`field-${name}`).value = settings[name] ?? "";
  if (!$("settings").open) $("settings").showModal();
}

function keepSettings() {
  settings = { system: $("system").value.trim(), key: $("key").value.trim(), think: $("think").checked };
  for (const name of Object.keys(FIELDS)) {
    const text = $(`field-${name}`).value.trim();
    if (text !== "" && Number.isFinite(Number(text))) settings[name] = Number(text);
  }
  write(SETTINGS, settings);
  start();
}

async function start() {
  try {
    const response = await fetch("/props", { headers: headers() });
    if (response.status === 401) return openSettings();
    props = await response.json();
  } catch { return notice("The server does not answer."); }
  $("model").textContent = props.model;
  $("model").title = props.description;
  document.title = `${props.model} · hrun`;
  $("think-label").hidden = !props.reasoning;
  const values = props.default_generation_settings?.params || {};
  for (const name of Object.keys(FIELDS)) if (values[name] != null) $(`field-${name}`).placeholder = values[name];
  $("field-seed").placeholder = values.seed >= 0 ? values.seed : "random";
  $("field-max_tokens").placeholder = "no limit";
  if (!props.endpoints?.chat) notice("This model has no chat template; it continues text at /v1/completions.");
  if (!path().length) show();
}

// ---- the page

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  $("input").value = "";
  grow();
  if (!current.title) current.title = text.slice(0, 60);
  answer(add(current.leaf, "user", text).id);
}

function grow() {
  const box = $("input");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

for (const [name, label] of Object.entries(FIELDS)) {
  $("sampling").append(el("label", {}, label, el("input", { id: `field-${name}`, inputmode: "decimal", autocomplete: "off" })));
}
$("form").addEventListener("submit", (e) => { e.preventDefault(); send(); });
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (e) => { if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); } });
$("stop").addEventListener("click", () => running?.stop.abort());
$("new").addEventListener("click", begin);
$("export").addEventListener("click", exported);
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (e) => { if (e.target.files[0] && !running) imported(e.target.files[0]); e.target.value = ""; });
$("open-settings").addEventListener("click", openSettings);
$("settings").addEventListener("close", keepSettings);
$("reset").addEventListener("click", () => { for (const box of $("settings").querySelectorAll("input, textarea")) box.type === "checkbox" ? (box.checked = true) : (box.value = ""); });
$("open-side").addEventListener("click", () => { $("side").classList.add("open"); $("close-side").focus(); });
$("close-side").addEventListener("click", () => { $("side").classList.remove("open"); $("open-side").focus(); });
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape" && !$("settings").open) { if (running) running.stop.abort(); $("side").classList.remove("open"); }
  if (e.key.toLowerCase() === "o" && e.ctrlKey && e.shiftKey) { e.preventDefault(); begin(); }
});
conversations = Array.isArray(conversations) ? conversations.filter((c) => isTree(c) && isAcyclic(c)) : [];
const shownBefore = () => { try { return conversations.find((c) => c.id === sessionStorage.getItem(SHOWN)); } catch { return null; } };
shownBefore() ? choose(shownBefore()) : begin();
start();
