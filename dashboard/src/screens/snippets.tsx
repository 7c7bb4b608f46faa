// How programs are told to use the proxy. The facts are those of docs/clients.md; Open WebUI and Continue are not tried there.

import { useEffect, useRef, useState } from "preact/hooks";
import { Button, Choice, Copy, Field, Panel } from "../parts/bits";
import { t } from "../words";

const MODEL = "gpt-4o-mini";

/** Of each program what to write; `url` ends in /v1. */
const programs = (url: string, key: string): Record<string, string> => ({
  [t("variables")]: `export OPENAI_BASE_URL=${url}
export OPENAI_API_KEY=${key}`,
  Python: `from openai import OpenAI

client = OpenAI(base_url="${url}")  # reads OPENAI_API_KEY`,
  Node: `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${url}" }); // reads OPENAI_API_KEY`,
  curl: `curl -sS --fail-with-body "${url}/chat/completions" \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${MODEL}", "messages": [{"role": "user", "content": "Say hello."}]}'`,
  "Codex CLI": `# ~/.codex/config.toml
model = "gpt-5.4"
model_provider = "pool"

[model_providers.pool]
name = "Quotapool"
base_url = "${url}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
supports_websockets = true
request_max_retries = 0`,
  OpenCode: `{
  "model": "pool/${MODEL}",
  "small_model": "pool/${MODEL}",
  "provider": {
    "pool": {
      "npm": "@ai-sdk/openai",
      "name": "Quotapool",
      "options": {"baseURL": "${url}", "apiKey": "{env:OPENAI_API_KEY}"},
      "models": {"${MODEL}": {"name": "${MODEL}"}}
    }
  }
}`,
  "Open WebUI": `docker run -p 3000:8080 -e OPENAI_API_BASE_URL=${url} -e OPENAI_API_KEY \\
  -v open-webui:/app/backend/data ghcr.io/open-webui/open-webui:main`,
  aider: `export OPENAI_API_BASE=${url}
aider --model openai/${MODEL}`,
  Continue: `# config.yaml
name: Quotapool
version: 0.0.1
schema: v1
models:
  - name: ${MODEL}
    provider: openai
    model: ${MODEL}
    apiBase: ${url}
    apiKey: ${key}`,
  LangChain: `from langchain_openai import ChatOpenAI

chat = ChatOpenAI(model="${MODEL}", base_url="${url}")  # reads OPENAI_API_KEY`,
});

export function Snippets({ secret }: { secret: string }) {
  const [url, setUrl] = useState(`http://${location.hostname}:8080/v1`);
  const [chosen, setChosen] = useState(t("variables"));
  const all = programs(url, secret);
  const text = all[chosen] ?? "";
  return (
    <div class="form snippets">
      <Field label={t("base-url")} value={url} onInput={setUrl} />
      <Choice label={t("how-to-connect")} value={chosen} onChange={setChosen} options={Object.keys(all).map((name) => [name, name])} />
      <pre tabIndex={0}>{text}</pre>
      <p><Copy text={text} /></p>
    </div>
  );
}

/** A client's new key. It stays until it is put away: nobody can show it again. */
export function NewKey({ id, secret, onClose }: { id: string; secret: string; onClose: () => void }) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => box.current?.focus(), [secret]);
  return (
    <div ref={box} tabIndex={-1}>
      <Panel title={t("new-key", { id })} aside={<Button onClick={onClose}>{t("key-kept")}</Button>}>
        <div class="form">
          <p>{t("shown-once")}</p>
          <p class="buttons"><code>{secret}</code> <Copy text={secret} /></p>
          <Snippets secret={secret} />
        </div>
      </Panel>
    </div>
  );
}
