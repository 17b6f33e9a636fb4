// Elements from values. Text goes in as text nodes, never as markup.

export function el(name, attributes = {}, ...children) {
  const element = name.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export const by = (id) => document.getElementById(id);

// A question in a dialog; null when it was cancelled.
export function ask(title, label, value = "") {
  const dialog = by("ask");
  by("ask-title").textContent = title;
  by("ask-label").textContent = label;
  by("ask-value").value = value;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "ok" ? by("ask-value").value : null);
    }, { once: true });
  });
}
