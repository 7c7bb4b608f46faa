// Somebody uses an account without the pool: how much, since when, and what it may cost.

import * as format from "../format";
import { now } from "../live";
import type { OutsideUseRow } from "../shapes";
import { useValue } from "../value";
import { t } from "../words";
import { Badge } from "./bits";

/** Of an account, as it was told last. */
export const useOutside = (account: string): OutsideUseRow[] => (useValue(now)?.outside_use ?? []).filter((row) => row.account === account);

export function OutsideMark({ account }: { account: string }) {
  return useOutside(account).length > 0 && <Badge tone="warn">{t("outside-use")}</Badge>;
}

export function OutsideNote({ of }: { of: OutsideUseRow[] }) {
  return (
    <>
      {of.map((row) => (
        <p key={row.model} class="note">
          <strong>{t("outside-use")}</strong> {inWords(row)} <span class="muted">{format.ago(row.since)}</span>
        </p>
      ))}
    </>
  );
}

function inWords({ model, requests_per_minute: requests, tokens_per_minute: tokens, usd_per_hour: usd }: OutsideUseRow): string {
  const rates = t("outside-rates", { model, requests: format.count(requests), tokens: format.count(tokens) });
  return usd === null ? rates : `${rates} ${t("outside-cost", { usd: format.usd(usd) })}`;
}
