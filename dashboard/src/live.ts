// What the proxy tells by itself, by one stream for the whole page: the pool every two seconds, new requests and events.

import type { Event as PoolEvent, Now, RequestRow } from "./shapes";
import { session } from "./api";
import { Value } from "./value";

const MOST = 1_000; // rows that are kept of each

export const now = new Value<Now | null>(null);
export const requests = new Value<RequestRow[]>([]); // that ended since the page is open, the newest first
/** Requests that ended but are not told: there were too many at once. */
export const skipped = new Value(0);
export const events = new Value<PoolEvent[]>([]);
/** Whether the stream is there; `false` also before its first message. */
export const connected = new Value(false);

let stream: EventSource | null = null;
let again: ReturnType<typeof setTimeout> | undefined;

function read<T>(name: string, take: (data: T) => void): void {
  stream?.addEventListener(name, (message) => {
    connected.set(true);
    take(JSON.parse((message as MessageEvent<string>).data) as T);
  });
}

/** A browser opens a broken stream again by itself, unless it was refused: then we do. */
function open(): void {
  stream = new EventSource("/admin/stream");
  read<Now>("now", (data) => now.set(data));
  read<{ requests: RequestRow[]; skipped: number }>("requests", (data) => {
    requests.set([...[...data.requests].reverse(), ...requests.get()].slice(0, MOST));
    skipped.set(skipped.get() + data.skipped);
  });
  read<{ events: PoolEvent[] }>("events", (data) => events.set([...[...data.events].reverse(), ...events.get()].slice(0, MOST)));
  stream.onerror = () => {
    connected.set(false);
    if (stream?.readyState === EventSource.CLOSED) {
      close();
      again = setTimeout(follow, 5_000);
    }
  };
}

function close(): void {
  clearTimeout(again);
  stream?.close();
  stream = null;
  connected.set(false);
}

function follow(): void {
  if (session.get() && !document.hidden) {
    if (stream === null) open();
  } else close();
}

/** One stream while somebody is signed in and looks at the page. */
export function start(): void {
  session.onChange(follow);
  document.addEventListener("visibilitychange", follow);
  follow();
}
