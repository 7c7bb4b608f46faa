// Signing in: with the admin token, or through the identity provider.

import { useEffect, useState } from "preact/hooks";
import { loginMethods, signIn } from "../api";
import { Field, words } from "../parts/bits";
import { Looks } from "../parts/shell";
import type { LoginMethods } from "../shapes";
import { t } from "../words";

export function Login() {
  const [methods, setMethods] = useState<LoginMethods | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [token, setToken] = useState("");
  useEffect(() => {
    loginMethods().then(setMethods, setProblem);
  }, []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setProblem(null);
    try {
      await signIn(token.trim());
    } catch (error) {
      setProblem(error);
    }
  };
  return (
    <main class="login">
      <h1>Quotapool</h1>
      {methods?.oidc && (
        <p>
          <a class="button primary" href="/login/oidc">
            {t("sign-in-with", { name: methods.oidc })}
          </a>
        </p>
      )}
      {methods?.token !== false && (
        <form onSubmit={submit}>
          <Field label={t("admin-token")} value={token} onInput={setToken} type="password" required hint={t("admin-token-hint")} />
          <button type="submit" class="primary" disabled={!token.trim()}>
            {t("sign-in")}
          </button>
        </form>
      )}
      {problem !== null && (
        <p class="problem" role="alert">
          {words(problem)}
        </p>
      )}
      <p class="muted">{t("one-time-link")} <code>quotapool dashboard</code></p>
      <Looks />
    </main>
  );
}
