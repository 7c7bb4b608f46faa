// A value that several parts of the page show: those that use it are drawn again when it changes.

import { useEffect, useState } from "preact/hooks";

export class Value<T> {
  private readonly listeners = new Set<() => void>();

  constructor(private current: T) {}

  get(): T {
    return this.current;
  }

  set(next: T): void {
    if (Object.is(next, this.current)) return;
    this.current = next;
    for (const listener of [...this.listeners]) listener();
  }

  onChange(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

export function useValue<T>(value: Value<T>): T {
  const [, drawAgain] = useState(0);
  const shown = value.get();
  useEffect(() => {
    const stop = value.onChange(() => drawAgain((n) => n + 1));
    if (!Object.is(shown, value.get())) drawAgain((n) => n + 1); // it changed after it was drawn, before this
    return stop;
  }, [value]);
  return shown;
}
