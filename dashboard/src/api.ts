// Calls of the admin API. Who is signed in, by a cookie that scripts cannot read, is in `session`.

import type { LoginMethods, OperatorSession } from "./shapes";
import { Value } from "./value";

/** null: nobody is signed in; undefined: not known yet. */
export const session = new Value<OperatorSession | null | undefined>(undefined);

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export type Method = "GET" | "POST" | "PATCH" | "DELETE";

/** Raises ApiError: the proxy's own words, or `network` where no answer came. */
export async function call<T>(method: Method, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const csrf = session.get()?.csrf;
  if (method !== "GET" && csrf) headers["X-Quotapool-CSRF"] = csrf;
  let answer: Response;
  try {
    answer = await fetch(`/admin${path}`, {
      method,
      headers,
      credentials: "same-origin",
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "network", "");
  }
  if (answer.ok) return (await answer.json()) as T;
  const { code, message } = await errorOf(answer);
  if (answer.status === 401 && path !== "/login") session.set(null);
  throw new ApiError(answer.status, code, message);
}

async function errorOf(answer: Response): Promise<{ code: string; message: string }> {
  try {
    const { error } = (await answer.json()) as { error: { code: string; message: string } };
    return error;
  } catch {
    return { code: String(answer.status), message: answer.statusText };
  }
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => call<T>("GET", path, undefined, signal);
export const post = <T>(path: string, body: unknown = {}): Promise<T> => call<T>("POST", path, body);
export const patch = <T>(path: string, body: unknown): Promise<T> => call<T>("PATCH", path, body);
export const remove = <T>(path: string): Promise<T> => call<T>("DELETE", path);

/** A path of names that may hold anything: `path("/keys", id, "probe")`. */
export const path = (head: string, ...names: string[]): string =>
  [head, ...names.map((name) => encodeURIComponent(name))].join("/");

/** `?a=1&b=2` of those that are given. */
export function query(given: Record<string, string | number | boolean | null | undefined>): string {
  const pairs = Object.entries(given).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return pairs.length ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : "";
}

export async function findSession(): Promise<void> {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code !== null) {
    history.replaceState(null, "", "/"); // a one-time link leaves no trace in the address bar
    try {
      session.set(await post<OperatorSession>("/login", { code }));
      return;
    } catch {
      // It was used before, or is too old: whoever is signed in stays so.
    }
  }
  try {
    const { signed_in } = await loginMethods();
    session.set(signed_in ? await get<OperatorSession>("/session") : null);
  } catch {
    session.set(null);
  }
}

export const loginMethods = (): Promise<LoginMethods> => get<LoginMethods>("/login-methods");

export async function signIn(token: string): Promise<void> {
  session.set(await post<OperatorSession>("/login", { token }));
}

export async function signOut(): Promise<void> {
  try {
    await post("/logout");
  } finally {
    session.set(null);
  }
}

export const mayChange = (): boolean => session.get()?.role === "operator";
