// What clients could do to need less of the pool: from counts of the last days, in the reader's words.

import * as format from "../format";
import { useLoaded } from "../load";
import { Panel } from "../parts/bits";
import { Read } from "../parts/reading";
import { link } from "../place";
import type { AdviceRow, AdviceRows } from "../shapes";
import { t } from "../words";

function saving({ usd_per_month, tpm, rpm }: AdviceRow): string {
  const parts = [
    usd_per_month ? t("per-month", { usd: format.usd(usd_per_month) }) : "",
    tpm ? t("more-tpm", { share: format.share(tpm) }) : "",
    rpm ? t("more-rpm", { share: format.share(rpm) }) : "",
  ];
  return parts.filter(Boolean).join(" · ");
}

function sentence({ kind, facts }: AdviceRow): string {
  const values: Record<string, string> = {};
  for (const [name, value] of Object.entries(facts)) {
    values[name] = name === "share" ? format.share(value) : name === "usd" ? format.usd(value) : format.whole(value);
  }
  values["repeated"] = format.share((facts["repeats"] ?? 0) / (facts["requests"] || 1));
  values["each"] = format.whole((facts["in_bursts"] ?? 0) / (facts["bursts"] || 1));
  values["way"] = facts["flex"] ? "service_tier: flex" : "Batch API";
  return t(`advice.${kind}`, values);
}

export const Advice = () => (
  <>
    <div class="head">
      <h1>{t("screen.advice")}</h1>
    </div>
    <Read of={useLoaded<AdviceRows>("/advice", 60)}>
      {({ enabled, days, requests, rows }) => (
        <>
          {!enabled && <p class="note">{t("advice-off")}</p>}
          <p class="lead">{requests ? t("advice-from", { n: format.whole(requests), span: format.seconds(days * 86_400) }) : t("advice-nothing")}</p>
          {requests > 0 && !rows.length && <p class="muted">{t("advice-none")}</p>}
          {rows.map((row) => (
            <Panel key={[row.kind, row.client, row.model].join(" ")} title={saving(row)}
              aside={<small>{row.client ? <a href={link("clients", {}, row.client)}>{row.client}</a> : t("anonymous")} · {row.model}</small>}>
              <p>{sentence(row)}</p>
              <details>
                <summary>{t("how-computed")}</summary>
                <p lang="en">{row.how}</p>
              </details>
            </Panel>
          ))}
        </>
      )}
    </Read>
  </>
);
