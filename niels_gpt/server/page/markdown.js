// Markdown as elements: paragraphs, headings, lists, quotes, code, emphasis and links. No HTML passes through.

import { el } from "/page/dom.js";

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/;

export function markdown(text) {
  const root = el("div", { class: "body" });
  const lines = text.split("\n");
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) root.append(el("p", {}, ...inline(paragraph.join("\n"))));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    const fence = /^\s*(```+|~~~+)\s*(\S*)/.exec(line);
    const item = /^\s*(?:([-*+])|(\d+)[.)])\s+(.*)/.exec(line);
    const heading = /^(#{1,6})\s+(.*)/.exec(line);
    if (fence) {
      flush();
      const code = [];
      for (at += 1; at < lines.length && !lines[at].trim().startsWith(fence[1]); at += 1) code.push(lines[at]);
      root.append(el("pre", { tabindex: "0" }, el("code", {}, code.join("\n"))));
    } else if (heading) {
      flush();
      root.append(el("h3", {}, ...inline(heading[2])));
    } else if (item) {
      flush();
      const kind = item[1] ? "ul" : "ol";
      let list = root.lastElementChild;
      if (list?.localName !== kind) root.append(list = el(kind, kind === "ol" ? { start: item[2] } : {}));
      list.append(el("li", {}, ...inline(item[3])));
    } else if (/^\s*>/.test(line)) {
      flush();
      let quote = root.lastElementChild;
      if (quote?.localName !== "blockquote") root.append(quote = el("blockquote"));
      quote.append(el("p", {}, ...inline(line.replace(/^\s*>\s?/, ""))));
    } else if (line.trim()) {
      paragraph.push(line);
    } else {
      flush();
    }
  }
  flush();
  return root;
}

function inline(text) {
  const found = INLINE.exec(text);
  if (!found) return broken(text);
  const [whole, , code, strong, emphasis, label, address] = found;
  const middle = code !== undefined ? el("code", {}, code)
    : strong !== undefined ? el("strong", {}, strong)
    : emphasis !== undefined ? el("em", {}, emphasis)
    : el("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, label);
  const end = found.index + whole.length;
  return [...broken(text.slice(0, found.index)), middle, ...inline(text.slice(end))];
}

function broken(text) {
  return text.split("\n").flatMap((line, number) => (number ? [el("br"), line] : [line])).filter((each) => each !== "");
}
