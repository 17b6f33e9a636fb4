// The tree of a session's messages, drawn: a row for each depth, a column for each branch.

import { el } from "/page/dom.js";

const ACROSS = 46;
const DOWN = 44;

export function childrenOf(messages) {
  const children = new Map();
  for (const message of messages) {
    if (!children.has(message.parent)) children.set(message.parent, []);
    children.get(message.parent).push(message);
  }
  return children;
}

// The newest message below one, or itself: where a conversation continues from.
export function newestLeaf(messages, message) {
  const children = childrenOf(messages);
  let at = message;
  while (children.get(at.id)?.length) at = children.get(at.id).at(-1);
  return at;
}

export function pathTo(messages, id) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = new Set();
  for (let at = byId.get(id); at; at = byId.get(at.parent)) path.add(at.id);
  return path;
}

export function drawTree({ messages, head }, choose) {
  const children = childrenOf(messages);
  const places = new Map();
  let columns = 0;
  let rows = 0;
  // Without recursion: a conversation may be thousands of messages deep.
  const stack = [...(children.get(null) ?? [])].reverse().map((message) => ({ message, row: 0, first: false }));
  while (stack.length) {
    const { message, row, column } = stack.pop();
    const own = column ?? columns;
    if (column === undefined) columns += 1;
    places.set(message.id, { message, x: 16 + own * ACROSS, y: 16 + row * DOWN });
    rows = Math.max(rows, row + 1);
    const below = children.get(message.id) ?? [];
    for (let index = below.length - 1; index >= 0; index -= 1) {
      stack.push({ message: below[index], row: row + 1, column: index ? undefined : own });
    }
  }
  const on = pathTo(messages, head);
  const edges = [];
  const nodes = [];
  for (const { message, x, y } of places.values()) {
    const parent = places.get(message.parent);
    const onPath = on.has(message.id);
    if (parent) {
      const bend = `M${parent.x} ${parent.y} C${parent.x} ${y} ${x} ${parent.y} ${x} ${y}`;
      edges.push(el("svg:path", { d: bend, class: `edge${onPath ? " on" : ""}` }));
    }
    const words = message.content.replace(/\s+/g, " ").slice(0, 80);
    const label = `${message.role}: ${words || "(empty)"}${message.id === head ? ", here" : ""}`;
    const go = () => choose(message);
    nodes.push(el("svg:g", {
      class: `${message.role}${onPath ? " on" : ""}${message.id === head ? " head" : ""}`,
      tabindex: "0", role: "button", "aria-label": label, transform: `translate(${x} ${y})`, "data-message": message.id,
      onclick: go,
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); go(); } },
    }, el("svg:title", {}, label), el("svg:circle", { r: message.role === "user" ? 8 : 11 })));
  }
  const size = { width: 16 + columns * ACROSS, height: 16 + rows * DOWN };
  return el("svg:svg", { ...size, "aria-label": "Tree of the session's messages", role: "group" }, ...edges, ...nodes);
}
