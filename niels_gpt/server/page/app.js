// The page: a list of sessions, one conversation, and a panel for its tree or its settings.

import { call, download, follow } from "/page/api.js";
import { ask, by, el } from "/page/dom.js";
import { markdown } from "/page/markdown.js";
import { childrenOf, drawTree, newestLeaf } from "/page/tree.js";

const state = { info: null, session: null, tree: null, reply: null, panel: null, verdicts: new Map(), shaded: new Set() };

function say(text, bad = false) {
  by("status").textContent = text;
  by("status").classList.toggle("bad", bad);
}

// Run what a person asked for; an error becomes a line on the page.
function attempt(work) {
  return async (event) => {
    event?.preventDefault?.();
    try {
      await work(event);
    } catch (error) {
      if (error.name !== "AbortError") say(error.message, true);
    }
  };
}

// --- the list of sessions

async function listSessions() {
  const text = by("search").value.trim();
  const found = await call("GET", `/sessions?limit=200&search=${encodeURIComponent(text)}`);
  const rows = found.hits
    ? found.hits.map((hit) => ({ id: hit.session, name: hit.name, words: hit.snippet }))
    : found.sessions.map((each) => ({ id: each.id, name: each.name, words: each.first_words }));
  by("sessions").replaceChildren(...rows.map((row) => el("li", {}, el("button", {
    type: "button",
    "aria-current": String(row.id === state.session?.id),
    onclick: attempt(async () => { closeMenu(); await open(row.id); }),
  }, row.name, el("small", {}, row.words)))));
}

async function open(id) {
  stopFollowing();
  if (state.session?.id !== id) { state.verdicts.clear(); state.shaded.clear(); }
  [state.session, state.tree] = await Promise.all([call("GET", `/sessions/${id}`), call("GET", `/sessions/${id}/tree`)]);
  if (location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  document.title = `${state.session.name} – niels-gpt`;
  show();
  await listSessions();
  if (state.session.pending) await watch(state.session.pending.reply);
}

function startNew() {
  stopFollowing();
  Object.assign(state, { session: null, tree: null });
  state.verdicts.clear();
  history.replaceState(null, "", location.pathname);
  closeMenu();
  show();
  by("message").focus();
}

// --- the conversation

function show() {
  const { session } = state;
  by("name").textContent = session?.name ?? "New session";
  for (const id of ["rename", "show-tree", "replay", "export"]) by(id).disabled = !session;
  let messages = session?.messages ?? [];
  // While another reply to a message is made, the one before it is not shown.
  if (session?.pending) messages = messages.slice(0, messages.findIndex((each) => each.id === session.pending.user) + 1);
  by("messages").replaceChildren(...messages.map(messageElement));
  showPanel();
  by("conversation").scrollTop = by("conversation").scrollHeight;
}

function messageElement(message) {
  const body = state.shaded.has(message.id)
    ? el("div", { class: "body" }, "…")
    : message.role === "assistant" ? markdown(message.content) : el("div", { class: "body tokens" }, message.content);
  const verdict = state.verdicts.get(message.id);
  const element = el("li", { class: `message ${message.role}`, "data-message": message.id },
    el("div", { class: "who" }, message.role, message.status === "cancelled" ? " (stopped)" : ""),
    body,
    el("div", { class: "actions" }, ...actionsOf(message), verdict
      ? el("span", { class: `verdict ${verdict.verdict}`, title: verdict.why || "compared with what is stored" }, verdict.verdict.replace("_", " "))
      : null));
  if (state.shaded.has(message.id)) shade(message, body);
  return element;
}

function actionsOf(message) {
  const button = (text, work, extra = {}) => el("button", { type: "button", onclick: attempt(work), ...extra }, text);
  const actions = versions(message);
  if (message.role === "user") {
    actions.push(button("Edit", () => edit(message)), button("Retry", () => begin("retry", { message: message.id })));
  } else if (message.role === "assistant") {
    const shaded = state.shaded.has(message.id);
    if (message.reply) {
      actions.push(button("Probabilities", () => {
        if (!state.shaded.delete(message.id)) state.shaded.add(message.id);
        show();
      }, { "aria-pressed": String(shaded) }));
    }
    actions.push(button("Fork", async () => open((await fork({ at: message.id })).session)));
  }
  return actions;
}

// ‹ 2/3 › between messages in one place of the tree.
function versions(message) {
  const siblings = (childrenOf(state.tree.messages).get(message.parent) ?? []).filter((each) => each.role === message.role);
  if (siblings.length < 2 || message.role === "system") return [];
  const at = siblings.findIndex((each) => each.id === message.id);
  const step = (to, text, label) => el("button", {
    type: "button", "aria-label": label, disabled: !siblings[to], onclick: attempt(() => goTo(siblings[to])),
  }, text);
  return [step(at - 1, "‹", "Version before"), el("span", { class: "faint" }, `${at + 1}/${siblings.length}`), step(at + 1, "›", "Version after")];
}

async function goTo(message) {
  const leaf = newestLeaf(state.tree.messages, message);
  await call("POST", `/sessions/${state.session.id}/head`, { message: leaf.id });
  await open(state.session.id);
}

const fork = (values) => call("POST", `/sessions/${state.session.id}/fork`, values);

async function edit(message) {
  const content = await ask("Edit the message", "The old one stays in the tree:", message.content);
  if (content?.trim()) await begin("edit", { message: message.id, content });
}

async function send() {
  const content = by("message").value.trim();
  if (!content || state.reply) return;
  if (!state.session) state.session = await call("POST", "/sessions", {});
  // The box is emptied once the message is stored.
  const begun = await call("POST", `/sessions/${state.session.id}/turns`, { content, expected_head: state.session.head });
  by("message").value = "";
  await open(begun.session);
}

async function begin(what, body) {
  await open((await call("POST", `/sessions/${state.session.id}/${what}`, body)).session);
}

// --- a reply as it comes

async function watch(reply) {
  const aborter = new AbortController();
  state.reply = { id: reply, aborter };
  by("send").textContent = "Stop";
  const body = el("div", { class: "body tokens caret" });
  by("messages").append(el("li", { class: "message assistant", "aria-busy": "true" }, el("div", { class: "who" }, "assistant"), body));
  const box = by("conversation");
  let failed = null;
  try {
    await follow(`/replies/${reply}/events`, (name, data) => {
      if (name === "token") {
        const near = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
        body.append(data.text);
        if (near) box.scrollTop = box.scrollHeight;
      } else if (name === "done") {
        say(data.reason === "stop" ? "" : `ended: ${data.reason}`);
      } else if (name === "failed") {
        failed = data.error.message;
      }
    }, { signal: aborter.signal });
  } catch (error) {
    if (aborter.signal.aborted) return;
    failed = error.message;
  }
  stopFollowing();
  if (failed) say(failed, true);
  else await open(state.session.id);
}

function stopFollowing() {
  state.reply?.aborter.abort();
  state.reply = null;
  by("send").textContent = "Send";
}

async function stop() {
  if (state.reply) await call("DELETE", `/replies/${state.reply.id}`);
}

// --- probabilities

async function shade(message, body) {
  const why = await call("GET", `/sessions/${state.session.id}/why?reply=${message.reply}`).catch((error) => {
    say(error.message, true);
    return null;
  });
  if (!why) return;
  const place = el("div");
  const tokens = why.tokens.map((token) => {
    const chance = token.forced ? 1 : token.chosen.before;
    const level = [0.9, 0.6, 0.3, 0.1].findIndex((bound) => chance >= bound);
    const percent = `${(100 * chance).toFixed(1)} %`;
    return el("button", {
      type: "button", class: `token p${level < 0 ? 4 : level}${token.forced ? " forced" : ""}`, "aria-expanded": "false",
      title: token.forced ? "kept from the reply that this one was forked from" : percent,
      onclick: ({ currentTarget }) => {
        for (const each of body.querySelectorAll("[aria-expanded=true]")) each.setAttribute("aria-expanded", "false");
        currentTarget.setAttribute("aria-expanded", "true");
        place.replaceChildren(alternatives(message, token));
      },
    }, token.chosen.text);
  });
  body.classList.add("tokens");
  body.replaceChildren(...tokens, place);
}

function alternatives(message, token) {
  const forkHere = (values, text, label) => el("button", {
    type: "button", "aria-label": label,
    onclick: attempt(async () => {
      const begun = await fork({ reply: Number(message.reply), keep: token.index, ...values });
      state.shaded.clear();
      await open(begun.session);
    }),
  }, text);
  const rows = token.candidates.map((each) => el("tr", { class: each.token_id === token.chosen.token_id ? "chosen" : "" },
    el("td", {}, JSON.stringify(each.text)),
    el("td", {}, `${(100 * each.before).toFixed(2)} %`),
    el("td", {}, forkHere({ token: each.token_id }, "Fork here", `Fork here with ${JSON.stringify(each.text)}`))));
  return el("div", { class: "why", role: "region", "aria-label": "What else could stand here" },
    el("table", {}, el("caption", { class: "faint" }, `Token ${token.index}`), el("tbody", {}, ...rows)),
    forkHere({}, "Fork here, drawn anew", "Fork before this token, drawn anew"));
}

// --- the panel

function showPanel() {
  const panel = by("panel");
  panel.hidden = !state.panel || (state.panel === "tree" && !state.session);
  by("show-tree").setAttribute("aria-pressed", String(state.panel === "tree"));
  by("show-settings").setAttribute("aria-pressed", String(state.panel === "settings"));
  if (panel.hidden) return;
  panel.replaceChildren(state.panel === "tree" ? drawTree(state.tree, attempt(goTo)) : settingsForm());
}

function toggle(name) {
  state.panel = state.panel === name ? null : name;
  showPanel();
}

function settingsForm() {
  const { session, info } = state;
  const system = session?.messages.filter((each) => each.role === "system").at(-1)?.content ?? (session ? "" : info.system);
  const shown = (key, value) => (session ? (key === "seed" ? session.seed : session.settings[key] ?? "none") : value);
  const text = (value) => (value === true ? "on" : value === false ? "off" : String(value));
  const fields = info.settings.map((setting) => el("div", { class: "field" },
    el("label", { for: `set-${setting.key}` }, setting.key),
    el("input", { id: `set-${setting.key}`, name: setting.key, value: text(shown(setting.key, setting.default)), title: `${setting.meaning} (${setting.allowed})`, autocomplete: "off" })));
  const area = el("textarea", { id: "set-system", rows: "4" });
  area.value = system;
  return el("form", {
    onsubmit: attempt(async (event) => {
      const values = Object.fromEntries([...new FormData(event.target)]);
      const changed = area.value === system ? {} : { system: area.value };
      state.session = state.session
        ? await call("PATCH", `/sessions/${state.session.id}`, { settings: values, ...changed })
        : await call("POST", "/sessions", { settings: values, system: area.value });
      await open(state.session.id);
      say("settings saved; they hold from the next reply on");
    }),
  }, el("h3", {}, "Settings"), el("div", { class: "field" }, el("label", { for: "set-system" }, "system prompt"), area), ...fields, el("button", { class: "main" }, "Save"));
}

async function replay() {
  say("replaying…");
  state.verdicts.clear();
  const name = state.session.id;
  await follow(`/sessions/${name}/replay?every_branch=true`, (event, data) => {
    if (event === "progress") say(`replaying: ${data.done} of ${data.of}`);
    else if (event === "verdict") state.verdicts.set(data.message, data);
    else if (event === "summary") say(`replay: ${data.kind.replace("_", " ")}; digest ${data.digest.slice(0, 16)}…`);
    else if (event === "failed") say(data.error.message, true);
  }, { resumable: false });
  if (state.session?.id === name) show();
}

async function save() {
  const address = URL.createObjectURL(await download(`/sessions/${state.session.id}/export?format=jsonl`));
  el("a", { href: address, download: `session-${state.session.id}.jsonl` }).click();
  URL.revokeObjectURL(address);
}

// --- what a person presses

function closeMenu() {
  by("sidebar").classList.remove("open");
  by("menu").setAttribute("aria-expanded", "false");
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

by("new").addEventListener("click", startNew);
by("search").addEventListener("input", attempt(listSessions));
by("menu").addEventListener("click", () => {
  by("menu").setAttribute("aria-expanded", String(by("sidebar").classList.toggle("open")));
});
by("rename").addEventListener("click", attempt(async () => {
  const name = await ask("Rename the session", "Its name:", state.session.name);
  if (name?.trim()) { await call("PATCH", `/sessions/${state.session.id}`, { name: name.trim() }); await open(state.session.id); }
}));
by("show-tree").addEventListener("click", () => toggle("tree"));
by("show-settings").addEventListener("click", () => toggle("settings"));
by("replay").addEventListener("click", attempt(replay));
by("export").addEventListener("click", attempt(save));
by("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const theme = dark === "dark" ? "light" : "dark";
  localStorage.setItem("niels-theme", theme);
  setTheme(theme);
});
by("composer").addEventListener("submit", attempt(() => (state.reply ? stop() : send())));
by("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!state.reply) by("composer").requestSubmit(); }
});
document.addEventListener("keydown", (event) => {
  const shortcut = event.key === "Escape" && !by("ask").open ? async () => { await stop(); closeMenu(); }
    : event.ctrlKey && event.key === "k" ? () => by("search").focus()
    : event.altKey && event.key === "n" ? startNew
    : event.altKey && event.key === "t" && state.session ? () => toggle("tree")
    : null;
  if (shortcut) attempt(shortcut)(event);
});
window.addEventListener("hashchange", attempt(() => openNamed()));

async function openNamed() {
  const id = Number(location.hash.slice(1));
  if (id) await open(id);
}

setTheme(localStorage.getItem("niels-theme"));
await attempt(async () => {
  state.info = await call("GET", "/info");
  by("model").textContent = `${state.info.model} · ${state.info.fingerprint}`;
  show();
  await listSessions();
  await openNamed();
})();
