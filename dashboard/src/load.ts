// Reading something from the admin API for as long as a part of the page shows it.

import { useCallback, useEffect, useState } from "preact/hooks";
import { get } from "./api";

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  again: () => void;
}

/** Of another path, the old data stays until the new is there. `every`: seconds, after which it is read again; 0: never.
 *  An empty path reads nothing. */
export const useLoaded = <T>(path: string, every = 0): Loaded<T> => useReading((signal) => get<T>(path, signal), path, every);

/** The same for what takes several calls: `of` names it, and says when it is something else. */
export function useReading<T>(reader: (signal: AbortSignal) => Promise<T>, of: string, every = 0): Loaded<T> {
  const [state, setState] = useState<{ data: T | null; error: unknown }>({ data: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (!of) return;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const read = async () => {
      try {
        const data = await reader(stop.signal);
        if (!stop.signal.aborted) setState({ data, error: null });
      } catch (error) {
        if (!stop.signal.aborted) setState(({ data }) => ({ data, error }));
      }
      if (every && !stop.signal.aborted) timer = setTimeout(read, every * 1_000);
    };
    void read();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [of, every, turn]);
  const again = useCallback(() => setTurn((n) => n + 1), []);
  return { ...state, again };
}
