// Calls of the native surface, and streams that continue where they broke.

import { ask } from "/page/dom.js";

const KEY = "niels-key";

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function checked(send) {
  let response = await send();
  while (response.status === 401) {
    const key = await ask("API key", "This server asks for its key:");
    if (key === null) break;
    sessionStorage.setItem(KEY, key.trim());
    response = await send();
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    const error = new Error(body?.error?.message ?? `the server answered ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return response;
}

export async function call(method, path, body) {
  const response = await checked(() => fetch(`/api${path}`, {
    method,
    headers: { ...headers(), ...(body === undefined ? {} : { "content-type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  }));
  return response.json();
}

export async function download(path) {
  const response = await checked(() => fetch(`/api${path}`, { headers: headers() }));
  return response.blob();
}

// Hand each event of a stream to `take` until it ends. A connection that is lost is made again behind the last
// event; `resumable` false: the stream is read once.
export async function follow(path, take, { signal, resumable = true } = {}) {
  let after = -1;
  for (let tries = 0; ; tries += 1) {
    try {
      const separator = path.includes("?") ? "&" : "?";
      const address = `/api${path}${resumable ? `${separator}after=${after}` : ""}`;
      const response = await checked(() => fetch(address, { headers: headers(), signal }));
      for await (const event of events(response.body)) {
        after = event.number;
        tries = 0;
        take(event.name, event.data);
        if (["done", "failed", "summary"].includes(event.name)) return;
      }
      if (!resumable) return;
    } catch (error) {
      if (signal?.aborted || error.status || !resumable) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(200 * 2 ** tries, 5000)));
  }
}

async function* events(stream) {
  const decoder = new TextDecoder();
  let buffer = "";
  for await (const bytes of chunks(stream)) {
    buffer += decoder.decode(bytes, { stream: true });
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const fields = {};
      for (const line of buffer.slice(0, end).split("\n")) {
        const colon = line.indexOf(":");
        fields[line.slice(0, colon)] = line.slice(colon + 2);
      }
      buffer = buffer.slice(end + 2);
      yield {
        number: Number(fields.id.slice(fields.id.lastIndexOf(":") + 1)),
        name: fields.event,
        data: JSON.parse(fields.data),
      };
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
