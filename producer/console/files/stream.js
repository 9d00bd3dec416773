// Server-sent events over fetch: an EventSource could not send the key.

const SILENCE_MS = 5000; // a connection that says nothing for so long is a dead one
const PAUSES_MS = [500, 1000, 2000, 4000];

const REFUSED = {
  401: "This key is not known, or was revoked.",
  403: "This key does not allow watching: it needs the scope operator:read or operator.",
};

// Follow the summaries until the returned function is called. `on` hears viewer, trail, summary,
// refused(said) when the key is of no use, and broken() when the connection is.
export function follow(key, on) {
  let over = false;
  let control = new AbortController();
  let failures = 0;

  async function once() {
    control = new AbortController();
    let silence = setTimeout(() => control.abort(), SILENCE_MS);
    try {
      const reply = await fetch("v1/operator/summary/stream", {
        headers: { authorization: `Bearer ${key}`, accept: "text/event-stream" },
        cache: "no-store",
        credentials: "omit",
        signal: control.signal,
      });
      if (REFUSED[reply.status] && !over) return on.refused(REFUSED[reply.status]);
      if (!reply.ok) return on.broken();
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done || over) return on.broken();
        clearTimeout(silence);
        silence = setTimeout(() => control.abort(), SILENCE_MS);
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        for (const part of parts) hear(part);
        failures = 0;
      }
    } catch {
      if (!over) on.broken();
    } finally {
      clearTimeout(silence);
    }
  }

  function hear(part) {
    const lines = part.split("\n");
    const of = (name) =>
      lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length)).join("\n");
    const heard = on[of("event: ")];
    if (heard && !over) heard(JSON.parse(of("data: ")));
  }

  (async () => {
    while (!over) {
      await once();
      const pause = PAUSES_MS[Math.min(failures++, PAUSES_MS.length - 1)];
      await new Promise((wake) => setTimeout(wake, pause));
    }
  })();
  return () => {
    over = true;
    control.abort();
  };
}
