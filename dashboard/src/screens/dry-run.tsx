// What would happen to a request now: nothing is sent.

import { useState } from "preact/hooks";
import { post } from "../api";
import * as format from "../format";
import { Badge, Button, Field } from "../parts/bits";
import { Dialog } from "../parts/dialog";
import { coded, Facts, to } from "../parts/facts";
import { ShortTable } from "../parts/short-table";
import type { Candidate, DryRunAnswer } from "../shapes";
import { t } from "../words";

const ENDPOINTS = ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"];
const EXAMPLE = `{
  "model": "gpt-4o-mini",
  "messages": [{"role": "user", "content": "Hello"}]
}`;
const TONES = { served_now: "good", waits: "warn", refused: "bad" } as const;

export function DryRunDrawer({ client: first, onClose }: { client: string; onClose: () => void }) {
  const [body, setBody] = useState(EXAMPLE);
  const [endpoint, setEndpoint] = useState(ENDPOINTS[0]!);
  const [client, setClient] = useState(first);
  const [answer, setAnswer] = useState<DryRunAnswer | null>(null);
  const ask = async () => {
    setAnswer(null);
    setAnswer(await post("/dry-run", { body: JSON.parse(body), endpoint, client: client || null }));
  };
  return (
    <Dialog kind="drawer" title={t("dry-run")} onClose={onClose}>
      <p class="muted">{t("dry-run-about")}</p>
      <div class="form">
        <div class="pair">
          <Field label={t("endpoint")} value={endpoint} onInput={setEndpoint} list={ENDPOINTS} />
          <Field label={t("client")} value={client} onInput={setClient} />
        </div>
        <Field label="JSON" value={body} onInput={setBody} rows={8} />
        <p>
          <Button kind="primary" onClick={ask}>
            {t("ask")}
          </Button>
        </p>
      </div>
      <div role="status" class="content">{answer && <Answer of={answer} />}</div>
    </Dialog>
  );
}

const amounts = (of: Record<string, number>) => Object.entries(of).map(([name, n]) => `${format.count(n)} ${format.unit(name)}`).join(" · ");

function Answer({ of }: { of: DryRunAnswer }) {
  return (
    <>
      <p class="lead">
        <Badge tone={TONES[of.verdict]}>{t(`verdict.${of.verdict}`)}</Badge> {coded(of.cause)}
      </p>
      <Facts of={[
        [t("model"), of.model + (of.group === of.model ? "" : ` (${of.group})`)],
        [t("reserves"), amounts(of.reserve)],
        [t("cost"), `≤ ${format.usd(of.usd_at_most)}`],
        [t("rules"), of.rules.join(", ") || "–"],
        [t("cache"), of.cache ? coded(of.cache.cause) : "–"],
      ]} />
      <Candidates title={t("candidates")} of={of.candidates} />
      <Candidates title={t("out-n", { n: of.out_count })} of={of.out} />
    </>
  );
}

const Candidates = ({ title, of }: { title: string; of: Candidate[] }) => (
  <ShortTable orNone title={title} heads={[t("account"), t("screen.keys"), t("left"), t("reason")]}
    rows={of.map((one) => [
      to("money", one.account),
      one.keys,
      amounts(one.room),
      <>{coded(one.why_not)} {one.wait_s ? t("in", { span: format.seconds(one.wait_s) }) : null}</>,
    ])} />
);
