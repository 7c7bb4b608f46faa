// That others use an account, too: by which model, how much, since when, and what to do.

import * as format from "../format";
import { Time } from "../parts/bits";
import type { OutsideUse } from "../shapes";
import { t } from "../words";

export function OutsideNote({ of = [] }: { of: OutsideUse[] | undefined }) {
  if (!of.length) return null;
  return (
    <div class="note">
      <strong>{t("reason.outside_use")}</strong> {t("outside-what")}
      <ul>
        {of.map((one) => (
          <li key={one.model}>
            {one.model}: {t("outside-rate", { requests: format.count(Math.round(one.requests_per_minute)), tokens: format.count(Math.round(one.tokens_per_minute)) })}
            {one.usd_per_hour !== null && ` ${t("outside-cost", { usd: format.usd(one.usd_per_hour) })}`} ({t("since")} <Time at={one.since} />)
          </li>
        ))}
      </ul>
    </div>
  );
}
